"""Numbers of cross-connections: handed out by the node, kept while a link has them, and nobody's to choose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.node.plane import desired as plan
from controller.node.plane import numbers
from controller.node.plane.changes import Forget, Set, changes
from controller.node.plane.cluster import Cluster
from controller.node.plane.model import DataPlane, HostLink, LinkEntry, LinkState, by_pod
from controller.node.plane.numbers import Allocation, Numbered, Numbers, NumbersExhaustedError, former_number, numbered
from controller.node.plane.plan import Plan
from controller.node.plane.replica import Replica, replica_of
from sfc.chain import Chain, Side
from sfc.reading import chain_of
from tests.unit import objects

LEFT, RIGHT = Numbered("u1", "telco", "a"), Numbered("u1", "telco", "b")


def two_stages(name: str, created: str = "2026-01-01T00:00:00Z", namespace: str = "telco") -> Chain:
    stages = [{"name": stage, "interfaces": [{"name": "eth"}]} for stage in ("one", "two")]
    metadata = {"namespace": namespace, "name": name, "uid": f"uid-{name}", "creationTimestamp": created}
    return chain_of({"metadata": metadata, "spec": {"stages": stages}})


def node(*chains: Chain) -> tuple[Cluster, tuple[HostLink, ...]]:
    """One replica of each stage of each chain, with its link."""
    replicas: dict[str, Replica] = {}
    links = []
    for chain in chains:
        for stage in chain.stages:
            pod = objects.pod(f"{chain.name}-{stage.name}", stage.name)
            pod["metadata"] |= {"namespace": chain.namespace}
            pod["metadata"]["labels"] |= {"sfc.dev/chain": chain.name}
            replica = plan_replica(pod)
            replicas[replica.uid] = replica
            links.append(objects.link(len(links) + 1, replica.name, "eth", filter_slot=len(links) + 1))
    return Cluster({(chain.namespace, chain.name): chain for chain in chains}, replicas), tuple(links)


def plan_replica(pod: dict[str, Any]) -> Replica:
    found = replica_of(pod)
    assert found
    return found


def desired(of: Cluster | None, links: tuple[HostLink, ...], actual: DataPlane | Plan, before: Plan) -> Plan:
    return plan.desired(of, by_pod(links), {}, actual, before)


EDGE, CORE = two_stages("edge"), two_stages("core")


def test_cross_connections_get_small_numbers_of_their_own() -> None:
    made = desired(*node(EDGE, CORE), DataPlane(), Plan())

    assert sorted(made.numbers.of.values()) == [1, 2]
    assert {each.path for each in made.numbers.of} == {"telco/edge.one.eth.two.eth", "telco/core.one.eth.two.eth"}
    assert made.plane.numbers == made.numbers.named


def test_a_number_is_written_before_a_link_has_it_and_freed_after_the_last_has_left() -> None:
    made = desired(*node(EDGE), DataPlane(), Plan())
    left = desired(Cluster({}, {}), (), made, made)

    first, *_ = changes(DataPlane(), made)
    *_, last = changes(made, left)

    assert first == Set("numbers", 1, numbered(EDGE, EDGE.cross_connections[0]))
    assert last == Forget(1)
    assert left.numbers.of == {}


def test_a_restarted_agent_finds_the_numbers_in_the_maps() -> None:
    cluster, links = node(EDGE, CORE)
    made = desired(cluster, links, DataPlane(), Plan())

    unheard = desired(None, links, made.plane, Plan())
    heard = desired(cluster, links, unheard, unheard)

    assert heard.numbers.of == unheard.numbers.of == made.numbers.of
    assert heard.plane == made.plane


def test_a_number_rests_as_long_as_there_are_others() -> None:
    made = desired(*node(EDGE), DataPlane(), Plan())
    without = desired(Cluster({}, {}), (), made, made)

    again = desired(*node(CORE), without, without)

    assert list(again.numbers.of.values()) == [2]


def test_a_number_that_an_agent_could_not_forget_is_forgotten_by_the_next_and_not_handed_out_before() -> None:
    observed = DataPlane(numbers={1: Numbered("uid-old", "telco", "old.one.eth.two.eth")})

    made = desired(*node(EDGE), observed, Plan())

    assert list(made.numbers.of.values()) == [2]
    assert Forget(1) in list(changes(observed, made))


def test_all_numbers_in_use_is_an_error_that_says_where_to_look() -> None:
    taken = {number: Numbered("u", "n", str(number)) for number in range(1, numbers.NUMBERS)}

    with pytest.raises(NumbersExhaustedError, match=r"all 8191 numbers .* see the node agent's log"):
        Allocation(Numbers(), taken, ()).number(EDGE, EDGE.cross_connections[0])


def former(chain: Chain) -> int:
    return former_number(chain.uid, chain.cross_connections[0])


def upgraded(*chains: Chain) -> tuple[Plan, DataPlane]:
    """The first plan over maps that an earlier version wrote, whose numbers are those of `former`."""
    cluster, links = node(*chains)
    entries = {}
    for chain in chains:
        for side in Side:
            link = links[len(entries)]
            entries[link.slot] = LinkEntry(link.ifindex, former(chain), side, LinkState.SERVING)
    observed = DataPlane(links=entries, filters={link.ifindex: link.slot for link in links})
    unheard = desired(None, links, observed, Plan())
    assert unheard.plane.links == entries
    return desired(cluster, links, observed, Plan()), observed


def test_links_of_an_earlier_version_keep_their_numbers_and_so_their_sessions() -> None:
    made, observed = upgraded(EDGE, CORE)

    assert made.plane.links == observed.links
    assert made.numbers.named == {former(chain): numbered(chain, chain.cross_connections[0]) for chain in (EDGE, CORE)}
    assert not [change for change in changes(observed, made) if isinstance(change, Forget)]


@pytest.mark.parametrize("victim_first", [True, False])
def test_of_two_chains_that_had_one_number_the_older_keeps_it_and_the_other_is_told(
    victim_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "former_number", lambda uid, connection: 0xBAD5EED)
    monkeypatch.setitem(globals(), "former_number", lambda uid, connection: 0xBAD5EED)
    victim = two_stages("victim", "2026-01-01T00:00:00Z")
    attacker = two_stages("attacker", "2026-01-02T00:00:00Z", namespace="evil")

    made, _ = upgraded(*((victim, attacker) if victim_first else (attacker, victim)))

    assert made.numbers.of[numbered(victim, victim.cross_connections[0])] == 0xBAD5EED
    assert made.numbers.of[numbered(attacker, attacker.cross_connections[0])] == 1
    (trouble,) = made.parts["evil", "attacker"].troubles
    assert trouble.reason == "NumberTaken"
    assert "telco/victim.one.eth.two.eth of an older chain, which keeps it" in trouble.message
    assert made.parts["telco", "victim"].troubles == ()


def test_a_number_that_only_looks_like_that_of_an_earlier_version_is_not_taken_over() -> None:
    """A link that has moved to another cross-connection since has the number of the former one."""
    cluster, links = node(EDGE)
    entry = LinkEntry(links[0].ifindex, 0xDEAD, Side.UPSTREAM, LinkState.SERVING)

    made = desired(cluster, links, DataPlane(links={1: entry}), Plan())

    assert list(made.numbers.of.values()) == [1]
    assert Forget(0xDEAD) in list(changes(DataPlane(links={1: entry}), made))


def test_what_memory_and_maps_say_of_one_number_is_settled_by_memory() -> None:
    cluster, links = node(EDGE)
    made = desired(cluster, links, DataPlane(), Plan())
    drifted = replace(made.plane, numbers={1: LEFT, 5: RIGHT})

    again = desired(cluster, links, drifted, made)

    assert again.plane == made.plane
    assert list(changes(drifted, again)) == [Set("numbers", 1, made.numbers.named[1]), Forget(5)]

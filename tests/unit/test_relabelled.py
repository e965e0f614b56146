"""A replica whose labels change after its links were made leaves its stage, and never becomes part of another one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from controller.node.plane.cluster import AsMade, Cluster
from controller.node.plane.desired import desired
from controller.node.plane.model import DataPlane, HostLink, LinkState, by_pod
from controller.node.plane.numbers import Numbers, numbered
from controller.node.plane.plan import Plan, State
from controller.node.plane.replica import replica_of
from controller.node.plane.transitions import transitions
from controller.node.reconcile.reconciler import Reconciler
from controller.node.report.conditions import conditions, node_status
from sfc.chain import Side
from sfc.reading import chain_of
from tests.unit.objects import chain, link, pod
from tests.unit.test_reconciler import Node, states


def twins(name: str = "edge", uid: str = "chain-1") -> dict[str, Any]:
    """Stages a and b, both with an interface `lan`, on either side of a gateway."""
    obj = chain()
    obj["metadata"] |= {"name": name, "uid": uid}
    obj["spec"]["stages"] = [
        {"name": "a", "interfaces": [{"name": "lan", "addresses": ["10.1.0.2/24"]}]},
        {
            "name": "gateway",
            "interfaces": [
                {"name": "inside", "addresses": ["10.1.0.1/24"]},
                {"name": "outside", "addresses": ["10.2.0.1/24"]},
            ],
        },
        {"name": "b", "interfaces": [{"name": "lan", "addresses": ["10.2.0.2/24"]}]},
    ]
    return obj


EDGE, CORE = chain_of(twins()), chain_of(twins("core", "chain-2"))
NUMBERS = Numbers({numbered(EDGE, connection): 10 + at for at, connection in enumerate(EDGE.cross_connections)})
TO_A, TO_B = (10, Side.UPSTREAM), (11, Side.DOWNSTREAM)


def planned(of: Cluster, links: Iterable[HostLink]) -> Plan:
    return desired(of, by_pod(links), {}, DataPlane(), Plan(numbers=NUMBERS))


def made_for(stage: str, of: HostLink, chain_name: str = "edge") -> HostLink:
    return replace(of, chain=chain_name, stage=stage)


LINKS = (
    made_for("a", link(1, "a-1", "lan")),
    made_for("gateway", link(2, "gateway-1", "inside")),
    made_for("gateway", link(3, "gateway-1", "outside")),
    made_for("b", link(4, "b-1", "lan")),
    made_for("b", link(5, "b-2", "lan")),
)


def labelled(name: str, stage: str, chain_name: str = "edge", **more: Any) -> dict[str, Any]:
    obj = pod(name, stage, **more)
    obj["metadata"]["labels"]["sfc.dev/chain"] = chain_name
    return obj


def cluster(b_2: dict[str, Any], links: tuple[HostLink, ...] = LINKS, *chains: Any) -> Cluster:
    pods = (labelled("a-1", "a"), labelled("gateway-1", "gateway"), labelled("b-1", "b"), b_2)
    replicas = {r.uid: r for r in map(replica_of, pods) if r.labelled}
    others = {r.uid: r for r in map(replica_of, pods) if not r.labelled}
    known = {(one.namespace, one.name): one for one in chains or (EDGE, CORE)}
    return Cluster(known, replicas, others).as_made(by_pod(links))


def without(*labels: str) -> dict[str, Any]:
    obj = labelled("b-2", "b")
    for label in labels:
        del obj["metadata"]["labels"][label]
    return obj


BEFORE = cluster(labelled("b-2", "b"))
OTHER_STAGE, OTHER_CHAIN, NO_STAGE = (
    labelled("b-2", "a"),
    labelled("b-2", "b", "core"),
    labelled("b-2", "nowhere"),
)
STAGE_TAKEN, BOTH_TAKEN = without("sfc.dev/stage"), without("sfc.dev/chain", "sfc.dev/stage")
RELABELLED = pytest.mark.parametrize(
    "b_2",
    [OTHER_STAGE, OTHER_CHAIN, NO_STAGE, STAGE_TAKEN, BOTH_TAKEN],
    ids=["stage", "chain", "no stage", "without the stage", "without labels"],
)


def members(plan: Plan, side: tuple[int, Side]) -> set[str]:
    return {uid for part in plan.parts.values() for uid, _ in part.serving.get(side, ())}


def state(of: Cluster, links: tuple[HostLink, ...] = LINKS) -> State:
    return State(of, planned(of, links))


def test_labels_that_say_the_same_change_nothing() -> None:
    links = by_pod(LINKS)

    assert BEFORE.as_made(links) is BEFORE
    assert members(planned(BEFORE, LINKS), TO_B) == {"uid-b-1", "uid-b-2"}


@RELABELLED
def test_a_relabelled_replica_is_in_no_targets_and_keeps_its_sessions(b_2: dict[str, Any]) -> None:
    plan = planned(cluster(b_2), LINKS)

    assert members(plan, TO_B) == {"uid-b-1"}
    assert members(plan, TO_A) == {"uid-a-1"}
    entry = plan.plane.links[5]
    assert (entry.connection, entry.side, entry.state) == (*TO_B, LinkState.DRAINING)


@RELABELLED
def test_a_relabelled_replica_drains_when_it_is_deleted(b_2: dict[str, Any]) -> None:
    terminating = {**b_2, "metadata": {**b_2["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    node = Node(*LINKS)
    reconciler = Reconciler(node, node, lambda: cluster(terminating))

    reconciler.reconcile()

    assert states(node)[5] == LinkState.DRAINING


def test_labels_that_are_set_back_bring_the_replica_back() -> None:
    node = Node(*LINKS)
    pods = [labelled("b-2", "a"), labelled("b-2", "b")]
    replicas = [Cluster({("telco", "edge"): EDGE}, {r.uid: r}) for r in map(replica_of, pods)]
    reconciler = Reconciler(node, node, lambda: replicas[0])

    reconciler.reconcile()
    away = states(node)[5]
    replicas.reverse()
    reconciler.reconcile()

    assert (away, states(node)[5]) == (LinkState.DRAINING, LinkState.SERVING)


@pytest.mark.parametrize(
    ("b_2", "said"),
    [
        (OTHER_STAGE, "its labels say stage a of chain edge"),
        (OTHER_CHAIN, "its labels say stage b of chain core"),
        (NO_STAGE, "its labels say stage nowhere of chain edge"),
        (STAGE_TAKEN, "its labels say no stage of chain edge"),
        (BOTH_TAKEN, "its labels say no chain"),
    ],
)
def test_condition_and_event_say_what_it_was_made_for_and_what_its_labels_say(b_2: dict[str, Any], said: str) -> None:
    after = state(cluster(b_2))

    (condition,) = (condition for replica, condition in conditions(after) if replica.name == "b-2")
    (transition,) = transitions(state(BEFORE), after)

    assert (condition.status, condition.reason) == (False, "Relabelled")
    assert condition.message.startswith(f"its interfaces were made for stage b of chain edge, {said}: ")
    assert transition.reason == "SteeredAway"
    assert transition.message.startswith("its labels changed: it was made for stage b of chain edge, they say ")
    assert transition.message.endswith("; out of all targets, keeps its sessions")


def test_the_status_shows_it_where_its_sessions_are() -> None:
    entry = node_status(state(cluster(OTHER_STAGE)), "node-1")["telco", EDGE.cross_connections[1].name]

    assert entry["downstream"] == [
        {"pod": "b-1", "uid": "uid-b-1", "state": "serving"},
        {"pod": "b-2", "uid": "uid-b-2", "state": "wired"},
    ]


def test_a_chain_that_was_deleted_and_made_again_has_its_replicas_again() -> None:
    """By its name: what a tenant deletes and applies again is the same chain for its pods."""
    again = chain_of(twins("edge", "chain-9"))

    plan = planned(cluster(labelled("b-2", "b"), LINKS, again), LINKS)

    number = plan.numbers.of[numbered(again, again.cross_connections[1])]
    assert members(plan, (number, Side.DOWNSTREAM)) == {"uid-b-1", "uid-b-2"}
    assert number not in NUMBERS.named


def test_a_replica_of_a_chain_that_is_gone_does_not_go_to_another_one() -> None:
    plan = planned(cluster(OTHER_CHAIN, LINKS, CORE), LINKS)

    assert plan.plane.links == {}


def test_links_of_the_version_before_follow_the_labels() -> None:
    former = tuple(replace(one, chain="", stage="") for one in LINKS)

    plan = planned(cluster(OTHER_STAGE, former), former)

    assert members(plan, TO_A) == {"uid-a-1", "uid-b-2"}


def test_a_pod_that_waits_for_its_links_is_what_its_labels_say() -> None:
    of = cluster(OTHER_STAGE, LINKS[:4])

    assert of.replicas["uid-b-2"].relabelled is None
    assert of.replicas["uid-b-2"].stage == "a"


def watched(b_2: dict[str, Any]) -> Cluster:
    """As the watches give it, before links are looked at."""
    return cluster(b_2, ())


def test_of_pass_after_pass_only_chains_that_changed_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    made, links, first = AsMade(), by_pod(LINKS), watched(labelled("b-2", "b"))
    looks, as_made = list[Cluster](), Cluster.as_made
    monkeypatch.setattr(Cluster, "as_made", lambda self, of: (of and looks.append(self)) or as_made(self, of))

    same = [made(each, links) is each for each in (first, watched(labelled("b-2", "b")), first)]
    after = [made(each, links) for b_2 in (OTHER_STAGE, BOTH_TAKEN, OTHER_CHAIN) for each in (watched(b_2), first)]

    assert same == [True, True, True]
    assert [each.replicas["uid-b-2"].relabelled is not None for each in after] == [True, False] * 3
    assert after[1::2] == [first] * 3
    assert len(looks) == 7, "at first, for each stray, and after it"


def test_links_that_came_are_looked_at_in_the_next_pass() -> None:
    made, stray = AsMade(), watched(OTHER_STAGE)
    waiting = made(stray, by_pod(LINKS[:4]))

    linked = made(stray, by_pod(LINKS))

    assert waiting is stray
    assert linked.replicas["uid-b-2"].relabelled == "stage a of chain edge"

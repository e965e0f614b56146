"""From objects to map contents."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from controller.node.plane import desired as plan
from controller.node.plane import maglev
from controller.node.plane.changes import Clear, changes
from controller.node.plane.cluster import Cluster
from controller.node.plane.drain import Drain
from controller.node.plane.far import FarReplica
from controller.node.plane.foreseen import MOST_FORESEEN, likely_targets
from controller.node.plane.model import SLOTS, DataPlane, HostLink, LinkState, by_pod
from controller.node.plane.numbers import Numbers, numbered
from controller.node.plane.plan import Part, Plan
from controller.node.plane.replica import replica_of
from sfc.chain import Side
from sfc.reading import chain_of
from sfc.source_ports import PortRange
from tests.unit.objects import chain, link, pod

EDGE = chain_of(chain())
NUMBERS = Numbers({numbered(EDGE, connection): 10 + at for at, connection in enumerate(EDGE.cross_connections)})
CLIENT_FIREWALL, FIREWALL_NAT, NAT_SERVER = NUMBERS.named

CLIENT = link(1, "client-1", "lan")
LEFT, RIGHT = link(2, "firewall-1", "left"), link(3, "firewall-1", "right")
LEFT2, RIGHT2 = link(4, "firewall-2", "left"), link(5, "firewall-2", "right")


def cluster(*pods: dict[str, Any], chains: bool = True) -> Cluster:
    replicas = [replica_of(p) for p in pods]
    return Cluster(
        chains={("telco", "edge"): EDGE} if chains else {}, replicas={r.uid: r for r in replicas if r is not None}
    )


TWO_FIREWALLS = cluster(pod("client-1", "client"), pod("firewall-1", "firewall"), pod("firewall-2", "firewall"))
ALL = (CLIENT, LEFT, RIGHT, LEFT2, RIGHT2)
NOTHING = DataPlane()


def planned(
    of: Cluster | None, links: Iterable[HostLink], drains: Mapping[str, Drain], actual: DataPlane = NOTHING
) -> Plan:
    """From nothing but the numbers."""
    return plan.desired(of, by_pod(links), drains, actual, Plan(numbers=NUMBERS))


def desired(
    of: Cluster | None, links: Iterable[HostLink], drains: Mapping[str, Drain], actual: DataPlane = NOTHING
) -> DataPlane:
    return planned(of, links, drains, actual).plane


def draining(name: str, *, ended: bool = False) -> dict[str, Drain]:
    uid = f"uid-{name}"
    return {uid: Drain(uid, asked_at=0, deadline=30, out_of_targets_at=0, ended_at=1 if ended else None)}


def test_ready_replicas_are_the_targets_of_their_side() -> None:
    plane = desired(TWO_FIREWALLS, ALL, {})

    assert plane.targets == {
        (CLIENT_FIREWALL, Side.UPSTREAM): maglev.table((("uid-client-1", 1),)),
        (CLIENT_FIREWALL, Side.DOWNSTREAM): maglev.table((("uid-firewall-1", 2), ("uid-firewall-2", 4))),
        (FIREWALL_NAT, Side.UPSTREAM): maglev.table((("uid-firewall-1", 3), ("uid-firewall-2", 5))),
    }


def test_the_holder_of_each_slice_is_known_on_the_side_that_has_slices_and_on_every_node() -> None:
    obj = chain()
    obj["spec"]["stages"][1]["interfaces"][1]["sourcePorts"] = {"slices": 4}
    firewalls = [pod("firewall-1", "firewall"), pod("firewall-2", "firewall", terminating=True)]
    for each, ports in zip(firewalls, ("33280-49407", "1024-17151"), strict=True):
        each["metadata"]["annotations"] = {"sfc.dev/source-ports": ports}
    far = FarReplica("uid-firewall-9", 77, SLOTS + 5, PortRange.parse("49408-65535"))
    of = replace(
        cluster(pod("client-1", "client"), *firewalls),
        chains={("telco", "edge"): chain_of(obj)},
        far={("telco", "edge"): {("edge.firewall.right.nat.inside", Side.UPSTREAM): (far,)}},
    )

    plane = desired(of, ALL, draining("firewall-2"))

    tails = {side: table[2 * maglev.LENGTH :] for side, table in plane.targets.items()}
    assert struct.unpack("<5H", tails.pop((FIREWALL_NAT, Side.UPSTREAM))) == (4, 5, 0, 3, SLOTS + 5)
    assert {*tails.values()} == {b""}
    without = desired(replace(of, chains={("telco", "edge"): chain_of(chain())}), ALL, draining("firewall-2"), plane)
    assert {len(table) for table in without.targets.values()} == {2 * maglev.LENGTH}


def test_frames_for_an_interface_that_wants_raw_frames_go_out_by_the_host_end() -> None:
    obj = chain()
    obj["spec"]["stages"][1]["interfaces"][0]["rawFrames"] = True
    of = replace(TWO_FIREWALLS, chains={("telco", "edge"): chain_of(obj)})

    plane = desired(of, ALL, {})

    assert {slot for slot, entry in plane.links.items() if not entry.paired} == {2, 4}


def test_a_replica_whose_containers_are_not_ready_is_no_target_and_loses_its_sessions_to_others() -> None:
    hanging = pod("firewall-2", "firewall", ready=False)

    plane = desired(cluster(pod("client-1", "client"), pod("firewall-1", "firewall"), hanging), ALL, {})

    assert [plane.links[slot].state for slot in (2, 3)] == [LinkState.SERVING] * 2
    assert [plane.links[slot].state for slot in (4, 5)] == [LinkState.WIRED] * 2
    assert plane.targets[CLIENT_FIREWALL, Side.DOWNSTREAM] == maglev.table((("uid-firewall-1", 2),))


def test_a_replica_whose_containers_are_not_ready_keeps_its_sessions_while_nobody_else_could_take_them() -> None:
    alone = cluster(pod("client-1", "client"), pod("firewall-1", "firewall", ready=False))

    plane = desired(alone, (CLIENT, LEFT, RIGHT), {})

    assert plane.links[2].state == LinkState.DRAINING
    assert (CLIENT_FIREWALL, Side.DOWNSTREAM) not in plane.targets


def test_a_replica_that_is_deleted_keeps_its_sessions_although_it_is_not_ready() -> None:
    leaving = pod("firewall-2", "firewall", ready=False, terminating=True)
    of = cluster(pod("client-1", "client"), pod("firewall-1", "firewall"), leaving)

    plane = desired(of, ALL, draining("firewall-2"))

    assert plane.links[4].state == LinkState.DRAINING


def test_a_crashed_replica_is_gone_at_once() -> None:
    crashed = {"containerStatuses": [{"state": {"terminated": {"exitCode": 137}}}]}
    state = cluster(pod("firewall-1", "firewall", ready=False, **crashed))

    plane = desired(state, (LEFT, RIGHT), {})

    assert {entry.state for entry in plane.links.values()} == {LinkState.GONE}


def test_a_draining_replica_keeps_its_links_and_leaves_the_targets() -> None:
    plane = desired(TWO_FIREWALLS, ALL, draining("firewall-1"))

    assert plane.links[2].state == LinkState.DRAINING
    assert plane.targets[CLIENT_FIREWALL, Side.DOWNSTREAM] == maglev.table((("uid-firewall-2", 4),))


def test_a_drained_replica_is_gone() -> None:
    plane = desired(TWO_FIREWALLS, ALL, draining("firewall-1", ended=True))

    assert plane.links[2].state == LinkState.GONE


def test_without_its_chain_a_link_carries_nothing() -> None:
    before = desired(TWO_FIREWALLS, ALL, {})

    after = desired(replace(TWO_FIREWALLS, chains={}), ALL, {}, before)

    assert after == DataPlane()


def test_a_chain_created_again_shares_no_cross_connection_with_its_predecessor() -> None:
    again = chain_of(chain() | {"metadata": {"name": "edge", "namespace": "telco", "uid": "chain-2"}})

    before = planned(TWO_FIREWALLS, ALL, {})

    after = plan.desired(replace(TWO_FIREWALLS, chains={("telco", "edge"): again}), by_pod(ALL), {}, before, before)

    assert len(after.connections) == len(before.connections) == 2
    assert after.connections.isdisjoint(before.connections)


def test_before_the_api_server_is_heard_everything_stays_but_what_the_node_itself_knows() -> None:
    before = desired(TWO_FIREWALLS, ALL, {})

    untouched = desired(None, ALL, {}, before)
    drained = desired(None, ALL, draining("firewall-1"), before)
    vanished = desired(None, (CLIENT, LEFT2, RIGHT2), {}, before)

    only_second = maglev.table((("uid-firewall-2", 4),))
    assert untouched == before
    assert drained.targets[CLIENT_FIREWALL, Side.DOWNSTREAM] == only_second
    assert vanished.targets[CLIENT_FIREWALL, Side.DOWNSTREAM] == only_second


def test_the_link_of_a_pod_that_was_deleted_is_gone_until_it_vanishes() -> None:
    before = desired(TWO_FIREWALLS, ALL, {})

    after = desired(cluster(pod("client-1", "client"), pod("firewall-2", "firewall")), ALL, {}, before)

    assert after.links[2].state == LinkState.GONE
    assert after.targets[CLIENT_FIREWALL, Side.DOWNSTREAM] == maglev.table((("uid-firewall-2", 4),))


def test_what_a_chain_knows_of_other_nodes_stays_when_a_link_of_an_unknown_pod_goes() -> None:
    """The entries are the chain's; a part of unknown links that had them, too, would take them along."""
    known = replace(TWO_FIREWALLS, members={("telco", "edge"): frozenset({4})})
    without = replace(cluster(pod("client-1", "client"), pod("firewall-2", "firewall")), members=known.members)
    before = planned(without, ALL, {}, desired(known, ALL, {}))

    after = plan.desired(without, by_pod((CLIENT, LEFT2, RIGHT2)), {}, before, before)

    assert CLIENT_FIREWALL in before.parts[None].connections
    assert [*changes(before, after)]
    assert not [change for change in changes(before, after) if isinstance(change, Clear) and change.kind == "members"]


@pytest.mark.parametrize(
    ("members", "fits", "told"),
    [({4}, 1450, True), ({4}, 1500, False), (set[int](), 1450, False), ({4}, None, False)],
)
def test_a_chain_on_several_nodes_that_asks_for_more_than_fits_between_them_is_told(
    members: set[int], fits: int | None, told: bool
) -> None:
    obj = chain()
    obj["spec"]["stages"][0]["interfaces"][0]["mtu"] = 1500
    known = {("telco", "edge"): frozenset(members)}
    large = replace(TWO_FIREWALLS, chains={("telco", "edge"): chain_of(obj)}, members=known, mtu=fits)

    troubles = planned(large, ALL, {}).parts["telco", "edge"].troubles

    assert [each.reason for each in troubles] == ["MTUTooLarge"] * told
    assert all("at most 1450 bytes" in each.message and "client.lan (1500)" in each.message for each in troubles)


def test_a_link_whose_pod_was_not_heard_of_yet_keeps_its_filter() -> None:
    early = link(9, "nobody-1", "lan", filter_slot=9)

    plane = desired(TWO_FIREWALLS, (early,), {})

    assert (plane.filters, plane.links) == ({early.ifindex: 9}, {})


def test_of_two_links_for_one_interface_the_newer_one_serves() -> None:
    newer = link(8, "client-1", "lan")

    plane = desired(TWO_FIREWALLS, (CLIENT, newer), {})

    assert {slot: entry.state for slot, entry in plane.links.items()} == {1: LinkState.GONE, 8: LinkState.SERVING}


def test_neighbours_are_known_across_a_transparent_stage() -> None:
    plane = desired(TWO_FIREWALLS, ALL, {})

    nat = EDGE.stages[2].interfaces[0]
    assert plane.neighbours[CLIENT_FIREWALL, Side.UPSTREAM, "10.1.0.1"] == nat.mac
    assert (CLIENT_FIREWALL, Side.UPSTREAM, "10.1.0.2") not in plane.neighbours
    assert plane.neighbours[FIREWALL_NAT, Side.DOWNSTREAM, "10.1.0.2"] == EDGE.stages[0].interfaces[0].mac


def test_neighbours_of_both_address_families_are_known() -> None:
    spec = chain()
    for stage, address in ((0, "fd00:1::2/64"), (2, "fd00:1::1/64")):
        spec["spec"]["stages"][stage]["interfaces"][0]["addresses"].append(address)
    both = chain_of(spec)

    plane = desired(replace(TWO_FIREWALLS, chains={("telco", "edge"): both}), ALL, {})

    nat = both.stages[2].interfaces[0]
    assert plane.neighbours[CLIENT_FIREWALL, Side.UPSTREAM, "fd00:1::1"] == nat.mac
    assert plane.neighbours[CLIENT_FIREWALL, Side.UPSTREAM, "10.1.0.1"] == nat.mac


def test_a_replica_with_an_interface_down_gets_nothing_on_any_of_them() -> None:
    plane = desired(TWO_FIREWALLS, (CLIENT, LEFT, RIGHT, LEFT2, replace(RIGHT2, up=False)), {})

    assert (plane.links[4].state, plane.links[5].state) == (LinkState.GONE, LinkState.GONE)
    assert plane.targets[CLIENT_FIREWALL, Side.DOWNSTREAM] == maglev.table((("uid-firewall-1", 2),))


def test_a_replica_that_lost_an_interface_it_was_made_with_gets_nothing_on_the_others() -> None:
    firewall = pod("firewall-1", "firewall", interfaces=("left", "right"))

    plane = desired(cluster(firewall), (LEFT,), {})

    assert plane.links[2].state == LinkState.GONE


def test_a_replaced_sandbox_does_not_count_against_the_new_one() -> None:
    newer = link(8, "client-1", "lan")

    plane = desired(TWO_FIREWALLS, (replace(CLIENT, up=False), newer), {})

    assert plane.links[8].state == LinkState.SERVING


def test_the_tables_after_the_next_event_are_foreseen() -> None:
    pods = (pod("client-1", "client"), pod("firewall-1", "firewall"), pod("firewall-2", "firewall"))
    starting = cluster(*pods, pod("firewall-3", "firewall", ready=False))
    links = (*ALL, link(6, "firewall-3", "left"), link(7, "firewall-3", "right"))
    foreseen = {maglev.table(replicas) for replicas in likely_targets(planned(starting, links, {}))}

    joined = desired(cluster(*pods, pod("firewall-3", "firewall")), links, {})
    left = desired(starting, links, draining("firewall-1"))

    sides = (CLIENT_FIREWALL, Side.DOWNSTREAM), (FIREWALL_NAT, Side.UPSTREAM)
    assert {plane.targets[side] for plane in (joined, left) for side in sides} <= foreseen


@pytest.mark.parametrize(("sides", "foreseen"), [(MOST_FORESEEN // 16, MOST_FORESEEN), (MOST_FORESEEN // 16 + 1, 0)])
def test_no_table_is_foreseen_on_a_node_with_more_replicas_than_the_cache_could_hold(sides: int, foreseen: int) -> None:
    serving = {(number, Side.UPSTREAM): [(f"pod-{number}-{i}", 1 + i) for i in range(16)] for number in range(sides)}
    full = Plan(parts={("telco", "edge"): Part(NOTHING, serving, frozenset(), pods=16 * sides)})

    assert len(likely_targets(full)) == foreseen

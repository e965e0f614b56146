"""The numbers of other nodes, and the indexes of their links."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.node.plane.cluster import Cluster
from controller.node.plane.far import FAR_LINKS, generation, identity, peer_of
from controller.node.plane.model import CHOSEN_IFINDEX, SLOTS, DataPlane, FarLink
from controller.node.plane.numbers import Numbered
from controller.node.reconcile.far_links import REST_SECONDS, FarLinks, Published, published
from controller.node.report.conditions import node_status
from sfc.chain import Chain, Side
from sfc.reading import chain_of
from tests.unit.objects import chain, pod
from tests.unit.test_conditions import state
from tests.unit.test_desired import cluster

CHAIN = ("telco", "edge")
NAT = Published(CHAIN, "edge-nat", Side.DOWNSTREAM, "10.0.0.2", "uid-1", slot=7, generation=3)


class Peers:
    def __init__(self, known: dict[str, int] | None = None) -> None:
        self.numbers = known or {}

    def set(self, number: int, address: str) -> None:
        self.numbers[address] = number

    def clear(self, number: int) -> None:
        self.numbers = {address: other for address, other in self.numbers.items() if other != number}

    def known(self) -> dict[str, int]:
        return dict(self.numbers)


def test_links_of_a_chain_are_grouped_by_hop_and_side_and_sorted_by_pod() -> None:
    other = replace(NAT, uid="uid-0", slot=8)
    elsewhere = replace(NAT, chain=("other", "edge"))

    found = FarLinks(Peers(), DataPlane()).seen([NAT, other, elsewhere])

    assert {
        chain: {side: [each.uid for each in links] for side, links in of.items()} for chain, of in found.items()
    } == {
        CHAIN: {("edge-nat", Side.DOWNSTREAM): ["uid-0", "uid-1"]},
        ("other", "edge"): {("edge-nat", Side.DOWNSTREAM): ["uid-1"]},
    }


def test_the_source_ports_of_a_replica_are_what_its_node_publishes() -> None:
    firewall = pod("firewall-1", "firewall")
    firewall["metadata"]["annotations"] = {"sfc.dev/source-ports": "1024-17151"}
    there = state(cluster(pod("client-1", "client"), firewall))
    entry = node_status(there, "node2", "10.0.0.2")["telco", "edge.client.lan.firewall.left"]
    metadata = {"namespace": "telco", "name": "edge.client.lan.firewall.left"}
    connection = {"metadata": metadata, "spec": {"chain": "edge"}, "status": {"nodes": [entry]}}

    far = FarLinks(Peers(), DataPlane()).seen(published(connection, "node1"))[CHAIN]

    ports = {side: [each.ports and str(each.ports) for each in found] for (_, side), found in far.items()}
    assert ports == {Side.UPSTREAM: [None], Side.DOWNSTREAM: ["1024-17151"]}


def test_a_node_has_one_number_and_the_maps_know_it() -> None:
    peers = Peers()
    links = FarLinks(peers, DataPlane())

    links.seen([NAT, replace(NAT, slot=9), replace(NAT, address="fd00::3")])

    assert peers.numbers == {"10.0.0.2": 1, "fd00::3": 2}


def test_a_link_keeps_its_index_while_others_come_and_go() -> None:
    links = FarLinks(Peers(), DataPlane())
    many = [replace(NAT, uid=f"uid-{slot}", slot=slot) for slot in range(1, 50)]
    first = {each.uid: each for each in links.seen(many)[CHAIN]["edge-nat", Side.DOWNSTREAM]}

    second = {each.uid: each for each in links.seen(many[10:] + many[:5])[CHAIN]["edge-nat", Side.DOWNSTREAM]}

    assert second.items() <= first.items()
    assert len({each.index for each in first.values()}) == len(many)
    assert min(each.index for each in first.values()) >= SLOTS


def test_an_index_rests_before_it_is_given_again() -> None:
    links = FarLinks(Peers(), DataPlane())
    (gone,) = links.seen([NAT])[CHAIN]["edge-nat", Side.DOWNSTREAM]
    links.seen([])

    (next_one,) = links.seen([replace(NAT, slot=9)])[CHAIN]["edge-nat", Side.DOWNSTREAM]

    assert next_one.index != gone.index


def test_a_node_keeps_its_number_for_a_while_after_its_last_link_has_left_however_long_nothing_changed_before() -> None:
    """Its sessions still come from there. An agent that is restarted may leave its node's address out for a moment."""
    peers, now = Peers(), 0.0
    links = FarLinks(peers, DataPlane(), lambda: now)
    links.seen([NAT])

    now += 10 * REST_SECONDS
    links.seen([])
    soon = peers.known()
    now += REST_SECONDS + 1
    links.seen([])

    assert soon == {NAT.address: 1}
    assert peers.known() == {}


def test_a_node_that_comes_back_rests_anew_when_it_leaves_again() -> None:
    peers, now = Peers(), 0.0
    links = FarLinks(peers, DataPlane(), lambda: now)

    for present in ([NAT], [], [NAT], []):
        now += REST_SECONDS - 1
        links.seen(present)

    assert peers.known() == {NAT.address: 1}


def test_numbers_and_indexes_outlive_the_agent() -> None:
    number = identity(5, NAT.slot, NAT.generation)
    there = DataPlane(far={SLOTS + 77: FarLink(number, 3, Side.DOWNSTREAM)})

    (found,) = FarLinks(Peers({"10.0.0.2": 5}), there).seen([NAT])[CHAIN]["edge-nat", Side.DOWNSTREAM]

    assert (found.identity, found.index) == (number, SLOTS + 77)


def test_more_links_than_the_maps_have_room_for_are_left_out_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Otherwise the pass would fail, and no chain's replicas would join or leave any more."""
    links = FarLinks(Peers(), DataPlane())
    many = (replace(NAT, address=f"10.0.{at // 250}.{at % 250}", slot=1) for at in range(4000))

    found = links.seen(replace(each, slot=slot) for each in [*many] for slot in range(1, 5))

    assert len(found[CHAIN]["edge-nat", Side.DOWNSTREAM]) == FAR_LINKS
    assert [record.message for record in caplog.records] == ["replicas of other nodes left out"]


def chains(*uids: str) -> Cluster:
    """One chain, which had one of the UIDs after the other."""
    obj = chain()
    obj["metadata"] |= {"namespace": CHAIN[0], "name": CHAIN[1], "uid": uids[-1]}
    return Cluster({CHAIN: chain_of(obj)}, {})


def test_a_node_is_a_member_of_the_chains_that_it_has_links_in_whatever_their_state() -> None:
    links = FarLinks(Peers(), DataPlane())
    elsewhere = replace(NAT, chain=("other", "edge"), address="10.0.0.3")

    found = links.joined(chains("uid"), {CHAIN: [replace(NAT, serves=False)], ("other", "edge"): [elsewhere]})

    assert found and found.members == {CHAIN: {1}}


def test_a_node_stays_a_member_while_it_has_its_number() -> None:
    """A silent session may still name a link that has left; what comes back must be let in."""
    now = 0.0
    links = FarLinks(Peers(), DataPlane(), clock=lambda: now)
    links.joined(chains("uid"), {CHAIN: [NAT]})

    now = 10 * REST_SECONDS
    after = links.joined(chains("uid"), {})
    now += REST_SECONDS + 1
    later = links.joined(chains("uid"), {})

    assert after and after.members == {CHAIN: {1}}
    assert later and later.members.get(CHAIN, set()) == set()


def test_members_outlive_the_agent_but_not_the_chain() -> None:
    there = DataPlane(numbers={3: Numbered("uid", *CHAIN)}, members={3: frozenset({5})})

    same = FarLinks(Peers({"10.0.0.2": 5}), there).joined(chains("uid"), {})
    made_anew = FarLinks(Peers({"10.0.0.2": 5}), there).joined(chains("uid", "uid-2"), {})

    assert same and same.members == {CHAIN: {5}}
    assert made_anew and made_anew.members == {}


@pytest.mark.parametrize(("own", "smallest"), [(1450, 1430), (1400, 1400), (None, 1430)])
def test_the_mtu_between_the_nodes_is_the_smallest_of_those_in_the_chains_of_this_one(
    own: int | None, smallest: int
) -> None:
    links = FarLinks(Peers(), DataPlane())
    others = [replace(NAT, mtu=8950), replace(NAT, address="10.0.0.3", mtu=1430), replace(NAT, address="10.0.0.4")]
    elsewhere = [replace(NAT, chain=("other", "edge"), address="10.0.0.5", mtu=1300)]

    found = links.joined(chains("uid"), {CHAIN: others, ("other", "edge"): elsewhere}, own)

    assert found and (found.mtu, links.mtu) == (smallest, 1430)


def test_an_identity_tells_node_slot_and_generation_apart() -> None:
    seen = {identity(peer, slot, of) for peer in (1, 4095) for slot in (1, 4095) for of in (0, 63)}

    assert len(seen) == 8
    assert max(seen) < 1 << 32
    assert {peer_of(each) for each in seen} == {1, 4095}


def test_the_generation_is_that_of_the_chosen_index() -> None:
    assert generation(CHOSEN_IFINDEX | 65 * SLOTS | 7) == 1
    assert generation(77) == 0


def test_an_event_makes_only_the_links_of_its_cross_connection_anew() -> None:
    """A node may have ten thousand far links, and every event on any node comes here."""
    links, other = FarLinks(Peers(), DataPlane()), replace(NAT, connection="nat-server", slot=8)
    edge = Chain(*CHAIN, uid="chain-1", stages=(), links=())
    cluster = Cluster({CHAIN: edge}, {})
    reports = {("telco", "edge-nat"): (NAT,), ("telco", "nat-server"): (other,)}
    before = links.joined(cluster, reports)

    after = links.joined(cluster, {**reports, ("telco", "nat-server"): (other, replace(other, uid="uid-2", slot=9))})

    assert before and after
    same, changed = ("edge-nat", Side.DOWNSTREAM), ("nat-server", Side.DOWNSTREAM)
    assert after.far[CHAIN][same] is before.far[CHAIN][same]
    assert [each.uid for each in after.far[CHAIN][changed]] == ["uid-1", "uid-2"]
    assert {each.index for each in before.far[CHAIN][changed]} < {each.index for each in after.far[CHAIN][changed]}


def test_what_was_left_out_for_lack_of_room_comes_once_there_is_room() -> None:
    links, cluster = (
        FarLinks(Peers(), DataPlane()),
        Cluster({CHAIN: Chain(*CHAIN, uid="chain-1", stages=(), links=())}, {}),
    )
    many, two = replace(NAT, connection="many"), replace(NAT, connection="two")
    full = tuple(replace(many, address=f"10.0.1.{at // 4000}", slot=at % 4000) for at in range(1, FAR_LINKS))
    waiting = {("telco", "two"): (two, replace(two, slot=9))}

    looks = [
        links.joined(cluster, {("telco", "many"): full[: len(full) - gone], **waiting}) or cluster for gone in (0, 1, 2)
    ]

    assert [len(each.far[CHAIN]["two", Side.DOWNSTREAM]) for each in looks] == [1, 1, 2], "an index rests for a look"

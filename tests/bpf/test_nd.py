"""Neighbour discovery: as with ARP, the program answers for the chain's addresses, the other side for the rest."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import (
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from sfc.chain import Side
from tests.bpf.frames import ADDRESS6, MAC, nd, udp6
from tests.bpf.node import CONNECTION, TC_ACT_REDIRECT, Node

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
UPSTREAM_SLOTS = (1, 2)
DOWNSTREAM_SLOTS = (11, 12)


@pytest.fixture
def wired(node: Node) -> Node:
    node.serve(UP, UPSTREAM_SLOTS)
    node.serve(DOWN, DOWNSTREAM_SLOTS)
    for asker in Side:
        node.datapath.set_neighbour(CONNECTION, asker, ADDRESS6[asker.other], MAC[asker.other])
    return node


def question(sender: Side, target: str, source: str | None = None, option: bool = True, hops: int = 255) -> Packet:
    frame = Ether(src=MAC[sender], dst="33:33:ff:00:00:01") / IPv6(
        src=ADDRESS6[sender] if source is None else source, dst="ff02::1:ff00:1", hlim=hops
    )
    frame /= ICMPv6ND_NS(tgt=target)
    return frame / ICMPv6NDOptSrcLLAddr(lladdr=MAC[sender]) if option else frame


@pytest.mark.parametrize("asker", Side)
@pytest.mark.parametrize("option", [True, False], ids=["with its MAC", "without its MAC"])
def test_a_known_address_is_answered_to_the_replica_that_asks(wired: Node, asker: Side, option: bool) -> None:
    slot = 2 if asker == UP else 12

    outcome = wired.send(slot, question(asker, ADDRESS6[asker.other], option=option))

    expected = (
        Ether(src=MAC[asker.other], dst=MAC[asker])
        / IPv6(src=ADDRESS6[asker.other], dst=ADDRESS6[asker], hlim=255)
        / ICMPv6ND_NA(tgt=ADDRESS6[asker.other], R=0, S=1, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=MAC[asker.other])
    )
    assert (outcome.action, outcome.sent_to) == (TC_ACT_REDIRECT, slot)
    assert outcome.frame == bytes(expected)


@pytest.mark.parametrize("host", range(1, 0x10000, 4999))
def test_the_checksum_is_right_for_every_asker(wired: Node, host: int) -> None:
    source = f"fd00::{host:x}:{0xFFFF - host:x}"

    answer = Ether(wired.send(1, question(UP, ADDRESS6[DOWN], source)).frame)

    received = answer[ICMPv6ND_NA].cksum
    del answer[ICMPv6ND_NA].cksum
    assert Ether(bytes(answer))[ICMPv6ND_NA].cksum == received


@pytest.mark.parametrize("solicited", [1, 0], ids=["an answer", "unsolicited"])
def test_who_has_been_heard_of_is_answered_for(wired: Node, solicited: int) -> None:
    said = Ether(src=MAC[DOWN], dst=MAC[UP]) / IPv6(src="fd00::99", dst=ADDRESS6[UP], hlim=255)
    said /= ICMPv6ND_NA(tgt="fd00::99", R=0, S=solicited) / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:99")
    passed_on = wired.send(11, said)

    young = wired.send(2, question(UP, "fd00::99"))
    wired.age_of_learned(31)
    old = wired.send(2, question(UP, "fd00::99"))

    assert (passed_on.sent_to in UPSTREAM_SLOTS, passed_on.frame) == (True, bytes(said))
    assert (young.sent_to, Ether(young.frame)[ICMPv6NDOptDstLLAddr].lladdr) == (2, "02:00:00:00:00:99")
    assert old.sent_to in DOWNSTREAM_SLOTS


def test_an_answered_question_needs_no_target(wired: Node) -> None:
    wired.datapath.clear_targets(CONNECTION, DOWN)

    assert wired.send(1, question(UP, ADDRESS6[DOWN])).sent_to == 1


def test_a_host_that_checks_whether_its_address_is_taken_is_not_answered(wired: Node) -> None:
    """RFC 4862. All replicas of a stage have the same address on purpose, so an answer would stop them."""
    probe = question(UP, ADDRESS6[DOWN], source="::", option=False)

    outcome = wired.send(1, probe)

    assert outcome.sent_to in DOWNSTREAM_SLOTS
    assert outcome.frame == bytes(probe)


def test_a_neighbour_of_one_side_is_not_answered_to_the_other(wired: Node) -> None:
    assert wired.send(11, question(DOWN, ADDRESS6[DOWN], source="fd00::99")).sent_to in UPSTREAM_SLOTS


def test_a_question_that_a_router_let_in_is_not_answered(wired: Node) -> None:
    frame = question(UP, ADDRESS6[DOWN], hops=254)

    outcome = wired.send(1, frame)

    assert (outcome.sent_to in DOWNSTREAM_SLOTS, outcome.frame) == (True, bytes(frame))


def test_the_latest_asker_for_an_unknown_address_gets_the_answer(wired: Node) -> None:
    asked = wired.receiver(1, nd(UP))
    asked_again = wired.receiver(2, nd(UP))

    assert asked == asked_again
    assert wired.receiver(asked, nd(DOWN)) == 2


@pytest.mark.parametrize(
    "message",
    [
        IPv6(src="fe80::1", dst="ff02::2", hlim=255) / ICMPv6ND_RS(),
        IPv6(src="fe80::1", dst="ff02::16", hlim=1) / IPv6ExtHdrHopByHop() / ICMPv6MLReport2(),
    ],
    ids=["router solicitation", "multicast listener report"],
)
def test_other_multicast_goes_to_one_link_of_the_other_side_without_session(wired: Node, message: Packet) -> None:
    frame = Ether(src=MAC[UP], dst="33:33:00:00:00:02") / message

    receivers = {wired.receiver(slot, frame) for slot in UPSTREAM_SLOTS for _ in range(3)}

    assert len(receivers) == 1
    assert receivers < set(DOWNSTREAM_SLOTS)
    assert not list(wired.datapath.sessions())


def test_ipv6_sessions_count_for_a_drain_and_are_forgotten_with_their_cross_connection(wired: Node) -> None:
    chosen = wired.receiver(1, udp6(UP))

    active = wired.datapath.activity([1, chosen])
    wired.datapath.forget(CONNECTION)
    wired.datapath.sweep()

    assert active == {1: 1, chosen: 1}
    assert not list(wired.datapath.sessions())

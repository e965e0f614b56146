"""ARP: the program answers requests for the segment's static addresses; all others go to the other side."""

from __future__ import annotations

import pytest
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from sfc.chain import Side
from tests.bpf.frames import ADDRESS, BROADCAST, MAC
from tests.bpf.node import CONNECTION, TC_ACT_REDIRECT, Node

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
UPSTREAM_SLOTS = (1, 2)
DOWNSTREAM_SLOTS = (11, 12)
STRANGER = "10.1.0.99"
STRANGER_MAC = "02:00:00:00:00:99"


@pytest.fixture
def wired(node: Node) -> Node:
    node.serve(UP, UPSTREAM_SLOTS)
    node.serve(DOWN, DOWNSTREAM_SLOTS)
    for asker in Side:
        node.datapath.set_neighbour(CONNECTION, asker, ADDRESS[asker.other], MAC[asker.other])
    return node


def question(sender: Side, target: str, source: str | None = None) -> Packet:
    return Ether(src=MAC[sender], dst=BROADCAST) / ARP(
        op="who-has", hwsrc=MAC[sender], psrc=ADDRESS[sender] if source is None else source, pdst=target
    )


@pytest.mark.parametrize("asker", Side)
def test_a_known_address_is_answered_to_the_replica_that_asks(wired: Node, asker: Side) -> None:
    slot = 2 if asker == UP else 12

    outcome = wired.send(slot, question(asker, ADDRESS[asker.other]))

    expected = Ether(src=MAC[asker.other], dst=MAC[asker]) / ARP(
        op="is-at", hwsrc=MAC[asker.other], psrc=ADDRESS[asker.other], hwdst=MAC[asker], pdst=ADDRESS[asker]
    )
    assert (outcome.action, outcome.sent_to) == (TC_ACT_REDIRECT, slot)
    assert outcome.frame == bytes(expected)


def test_the_padding_of_a_short_frame_survives_the_answer(wired: Node) -> None:
    padding = bytes(range(18))

    outcome = wired.send(1, bytes(question(UP, ADDRESS[DOWN])) + padding)

    assert (len(outcome.frame), outcome.frame[-18:]) == (60, padding)


def test_a_probe_for_a_known_address_is_answered(wired: Node) -> None:
    """RFC 5227: a host without an address asks whether an address is taken. It is."""
    outcome = wired.send(1, question(UP, ADDRESS[DOWN], source="0.0.0.0"))

    assert outcome.sent_to == 1
    assert Ether(outcome.frame)[ARP].psrc == ADDRESS[DOWN]


def test_an_answered_question_needs_no_target(wired: Node) -> None:
    wired.datapath.clear_targets(CONNECTION, DOWN)

    assert wired.send(1, question(UP, ADDRESS[DOWN])).sent_to == 1


def test_a_neighbour_of_one_side_is_not_answered_to_the_other(wired: Node) -> None:
    outcome = wired.send(11, question(DOWN, ADDRESS[DOWN], source=STRANGER))

    assert outcome.sent_to in UPSTREAM_SLOTS


def test_a_cleared_neighbour_is_not_answered(wired: Node) -> None:
    wired.datapath.clear_neighbour(CONNECTION, UP, ADDRESS[DOWN])

    assert wired.send(1, question(UP, ADDRESS[DOWN])).sent_to in DOWNSTREAM_SLOTS


def test_an_announcement_is_passed_on_and_not_answered(wired: Node) -> None:
    """Even for a known address, as when another host takes it over."""
    announcement = question(UP, ADDRESS[DOWN], source=ADDRESS[DOWN])

    outcome = wired.send(1, announcement)

    assert outcome.sent_to in DOWNSTREAM_SLOTS
    assert outcome.frame == bytes(announcement)


def test_an_unknown_address_is_asked_on_the_other_side_and_the_latest_asker_gets_the_answer(wired: Node) -> None:
    asked = wired.receiver(1, question(UP, STRANGER))
    asked_again = wired.receiver(2, question(UP, STRANGER))
    answer = Ether(src=STRANGER_MAC, dst=MAC[UP]) / ARP(
        op="is-at", hwsrc=STRANGER_MAC, psrc=STRANGER, hwdst=MAC[UP], pdst=ADDRESS[UP]
    )

    outcome = wired.send(asked, answer)

    assert asked in DOWNSTREAM_SLOTS
    assert asked_again == asked
    assert (outcome.sent_to, outcome.frame) == (2, bytes(answer))


def stranger(target: str = ADDRESS[UP], op: str = "is-at") -> Packet:
    """An announcement by a host behind the downstream side."""
    destination = BROADCAST if target == STRANGER else MAC[UP]
    return Ether(src=STRANGER_MAC, dst=destination) / ARP(op=op, hwsrc=STRANGER_MAC, psrc=STRANGER, pdst=target)


@pytest.mark.parametrize(
    "said",
    [stranger(), stranger(target=STRANGER), stranger(target=STRANGER, op="who-has")],
    ids=["an answer", "an announcement as answer", "an announcement as question"],
)
def test_who_has_been_heard_of_is_answered_for(wired: Node, said: Packet) -> None:
    passed_on = wired.send(11, said)

    outcome = wired.send(2, question(UP, STRANGER))

    assert (passed_on.sent_to in UPSTREAM_SLOTS, passed_on.frame) == (True, bytes(said))
    assert outcome.sent_to == 2
    assert Ether(outcome.frame)[ARP].hwsrc == STRANGER_MAC


def test_a_host_that_moves_to_another_mac_says_so(wired: Node) -> None:
    wired.send(11, stranger())
    moved = stranger(target=STRANGER)
    moved[ARP].hwsrc = "02:00:00:00:00:98"
    wired.send(12, moved)

    outcome = wired.send(1, question(UP, STRANGER))

    assert Ether(outcome.frame)[ARP].hwsrc == "02:00:00:00:00:98"


def test_what_was_heard_counts_for_thirty_seconds(wired: Node) -> None:
    wired.send(11, stranger())

    wired.age_of_learned(29)
    young = wired.send(1, question(UP, STRANGER))
    wired.age_of_learned(31)
    old = wired.send(1, question(UP, STRANGER))

    assert young.sent_to == 1
    assert old.sent_to in DOWNSTREAM_SLOTS


def test_a_change_of_the_chains_neighbours_makes_it_ask_anew(wired: Node) -> None:
    wired.send(11, stranger())

    wired.datapath.unlearn(CONNECTION)

    assert wired.send(1, question(UP, STRANGER)).sent_to in DOWNSTREAM_SLOTS


def test_what_is_said_of_the_chains_own_addresses_changes_no_answer(wired: Node) -> None:
    lie = Ether(src=STRANGER_MAC, dst=BROADCAST) / ARP(
        op="who-has", hwsrc=STRANGER_MAC, psrc=ADDRESS[DOWN], pdst=ADDRESS[DOWN]
    )
    wired.send(11, lie)

    outcome = wired.send(1, question(UP, ADDRESS[DOWN]))

    assert Ether(outcome.frame)[ARP].hwsrc == MAC[DOWN]


def test_what_one_side_says_is_not_told_to_its_own(wired: Node) -> None:
    wired.send(11, stranger())

    outcome = wired.send(12, question(DOWN, STRANGER, source="10.1.0.98"))

    assert outcome.sent_to in UPSTREAM_SLOTS


def test_a_probe_teaches_nothing(wired: Node) -> None:
    probe = stranger(target=STRANGER, op="who-has")
    probe[ARP].psrc = "0.0.0.0"
    wired.send(11, probe)

    assert wired.send(1, question(UP, STRANGER)).sent_to in DOWNSTREAM_SLOTS
    assert wired.send(1, question(UP, "0.0.0.0")).sent_to in DOWNSTREAM_SLOTS


@pytest.mark.parametrize(
    "other",
    [{"hwtype": 6}, {"ptype": 0x86DD}, {"op": 3}, {"op": 8}],
    ids=["not Ethernet", "not IPv4", "reverse ARP", "inverse ARP"],
)
def test_what_is_not_an_ipv4_question_is_passed_on_unchanged(wired: Node, other: dict[str, int]) -> None:
    frame = question(UP, ADDRESS[DOWN])
    for field, value in other.items():
        frame[ARP].setfieldval(field, value)

    outcome = wired.send(1, frame)

    assert outcome.sent_to in DOWNSTREAM_SLOTS
    assert outcome.frame == bytes(frame)

"""Fragments follow their first one, whose ports decide.

One that comes before its first is forwarded and counted, and the first one follows it if no session is in the way.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import pytest
from scapy.packet import Packet

from controller.node.plane.model import LinkState
from sfc.chain import Side
from tests.bpf.frames import Conversation, fragments, fragments6, udp, udp6
from tests.bpf.node import CONNECTION, DATAGRAM_PLACES, Node

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
SLOTS = {UP: (1, 2, 3), DOWN: (11, 12, 13)}


class Fragments(Protocol):
    def __call__(self, sender: Side, number: int = 0, *, identification: int | None = None) -> list[Packet]: ...


PATIENCE = 30
"""Seconds for which a fragment follows others of its number: FOLLOWED_FOR in bpf/cross_connect.c."""
BOTH_FAMILIES = pytest.mark.parametrize(
    ("whole", "divided"), [(udp, fragments), (udp6, fragments6)], ids=["IPv4", "IPv6"]
)


def lone_goes_to(node: Node, part: Packet) -> int:
    """The replica that gets a later fragment while nothing is noted of its datagram, and of its addresses."""
    receiver = node.receiver(1, part)
    node.age_of_fragments(PATIENCE)
    return receiver


def renumbered(part: bytes, identification: int) -> bytes:
    """The same fragment, of another datagram."""
    at, size = (66, 4) if part[12:14] == b"\x86\xdd" else (18, 2)
    return part[:at] + identification.to_bytes(size) + part[at + size :]


def pinned_elsewhere(node: Node, whole: Conversation, divided: Fragments) -> tuple[int, int]:
    """(number of a conversation, the replica of its session), which is not the one that a lone fragment goes to."""
    lone = lone_goes_to(node, divided(UP, 0)[-1])
    receivers = {number: node.receiver(1, whole(UP, number)) for number in range(1, 9)}
    return next((number, receiver) for number, receiver in receivers.items() if receiver != lone)


@pytest.fixture
def wired(node: Node) -> Node:
    for side in Side:
        node.serve(side, SLOTS[side])
    return node


@BOTH_FAMILIES
@pytest.mark.parametrize("sender", Side)
def test_fragments_go_where_whole_datagrams_of_their_ports_go(
    wired: Node, whole: Conversation, divided: Fragments, sender: Side
) -> None:
    for number in range(20):
        slot = SLOTS[sender][number % 3]
        chosen = wired.receiver(slot, whole(sender, number))

        assert {wired.receiver(slot, part) for part in divided(sender, number)} == {chosen}
        assert {wired.receiver(chosen, part) for part in divided(sender.other, number)} == {slot}
    assert not wired.datapath.counters.remarks()


@BOTH_FAMILIES
def test_the_rest_may_come_in_any_order(wired: Node, whole: Conversation, divided: Fragments) -> None:
    first, *rest = divided(UP, 0)

    receivers = {wired.receiver(1, part) for part in (first, *reversed(rest))}

    assert len(rest) > 1
    assert len(receivers) == 1


@BOTH_FAMILIES
def test_two_datagrams_at_once_do_not_mix(wired: Node, whole: Conversation, divided: Fragments) -> None:
    datagrams = [divided(UP, number) for number in range(20)]

    by_datagram = [
        {wired.receiver(1, part) for part in parts}
        for parts in zip(*map(list, zip(*datagrams, strict=True)), strict=True)
    ]

    assert {len(each) for each in by_datagram} == {1}
    assert set().union(*by_datagram) == set(SLOTS[DOWN])


@BOTH_FAMILIES
def test_a_fragment_before_its_first_is_carried_and_counted(
    wired: Node, whole: Conversation, divided: Fragments
) -> None:
    _, *rest = divided(UP, 0)

    receivers = {wired.receiver(slot, part) for slot in SLOTS[UP] for part in rest}

    assert len(receivers) == 1
    assert receivers < set(SLOTS[DOWN])
    assert wired.datapath.counters.remarks() == {(CONNECTION, "lone_fragment"): 3 * len(rest)}
    assert not wired.datapath.counters.drops()


@BOTH_FAMILIES
@pytest.mark.parametrize("sender", Side)
def test_a_new_session_begins_where_the_fragments_before_the_first_one_went(
    wired: Node, whole: Conversation, divided: Fragments, sender: Side
) -> None:
    """Thirty conversations, each with a datagram in reverse order: no datagram is divided between two replicas."""
    slot, early = SLOTS[sender][0], 0
    for number in range(30):
        first, *rest = divided(sender, number)

        receivers = {wired.receiver(slot, part) for part in (*reversed(rest), first)}

        assert receivers == {wired.receiver(slot, whole(sender, number))}
        early += len(rest)
    assert wired.datapath.counters.remarks() == {
        (CONNECTION, "lone_fragment"): early,
        (CONNECTION, "early_fragment"): early,
    }


@BOTH_FAMILIES
def test_the_first_one_goes_by_its_session_and_tells_that_those_before_it_went_elsewhere(
    wired: Node, whole: Conversation, divided: Fragments
) -> None:
    number, pinned = pinned_elsewhere(wired, whole, divided)
    first, middle, last = divided(UP, number)
    counted = Counter(wired.tally().verdicts)

    early = wired.receiver(1, last)

    assert early != pinned
    assert [wired.receiver(1, part) for part in (first, middle)] == [pinned] * 2
    assert wired.tally().verdicts - counted == {"lone_fragment": 1, "parted_fragment": 1}


@BOTH_FAMILIES
def test_after_one_datagram_of_a_session_the_next_is_complete_in_any_order(
    wired: Node, whole: Conversation, divided: Fragments
) -> None:
    number, pinned = pinned_elsewhere(wired, whole, divided)
    for part in divided(UP, number):
        wired.send(1, part)
    first, *rest = divided(UP, number, identification=4711)
    counted = Counter(wired.tally().verdicts)

    receivers = {wired.receiver(1, part) for part in (*reversed(rest), first)}

    assert receivers == {pinned}
    assert wired.tally().verdicts - counted == {"lone_fragment": len(rest), "early_fragment": len(rest)}


@BOTH_FAMILIES
def test_a_replica_that_drains_gets_no_session_by_fragments_before_the_first_one(
    wired: Node, whole: Conversation, divided: Fragments
) -> None:
    first, *rest = divided(UP, 0)
    draining = wired.receiver(1, rest[0])
    wired.serve(DOWN, [slot for slot in SLOTS[DOWN] if slot != draining])
    wired.link(draining, DOWN, LinkState.DRAINING)

    assert wired.receiver(1, first) != draining
    assert wired.tally().verdicts == {"lone_fragment": 1, "parted_fragment": 1}


@BOTH_FAMILIES
def test_a_fragment_follows_a_first_one_of_its_number_for_thirty_seconds(
    wired: Node, whole: Conversation, divided: Fragments
) -> None:
    """An IPv4 sender has 65,536 numbers, so an old datagram may have had the same one."""
    number, pinned = pinned_elsewhere(wired, whole, divided)
    first, middle, last = divided(UP, number)
    wired.send(1, first)

    wired.age_of_fragments(PATIENCE - 2)
    followed = wired.receiver(1, middle)
    wired.age_of_fragments(2)
    counted = Counter(wired.tally().verdicts)
    afterwards = wired.receiver(1, last)

    assert (followed, afterwards == pinned) == (pinned, False)
    assert wired.tally().verdicts - counted == {"lone_fragment": 1}


@BOTH_FAMILIES
def test_a_first_one_follows_fragments_of_its_number_for_thirty_seconds(
    wired: Node, whole: Conversation, divided: Fragments
) -> None:
    first, *rest = divided(UP, 0)
    wired.send(1, rest[0])

    wired.age_of_fragments(PATIENCE)
    wired.send(1, first)

    assert wired.datapath.counters.remarks() == {(CONNECTION, "lone_fragment"): 1}


@BOTH_FAMILIES
def test_datagrams_that_never_end_take_no_place_from_later_ones(
    wired: Node, whole: Conversation, divided: Fragments
) -> None:
    """Four times as many as there are places for. One half of them lost their first fragment, the other their last."""
    first, *rest = map(bytes, divided(UP, 0))
    for number in range(4 * DATAGRAM_PLACES):
        wired.deliver(1, renumbered(first if number % 2 else rest[0], 10_000 + number))
    counted = Counter(wired.tally().verdicts)

    for number in range(20):
        assert len({wired.receiver(1, part) for part in divided(UP, number)}) == 1
    assert wired.tally().verdicts == counted


@BOTH_FAMILIES
def test_fragments_of_a_link_that_is_gone_go_to_another(wired: Node, whole: Conversation, divided: Fragments) -> None:
    first, *rest = divided(UP, 0)
    lost = wired.receiver(1, first)
    wired.link(lost, DOWN, LinkState.GONE)

    assert lost not in {wired.receiver(1, part) for part in rest}


@BOTH_FAMILIES
def test_fragments_open_one_session_of_their_ports(wired: Node, whole: Conversation, divided: Fragments) -> None:
    for part in divided(UP, 0):
        wired.send(1, part)

    (session,) = wired.datapath.sessions()

    assert (session.protocol, session.has_ports) == (17, True)

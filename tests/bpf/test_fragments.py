"""Fragments follow their first one, whose ports decide; those without a first one are forwarded and counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scapy.packet import Packet

from controller.node.plane.model import LinkState
from sfc.chain import Side
from tests.bpf.frames import Conversation, fragments, fragments6, udp, udp6
from tests.bpf.node import CONNECTION, Node

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
SLOTS = {UP: (1, 2, 3), DOWN: (11, 12, 13)}
Fragments = Callable[[Side, int], list[Packet]]
BOTH_FAMILIES = pytest.mark.parametrize(
    ("whole", "divided"), [(udp, fragments), (udp6, fragments6)], ids=["IPv4", "IPv6"]
)


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

"""ICMP and ICMPv6 errors follow the session of the packet they quote."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6ParamProblem, ICMPv6TimeExceeded, IPv6
from scapy.packet import Packet

from controller.node.plane.model import LinkState
from sfc.chain import Side
from tests.bpf.frames import (
    Conversation,
    ether,
    icmp_error,
    icmp_error6,
    ping,
    ping6,
    sctp,
    sctp6,
    tcp,
    tcp6,
    tcp_with_options,
    udp,
    udp6,
    udp6_behind_extensions,
)
from tests.bpf.node import Node

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
SLOTS = {UP: (1, 2, 3), DOWN: (11, 12, 13)}
QUOTED: dict[str, Conversation] = {
    "TCP": tcp,
    "TCP with IP options": tcp_with_options,
    "UDP": udp,
    "SCTP": sctp,
    "ICMP echo": ping,
}
QUOTED6: dict[str, Conversation] = {
    "IPv6 TCP": tcp6,
    "IPv6 UDP": udp6,
    "IPv6 SCTP": sctp6,
    "ICMPv6 echo": ping6,
    "IPv6 UDP behind extension headers": udp6_behind_extensions,
}


@pytest.fixture
def wired(node: Node) -> Node:
    for side in Side:
        node.serve(side, SLOTS[side])
    return node


def error_about(frame: Packet, sender: Side) -> Packet:
    return icmp_error(frame, sender) if IP in frame else icmp_error6(frame, sender)


@pytest.mark.parametrize("kind", QUOTED | QUOTED6)
@pytest.mark.parametrize("opener", Side)
def test_an_error_reaches_the_replica_that_sent_the_quoted_packet(wired: Node, kind: str, opener: Side) -> None:
    conversation = (QUOTED | QUOTED6)[kind]

    for number in range(20):
        sender = SLOTS[opener][number % 3]
        quoted = conversation(opener, number)
        chosen = wired.receiver(sender, quoted)

        assert wired.receiver(chosen, error_about(quoted, opener.other)) == sender


@pytest.mark.parametrize("kind", QUOTED | QUOTED6)
def test_an_error_about_an_answer_reaches_the_replica_that_sent_it(wired: Node, kind: str) -> None:
    conversation = (QUOTED | QUOTED6)[kind]

    for number in range(20):
        chosen = wired.receiver(1, conversation(UP, number))
        answer = conversation(DOWN, number)
        wired.send(chosen, answer)

        assert wired.receiver(1, error_about(answer, UP)) == chosen


@pytest.mark.parametrize("error", [ICMP(type=kind) for kind in (3, 4, 5, 11, 12)], ids=lambda error: str(error.type))
def test_every_icmp_error_follows(wired: Node, error: Packet) -> None:
    chosen = wired.receiver(2, udp(UP))

    receiver = wired.receiver(chosen, icmp_error(udp(UP), DOWN, error))

    assert receiver == 2


@pytest.mark.parametrize(
    "error", [ICMPv6DestUnreach(), ICMPv6PacketTooBig(), ICMPv6TimeExceeded(), ICMPv6ParamProblem()]
)
def test_every_icmpv6_error_follows(wired: Node, error: Packet) -> None:
    chosen = wired.receiver(2, udp6(UP))

    receiver = wired.receiver(chosen, icmp_error6(udp6(UP), DOWN, error))

    assert receiver == 2


def test_the_first_eight_bytes_of_the_quoted_payload_are_enough(wired: Node) -> None:
    chosen = wired.receiver(2, tcp(UP))
    error = bytes(icmp_error(tcp(UP), DOWN))[: 14 + 20 + 8 + 20 + 8]

    assert wired.receiver(chosen, error) == 2


@pytest.mark.parametrize("frame", [udp(UP), udp6(UP)], ids=["IPv4", "IPv6"])
def test_an_error_neither_opens_nor_moves_a_session(wired: Node, frame: Packet) -> None:
    wired.send(11, error_about(frame, DOWN))
    opened = list(wired.datapath.sessions())
    chosen = wired.receiver(1, frame)
    elsewhere = next(slot for slot in SLOTS[DOWN] if slot != chosen)

    wired.send(elsewhere, error_about(frame, DOWN))

    assert opened == []
    assert wired.receiver(1, frame) == chosen


def test_an_error_for_a_link_that_is_gone_goes_to_another(wired: Node) -> None:
    chosen = wired.receiver(1, udp(UP))
    wired.link(1, UP, LinkState.GONE)

    assert wired.receiver(chosen, icmp_error(udp(UP), DOWN)) in (2, 3)


def test_an_error_that_quotes_too_little_is_known_by_its_own_addresses(wired: Node) -> None:
    frame = ether(DOWN) / IP(src="10.1.0.1", dst="10.1.0.2") / ICMP(type=3) / b"\x45"
    frame6 = ether(DOWN) / IPv6(src="fd00::1", dst="fd00::2") / ICMPv6TimeExceeded() / b"\x60"

    receivers = [wired.receiver(11, each) for each in (frame, frame6)]

    assert set(receivers) <= set(SLOTS[UP])
    assert len(list(wired.datapath.sessions())) == 2

"""A new session towards a side with slices of source ports goes to the replica that holds its destination port."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from controller.node.plane import holders, maglev
from controller.node.plane.model import LinkState
from sfc.chain import Side
from sfc.source_ports import MAX_SLICES, nth
from tests.bpf.frames import ip, ip6, ping
from tests.bpf.node import CONNECTION, Node

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
TRANSLATORS, SERVER = (1, 2, 3), 11
SLICES = 7
KINDS = {
    "TCP": lambda port: ip(DOWN) / TCP(sport=20, dport=port, flags="S"),
    "UDP": lambda port: ip(DOWN) / UDP(sport=69, dport=port) / b"data",
    "SCTP": lambda port: ip(DOWN) / SCTP(sport=38412, dport=port) / Raw(bytes(16)),
    "IPv6 UDP": lambda port: ip6(DOWN) / UDP(sport=69, dport=port) / b"data",
}


def serve(node: Node, held: dict[int, int], slices: int = SLICES) -> None:
    """Translators on the upstream side. `held`: the index of the slice that each of them holds, by slot."""
    node.serve(DOWN, (SERVER,))
    node.serve(UP, TRANSLATORS)
    tail = holders.packed(slices, {slot: nth(index, slices) for slot, index in held.items()})
    node.datapath.set_targets(CONNECTION, UP, node.datapath.observe().targets[CONNECTION, UP] + tail)


@pytest.mark.parametrize("kind", KINDS)
def test_the_holder_of_a_port_gets_the_sessions_to_it_wherever_they_come_from(node: Node, kind: str) -> None:
    serve(node, {1: 4, 2: 0, 3: 6})

    for slot, index in ((1, 4), (2, 0), (3, 6)):
        ports = nth(index, SLICES)
        for port in (ports.first, (ports.first + ports.last) // 2, ports.last):
            assert node.receiver(SERVER, KINDS[kind](port)) == slot


@pytest.mark.parametrize("slices", [1, 2, 255, MAX_SLICES])
def test_slices_of_every_size_end_where_they_should(node: Node, slices: int) -> None:
    last = slices - 1
    serve(node, {2: last}, slices)

    assert node.receiver(SERVER, KINDS["UDP"](nth(last, slices).first)) == 2
    assert node.receiver(SERVER, KINDS["UDP"](65535)) == 2
    below = {node.receiver(SERVER, KINDS["UDP"](nth(last, slices).first - 1 - n)) for n in range(12)}
    assert below == {1, 2, 3}, "nobody holds those"


def test_what_no_replica_holds_goes_by_its_hash(node: Node) -> None:
    serve(node, {1: 0})

    def receivers(frames: list[Packet]) -> set[int]:
        return {node.receiver(SERVER, frame) for frame in frames}

    assert receivers([KINDS["UDP"](nth(3, SLICES).first + n) for n in range(20)]) == {*TRANSLATORS}
    assert receivers([KINDS["UDP"](1000 + n) for n in range(20)]) == {*TRANSLATORS}
    assert receivers([ping(DOWN, number, pinger=DOWN) for number in range(2000, 2020)]) == {*TRANSLATORS}


def test_a_session_that_is_known_stays_where_it_is(node: Node) -> None:
    serve(node, {1: 0, 2: 1, 3: 2})
    port = nth(0, SLICES).first
    answer = KINDS["UDP"](port)
    node.send(3, ip(UP) / UDP(sport=port, dport=69) / b"question")

    assert node.receiver(SERVER, answer) == 3


def test_a_holder_that_drains_gets_what_is_for_its_ports_and_one_that_is_gone_nothing(node: Node) -> None:
    serve(node, {1: 0})
    first = nth(0, SLICES).first

    node.link(1, UP, LinkState.DRAINING)
    while_it_drains = {node.receiver(SERVER, KINDS["UDP"](first + n)) for n in range(8)}
    node.link(1, UP, LinkState.GONE)
    after = {node.receiver(SERVER, KINDS["UDP"](first + n)) for n in range(8, 28)}

    assert while_it_drains == {1}
    assert after <= {2, 3}


def test_the_maps_give_back_who_holds_what(node: Node) -> None:
    serve(node, {1: 0, 3: 2})
    table = node.datapath.observe().targets[CONNECTION, UP]

    assert table[2 * maglev.LENGTH :] == holders.packed(SLICES, {1: nth(0, SLICES), 3: nth(2, SLICES)})
    node.datapath.set_targets(CONNECTION, UP, table[: 2 * maglev.LENGTH])
    assert len(node.datapath.observe().targets[CONNECTION, UP]) == 2 * maglev.LENGTH

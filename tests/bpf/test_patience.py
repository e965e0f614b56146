"""What ends a session: silence beyond its patience, the last packets of both sides, or a reset that nothing follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from scapy.layers.sctp import (
    SCTP,
    SCTPChunkAbort,
    SCTPChunkCookieAck,
    SCTPChunkData,
    SCTPChunkInit,
    SCTPChunkInitAck,
    SCTPChunkSACK,
    SCTPChunkShutdown,
    SCTPChunkShutdownAck,
    SCTPChunkShutdownComplete,
)
from scapy.packet import Packet

from controller.node.plane.model import LinkState
from controller.node.plane.sessions import DEFAULT_PATIENCE
from sfc.chain import Patience, Side
from tests.bpf.frames import ip, ip6, ping, ports, tcp, tcp6, udp, udp6
from tests.bpf.node import CONNECTION, Node

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
CLIENT, REPLICAS, MORE = 1, (11, 12, 13, 14), (11, 12, 13, 14, 15, 16, 17, 18)
NUMBERS = range(24)

INIT, INIT_ACK, COOKIE_ACK = SCTPChunkInit(), SCTPChunkInitAck(), SCTPChunkCookieAck()
DATA, SACK, ABORT = SCTPChunkData(data=b"data"), SCTPChunkSACK(), SCTPChunkAbort()
SHUTDOWN, SHUTDOWN_ACK = SCTPChunkShutdown(), SCTPChunkShutdownAck()
SHUTDOWN_COMPLETE = SCTPChunkShutdownComplete()


def sctp(sender: Side, number: int, *chunks: Packet) -> Packet:
    return _association(ip(sender), sender, number, chunks)


def sctp6(sender: Side, number: int, *chunks: Packet) -> Packet:
    return _association(ip6(sender), sender, number, chunks)


def _association(frame: Packet, sender: Side, number: int, chunks: Iterable[Packet]) -> Packet:
    frame /= SCTP(**ports(sender, 20000 + number, 38412))
    for chunk in chunks:
        frame /= chunk.copy()
    return frame


class Connection:
    """How one protocol opens, uses, ends and resets a connection: the frames of each side."""

    def __init__(
        self, frame: Callable[..., Packet], opening: object, answer: object, data: object, reset: object, *end: object
    ) -> None:
        self._frame = frame
        self.opening, self.answer, self.data, self.reset, self.end = opening, answer, data, reset, end

    def frame(self, sender: Side, number: int, kind: object) -> bytes:
        return bytes(self._frame(sender, number, kind))


CONNECTIONS = {
    "TCP": Connection(tcp, "S", "SA", "A", "R", "FA", "FA"),
    "IPv6 TCP": Connection(tcp6, "S", "SA", "A", "RA", "FA", "FA"),
    "SCTP": Connection(sctp, INIT, INIT_ACK, DATA, ABORT, SHUTDOWN, SHUTDOWN_ACK),
    "IPv6 SCTP": Connection(sctp6, INIT, INIT_ACK, DATA, ABORT, SHUTDOWN, SHUTDOWN_ACK),
}


@pytest.fixture
def wired(node: Node) -> Node:
    node.serve(UP, (CLIENT,))
    node.serve(DOWN, REPLICAS)
    return node


@pytest.fixture(params=CONNECTIONS)
def kind(request: pytest.FixtureRequest) -> Connection:
    return CONNECTIONS[request.param]


def opened(node: Node, kind: Connection, numbers: Iterable[int] = NUMBERS, answered: bool = True) -> dict[int, int]:
    """Opens connections from upstream; the replica of each."""
    replicas = {number: node.receiver(CLIENT, kind.frame(UP, number, kind.opening)) for number in numbers}
    for number, replica in replicas.items() if answered else ():
        assert node.receiver(replica, kind.frame(DOWN, number, kind.answer)) == CLIENT
    return replicas


def sent(node: Node, kind: Connection, frame: object, numbers: Iterable[int] = NUMBERS) -> dict[int, int]:
    return {number: node.receiver(CLIENT, kind.frame(UP, number, frame)) for number in numbers}


def drain(node: Node, slot: int) -> None:
    node.serve(DOWN, [each for each in REPLICAS if each != slot])
    node.link(slot, DOWN, LinkState.DRAINING)


def active(node: Node) -> int:
    return node.datapath.activity([CLIENT])[CLIENT]


# --- what opens and closes a connection -------------------------------------------------------------------------------


def test_a_connection_whose_sides_have_both_finished_begins_anew(wired: Node, kind: Connection) -> None:
    replicas = opened(wired, kind)
    first, second = kind.end
    for number, replica in replicas.items():
        wired.send(CLIENT, kind.frame(UP, number, first))
        wired.send(replica, kind.frame(DOWN, number, second))
    wired.serve(DOWN, (15,))

    assert sent(wired, kind, kind.data) == replicas
    assert set(sent(wired, kind, kind.opening).values()) == {15}


def test_one_side_that_has_finished_ends_no_connection(wired: Node, kind: Connection) -> None:
    replicas = opened(wired, kind)
    sent(wired, kind, kind.end[0])
    wired.age_of_sessions(2)
    wired.serve(DOWN, (15,))

    assert active(wired) == len(NUMBERS)
    assert sent(wired, kind, kind.opening) == replicas


@pytest.mark.parametrize("resetter", Side)
def test_a_connection_begins_anew_once_nothing_has_followed_its_reset(
    wired: Node, kind: Connection, resetter: Side
) -> None:
    replicas = opened(wired, kind)
    for number, replica in replicas.items():
        wired.send(CLIENT if resetter == UP else replica, kind.frame(resetter, number, kind.reset))
    wired.serve(DOWN, (15,))
    wired.age_of_sessions(2)

    assert active(wired) == 0
    assert set(sent(wired, kind, kind.opening).values()) == {15}


def test_an_opening_over_a_live_connection_after_a_forged_reset_does_not_move_it(wired: Node, kind: Connection) -> None:
    replicas = opened(wired, kind)
    wired.serve(DOWN, MORE)
    sent(wired, kind, kind.reset)

    assert sent(wired, kind, kind.opening) == replicas
    assert sent(wired, kind, kind.data) == replicas


@pytest.mark.parametrize("continuer", Side)
def test_a_connection_that_goes_on_takes_a_reset_back(wired: Node, kind: Connection, continuer: Side) -> None:
    replicas = opened(wired, kind)
    sent(wired, kind, kind.data)
    sent(wired, kind, kind.reset)

    for number, replica in replicas.items():
        wired.send(CLIENT if continuer == UP else replica, kind.frame(continuer, number, kind.data))
    wired.age_of_sessions(250)
    wired.serve(DOWN, (15,))

    assert active(wired) == len(NUMBERS)
    assert sent(wired, kind, kind.opening) == replicas


def test_a_reset_that_comes_first_is_taken_back_by_the_next_packet(wired: Node, kind: Connection) -> None:
    replicas = sent(wired, kind, kind.reset)

    assert sent(wired, kind, kind.data) == replicas
    assert not any(session.reset for session in wired.datapath.sessions())


def test_an_opening_over_a_connection_whose_link_is_gone_begins_it_anew(wired: Node, kind: Connection) -> None:
    replicas = opened(wired, kind)
    sent(wired, kind, kind.end[0])
    wired.link(11, DOWN, LinkState.GONE)

    after = sent(wired, kind, kind.opening)

    moved = [number for number in NUMBERS if replicas[number] == 11]
    assert moved
    assert 11 not in after.values()
    assert sum(not session.upstream_finished for session in wired.datapath.sessions()) == len(moved)


@pytest.mark.parametrize(
    ("chunks", "closes", "resets"),
    [
        ([SHUTDOWN], True, False),
        ([SHUTDOWN_ACK], True, False),
        ([SHUTDOWN_COMPLETE], True, False),
        ([ABORT], False, True),
        ([DATA], False, False),
        ([SACK, DATA], False, False),
        ([INIT], False, False),
        ([INIT_ACK], False, False),
        ([COOKIE_ACK, DATA], False, False),
    ],
    ids=lambda value: "+".join(chunk.name for chunk in value) if isinstance(value, list) else None,
)
@pytest.mark.parametrize("frame", [sctp, sctp6])
def test_the_first_chunk_of_an_sctp_packet_says_what_it_does(
    wired: Node, frame: Callable[..., Packet], chunks: Sequence[Packet], closes: bool, resets: bool
) -> None:
    wired.send(CLIENT, frame(UP, 0, DATA))
    wired.send(CLIENT, frame(UP, 0, *chunks))

    (session,) = wired.datapath.sessions()
    assert (session.upstream_finished, session.reset) == (closes, resets)
    assert not session.downstream_finished


@pytest.mark.parametrize("length", range(8, 17))
def test_an_sctp_packet_that_is_cut_off_says_nothing(wired: Node, length: int) -> None:
    wired.send(CLIENT, sctp(UP, 0, DATA))

    wired.send(CLIENT, bytes(sctp(UP, 0, SHUTDOWN))[: 14 + 20 + length])

    (session,) = wired.datapath.sessions()
    assert session.upstream_finished == (length == 16)


# --- how long a session may be silent ---------------------------------------------------------------------------------


def test_a_connection_that_nobody_answers_holds_no_drain(wired: Node, kind: Connection) -> None:
    opened(wired, kind, range(20), answered=False)
    opened(wired, kind, range(20, 23))
    wired.age_of_sessions(2)

    assert active(wired) == 3


def test_an_opening_that_nobody_answered_tries_another_replica_when_its_own_drains(
    wired: Node, kind: Connection
) -> None:
    replicas = opened(wired, kind, answered=False)
    drain(wired, 11)
    soon = sent(wired, kind, kind.opening)
    wired.age_of_sessions(2)

    late = sent(wired, kind, kind.opening)

    assert soon == replicas
    assert 11 in replicas.values()
    assert 11 not in late.values()


def test_a_connection_stays_with_a_replica_that_drains_after_any_silence(wired: Node, kind: Connection) -> None:
    replicas = opened(wired, kind)
    drain(wired, 11)
    wired.age_of_sessions(1000)

    assert active(wired) == 0
    assert sent(wired, kind, kind.data) == replicas
    assert active(wired) == len(NUMBERS)


@pytest.mark.parametrize("conversation", [udp, udp6, ping])
def test_a_drain_waits_as_long_as_the_program_keeps_a_silent_session(
    wired: Node, conversation: Callable[[Side, int], Packet]
) -> None:
    wired.datapath.set_patience(CONNECTION, Patience(udp=60, other=60))
    frames = {number: bytes(conversation(UP, number)) for number in NUMBERS}
    replicas = {number: wired.receiver(CLIENT, frame) for number, frame in frames.items()}
    drain(wired, 11)

    wired.age_of_sessions(10)
    active_then = active(wired)
    then = {number: wired.receiver(CLIENT, frame) for number, frame in frames.items()}
    wired.age_of_sessions(61)
    active_late = active(wired)
    late = {number: wired.receiver(CLIENT, frame) for number, frame in frames.items()}

    assert 11 in replicas.values()
    assert (then, active_then) == (replicas, len(NUMBERS))
    assert 11 not in late.values()
    assert active_late == 0


def test_the_patience_of_the_node_is_that_of_chains_that_say_nothing(bpffs: Path) -> None:
    node = Node(bpffs / "patient", patience=Patience(tcp=300, sctp=300, udp=60, other=60))
    try:
        node.serve(UP, (CLIENT,))
        node.serve(DOWN, REPLICAS)
        frames = [bytes(frame(UP, number)) for number in NUMBERS for frame in (udp, ping)]
        replicas = [node.receiver(CLIENT, frame) for frame in frames]
        associations = opened(node, CONNECTIONS["SCTP"])
        drain(node, 11)

        node.age_of_sessions(10)
        waited_for = active(node)
        then = [node.receiver(CLIENT, frame) for frame in frames]
        still = sent(node, CONNECTIONS["SCTP"], DATA)
        node.age_of_sessions(61)
        late = [node.receiver(CLIENT, frame) for frame in frames]
    finally:
        node.close()

    assert 11 in replicas
    assert waited_for == len(frames) + len(NUMBERS)
    assert (then, still) == (replicas, associations)
    assert 11 not in late


def test_patience_belongs_to_a_cross_connection(wired: Node) -> None:
    other = CONNECTION + 1
    wired.datapath.set_patience(CONNECTION, Patience(udp=60, tcp=10))
    wired.datapath.set_patience(other, Patience(sctp=7))

    assert wired.datapath.observe().patience == {CONNECTION: Patience(udp=60, tcp=10), other: Patience(sctp=7)}
    assert wired.datapath.patience(CONNECTION) == Patience(tcp=10, sctp=300, udp=60, other=5)
    for number in (CONNECTION, other):
        wired.datapath.clear_patience(number)
    assert wired.datapath.observe().patience == {}
    assert wired.datapath.patience(CONNECTION) == wired.datapath.patience(0xDEADBEEF) == DEFAULT_PATIENCE

"""Who has to give way in the session table: not the sessions that live, whatever else arrives.

A thousand idle connections run from four replicas of an address translator (the upstream side of A) to a server. An
answer that finds no session goes to one of the four by its hash, so three in four would break. Then a crowd opens more
sessions than the table has room for. Before each run of the program, `HEADER` makes another frame of the one it gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP

from sfc.chain import Side
from tests.bpf.frames import Conversation, ether, numbered, tcp, udp
from tests.bpf.node import TC_ACT_REDIRECT, Node, Runs, test_run

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
CAPACITY = 16_384
A, B = 7, 8
TRANSLATORS, SERVER = (1, 2, 3, 4), 11
CROWD = {A: (5, SERVER), B: (6, 16)}
"""By cross-connection, the links at which the crowd's frames come in: of its clients, and of its server."""
IDLE = 1000
FRAMES = {"unanswered": 1, "two packets": 2, "proven": 3}
"""In a session of the crowd: the client's, the server's, the client's again."""

HEADER = r"""
/* Frames that a crowd sends: the mark is 1 << 24 | frames in a session << 16 | the server's slot << 8 | the client's.
 * The client's address counts the sessions, and the payload counts the frames.
 */
#define LINK_SLOT(skb) ({ \
	unsigned int *count_ = (void *)(long)(skb)->data + 56, *source_ = (void *)(long)(skb)->data + 26; \
	unsigned int slot_ = (skb)->mark, frames_ = slot_ >> 16 & 0xff; \
	if (slot_ >> 24 && frames_ && (void *)(count_ + 1) <= (void *)(long)(skb)->data_end) { \
		unsigned int now_ = *count_, number_ = now_ / frames_, frame_ = now_ % frames_; \
		*count_ = now_ + 1; \
		source_[0] = frame_ == 1 ? 0x0100020a : number_; \
		source_[1] = frame_ == 1 ? number_ : 0x0100020a; \
		source_[2] = frame_ == 1 ? 0x00105000 : 0x50000010; \
		slot_ = frame_ == 1 ? slot_ >> 8 & 0xff : slot_ & 0xff; \
	} \
	slot_; })
"""


@pytest.fixture(scope="module")
def two_chains(bpffs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    header = tmp_path_factory.mktemp("crowd") / "crowd.h"
    header.write_text(HEADER)
    node = Node(bpffs / "crowd", CAPACITY, cflags=["-include", str(header)])
    try:
        yield node
    finally:
        node.close()


@pytest.fixture
def node(two_chains: Node) -> Node:
    two_chains.reset()
    two_chains.serve(UP, TRANSLATORS, A)
    two_chains.serve(DOWN, (SERVER,), A)
    for connection, (client, server) in CROWD.items():
        two_chains.link(client, UP, connection=connection)
        if connection == B:
            two_chains.serve(UP, (client,), B)
            two_chains.serve(DOWN, (server,), B)
    return two_chains


def idle(node: Node, kind: Conversation) -> None:
    """Opens the connections, each from its translator."""
    runs, frame = Runs(node.datapath.program_fd), {side: bytes(kind(side, 0)) for side in Side}
    for number in range(IDLE):
        translator = TRANSLATORS[number % 4]
        for slot, side in ((translator, UP), (SERVER, DOWN), (translator, UP)):
            runs.deliver(slot, numbered(frame[side], side, number))


def broken(node: Node, kind: Conversation) -> int:
    """Of the idle connections, those whose next answer does not reach their translator."""
    answer = bytes(kind(DOWN, 0))
    reached = [node.receiver(SERVER, numbered(answer, DOWN, number)) for number in range(IDLE)]
    return sum(slot != TRANSLATORS[number % 4] for number, slot in enumerate(reached))


def crowd(node: Node, connection: int, frames: int, sessions: int, flags: str = "A") -> None:
    """Opens so many sessions of so many frames each."""
    client, server = CROWD[connection]
    frame = bytes(ether(UP) / IP(src="0.0.0.0", dst="10.2.0.1") / TCP(sport=4096, dport=80, flags=flags) / bytes(10))
    mark = 1 << 24 | frames << 16 | server << 8 | client
    action, _, _ = test_run(node.datapath.program_fd, mark, frame, repeat=frames * sessions)
    assert action == TC_ACT_REDIRECT


@pytest.mark.parametrize("kind", [tcp, udp])
@pytest.mark.parametrize("connection", [A, B], ids=["the same chain", "another chain"])
@pytest.mark.parametrize(("frames", "times"), [(2, 4), (1, 10)], ids=["two-packet sessions", "unanswered SYNs"])
def test_idle_connections_outlive_a_crowd_that_proves_nothing(
    node: Node, kind: Conversation, connection: int, frames: int, times: int
) -> None:
    idle(node, kind)

    crowd(node, connection, frames, times * CAPACITY, "S" if frames == 1 else "A")

    assert broken(node, kind) == 0
    assert node.datapath.counters.evicted() == {}
    assert node.datapath.counters.remembered() <= CAPACITY


def test_idle_connections_outlive_the_established_sessions_of_another_chain(node: Node) -> None:
    idle(node, tcp)

    crowd(node, B, 3, 4 * CAPACITY)

    assert broken(node, tcp) == 0
    assert node.datapath.counters.evicted().keys() == {B}


def test_of_established_sessions_of_one_chain_the_longest_silent_give_way(node: Node) -> None:
    crowd(node, B, 3, CAPACITY // 2)
    idle(node, tcp)

    crowd(node, B, 3, 4 * CAPACITY)
    clients = Counter(session.connection for session in node.datapath.sessions())

    assert broken(node, tcp) == 0
    assert clients[A] == IDLE
    assert clients[B] > CAPACITY * 3 // 4


def test_a_small_chain_finds_room_in_a_table_that_another_chain_has_filled(node: Node) -> None:
    crowd(node, B, 3, 4 * CAPACITY)

    idle(node, tcp)
    crowd(node, B, 3, 4 * CAPACITY)

    assert broken(node, tcp) == 0
    assert node.datapath.counters.remarks() == {}


def test_a_large_chain_finds_room_beside_a_small_one_that_proves_nothing(node: Node) -> None:
    crowd(node, A, 3, 4 * CAPACITY)
    crowd(node, B, 1, CAPACITY)

    idle(node, tcp)

    assert broken(node, tcp) == 0
    assert node.datapath.counters.remarks() == {}


def test_a_session_without_room_is_told_of(node: Node) -> None:
    node.leave_no_room()

    reached = node.receiver(1, tcp(UP))

    assert reached == SERVER
    assert node.datapath.counters.remarks() == {(A, "no_room"): 1}


def test_what_a_cross_connection_holds_is_counted_through_all_that_happens(node: Node) -> None:
    idle(node, tcp)
    crowd(node, B, 2, 2 * CAPACITY)
    crowd(node, A, 3, CAPACITY // 4)

    held = Counter(session.connection for session in node.datapath.sessions())

    assert {number: places for (number,), (places, _) in node.datapath._maps["holdings"].items() if places} == held
    node.datapath.session_tables.forget(B)
    assert node.datapath.counters.remembered() == held[A]

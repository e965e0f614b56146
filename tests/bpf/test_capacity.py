"""A million sessions of each kind, and more than fit: the tables keep their bound, and no flow breaks.

`-s` prints how long that took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.packet import Packet

from sfc.chain import Side
from tests.bpf.frames import Conversation, ip, ip6, udp, udp6
from tests.bpf.node import CONNECTION, TC_ACT_REDIRECT, Node, test_run

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
CAPACITY = 1_000_000
CROWD_SESSIONS = 1_200_000
ROUNDS = 6
CLIENT, CROWD = 1, 2
REPLICAS = (11, 12, 13, 14, 15)

CROWD_HEADER = """
/* The slot comes from the mark, as in all test runs. What the crowd sends has another source address every time: the
 * word counted up is a part of it, in IPv4 and in IPv6. */
#define LINK_SLOT(skb) ({ \\
	unsigned int *_word = (void *)(long)(skb)->data + 26; \\
	if ((skb)->mark == CROWD && (void *)(_word + 1) <= (void *)(long)(skb)->data_end) \\
		(*_word)++; \\
	(skb)->mark; })
"""


@pytest.fixture
def million(bpffs: Path, tmp_path: Path) -> Iterator[Node]:
    header = tmp_path / "crowd.h"
    header.write_text(CROWD_HEADER)
    node = Node(bpffs / "million", CAPACITY, cflags=["-include", str(header), f"-DCROWD={CROWD}"])
    try:
        node.serve(UP, (CLIENT,))
        node.link(CROWD, UP)
        node.serve(DOWN, REPLICAS)
        yield node
    finally:
        node.close()


@pytest.mark.parametrize(
    ("kind", "crowd_of"),
    [
        (udp, lambda number: ip(UP, src=f"11.0.0.{number}", proto=253)),
        (udp6, lambda number: ip6(UP, src=f"fd00:11:0:{number}::", nh=253)),
    ],
    ids=["IPv4", "IPv6"],
)
def test_more_sessions_than_fit_break_no_flow(
    million: Node, kind: Conversation, crowd_of: Callable[[int], Packet]
) -> None:
    frames = [bytes(kind(UP, number)) for number in range(100)]
    answers = [bytes(kind(DOWN, number)) for number in range(100)]
    before = [million.receiver(CLIENT, frame) for frame in frames]
    there, back = [], []

    began = time.monotonic()
    first_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for number in range(ROUNDS):
        crowd = bytes(crowd_of(number))
        action, _, _ = test_run(million.datapath.program_fd, CROWD, crowd, repeat=CROWD_SESSIONS // ROUNDS)
        assert action == TC_ACT_REDIRECT
        there.append([million.receiver(CLIENT, frame) for frame in frames])
        back.append([million.receiver(slot, frame) for slot, frame in zip(before, answers, strict=True)])
    took = time.monotonic() - began
    dropped, evicted = million.datapath.counters.drops(), million.datapath.counters.evicted()
    filled = time.monotonic()
    active = million.datapath.activity([CROWD], first_ns)  # so that none has been silent for too long
    read = time.monotonic()
    million.datapath.forget(CONNECTION)
    million.datapath.sweep()
    swept = time.monotonic()

    opened = million.datapath.counters.traffic([CROWD])[CROWD].sessions_opened
    print(
        f"\n{kind.__name__}: {opened} sessions opened, {active[CROWD]} remembered of {CAPACITY}; "
        f"{took:.1f} s to fill, "
        f"{1000 * (read - filled):.1f} ms to count the active ones, {1000 * (swept - read):.1f} ms to forget all"
    )
    assert opened == CROWD_SESSIONS
    assert there == [before] * ROUNDS
    assert back == [[CLIENT] * len(frames)] * ROUNDS
    assert 0.9 * CAPACITY < active[CROWD] <= CAPACITY
    assert evicted == {}
    assert not dropped
    assert million.datapath.counters.remembered() == 0

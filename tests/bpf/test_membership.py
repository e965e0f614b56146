"""Replicas come and go, N = 1 … 64: no established flow changes its replica, although the table changes.

Each flow comes from an upstream link of its own. So a session's upstream end identifies the flow, and its downstream
end the replica. `-s` prints the number of flows, and how many of as many new flows the other table places elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from controller.node.plane.model import SLOTS, LinkState
from sfc.chain import Side
from tests.bpf.frames import Conversation, tcp, udp6
from tests.bpf.node import CONNECTION, Node, test_run

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
CLIENTS = range(1000, 1400)
REPLICAS = range(1, 66)
COUNTS = range(1, 65)
FAMILIES = pytest.mark.parametrize("kind", [tcp, udp6], ids=["IPv4", "IPv6"])

Pins = dict[int, int]
"""By the slot of a flow's client, the slot of its replica."""


@pytest.fixture
def clients(node: Node) -> Node:
    for slot in CLIENTS:
        node.link(slot, UP)
    return node


def send(node: Node, frames: Sequence[bytes]) -> Pins:
    """One frame of each flow; who got them. The counters must say what the sessions say."""
    before = node.datapath.counters.traffic(REPLICAS)
    for slot, frame in zip(CLIENTS, frames, strict=True):
        test_run(node.datapath.program_fd, slot, frame)
    after = node.datapath.counters.traffic(REPLICAS)
    received = {slot: after[slot].sent_packets - before[slot].sent_packets for slot in REPLICAS}
    pins = {_slot(session.upstream): _slot(session.downstream) for session in node.datapath.sessions()}
    assert Counter(pins.values()) == Counter({slot: count for slot, count in received.items() if count})
    return pins


def _slot(end: int) -> int:
    return end >> 32 & (SLOTS - 1)


def chosen_anew(node: Node, frames: Sequence[bytes]) -> Pins:
    node.datapath.forget(CONNECTION)
    node.datapath.sweep()
    return send(node, frames)


def serve(node: Node, count: int) -> Sequence[int]:
    slots = REPLICAS[:count]
    node.serve(DOWN, slots)
    return slots


@FAMILIES
def test_no_established_flow_changes_replica_when_one_comes_or_leaves(clients: Node, kind: Conversation) -> None:
    frames = [bytes(kind(UP, number)) for number, _ in enumerate(CLIENTS)]
    moved: Counter[str] = Counter()

    for count in COUNTS:
        serve(clients, count)
        established = chosen_anew(clients, frames)
        serve(clients, count + 1)
        with_one_more = send(clients, frames)
        new = chosen_anew(clients, frames)
        clients.link(REPLICAS[count], DOWN, LinkState.DRAINING)
        serve(clients, count)
        with_one_less = send(clients, frames)

        assert len(established) == len(CLIENTS)
        assert with_one_more == established
        assert with_one_less == new
        moved["new flows"] += len(new)
        moved["of them to the replica that came"] += sum(slot == REPLICAS[count] for slot in new.values())
        moved["of them elsewhere than the table before placed them"] += sum(
            new[flow] != established[flow] for flow in new
        )

    print(f"\n{kind.__name__}: {dict(moved)}, established flows moved: 0")


@FAMILIES
def test_a_replica_that_left_gets_no_new_flow(clients: Node, kind: Conversation) -> None:
    frames = [bytes(kind(UP, number)) for number, _ in enumerate(CLIENTS)]

    for count in (1, 2, 5, 16, 64):
        serve(clients, count + 1)
        clients.link(REPLICAS[count], DOWN, LinkState.DRAINING)
        serve(clients, count)

        assert REPLICAS[count] not in chosen_anew(clients, frames).values()

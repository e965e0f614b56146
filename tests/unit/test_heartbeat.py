"""Which of the other nodes live, by the answers to echoes."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from controller.node.reconcile.heartbeat import ECHO, MISSES, Heartbeat

BEAT_NS = 200_000_000


class Nodes:
    """So many other nodes, and what this one believes of them."""

    def __init__(self, count: int) -> None:
        self.now = 1_000_000_000
        self.numbers = {f"10.0.0.{number}": number for number in range(1, count + 1)}
        self.up = dict.fromkeys(self.numbers.values(), True)
        self.answered = dict.fromkeys(self.numbers.values(), 0)
        self.dead: set[int] = set()
        self.asked: list[str] = []

    def known(self) -> dict[str, int]:
        return self.numbers

    def heard(self, number: int) -> int:
        return self.answered[number]

    def is_up(self, number: int) -> bool:
        return self.up[number]

    def set_up(self, number: int, up: bool) -> None:
        self.up[number] = up

    def send(self, address: str) -> None:
        self.asked.append(address)
        if self.numbers[address] not in self.dead:
            self.answered[self.numbers[address]] = self.now

    def believed_up(self) -> set[int]:
        return {number for number, up in self.up.items() if up}


Beats = Callable[[int], None]


@pytest.fixture
def nodes(request: pytest.FixtureRequest) -> Nodes:
    return Nodes(getattr(request, "param", 4))


@pytest.fixture
def beat(nodes: Nodes) -> Beats:
    heartbeat = Heartbeat(nodes, nodes.send, lambda: nodes.now)

    def beats(times: int) -> None:
        for _ in range(times):
            heartbeat.beat()
            nodes.now += BEAT_NS

    return beats


def test_every_node_is_asked_at_every_beat(nodes: Nodes, beat: Beats) -> None:
    beat(2)

    assert nodes.asked == [*nodes.numbers, *nodes.numbers]


def test_a_node_that_misses_five_beats_is_down_and_not_before(nodes: Nodes, beat: Beats) -> None:
    beat(3)
    nodes.dead = {2}

    beat(MISSES)
    assert nodes.believed_up() == {1, 2, 3, 4}
    beat(2)
    assert nodes.believed_up() == {1, 3, 4}


def test_a_node_that_never_answered_is_down_as_soon(nodes: Nodes, beat: Beats) -> None:
    nodes.dead = {2}

    beat(MISSES + 2)

    assert nodes.believed_up() == {1, 3, 4}


def test_a_node_that_is_heard_again_is_up_at_once(nodes: Nodes, beat: Beats) -> None:
    nodes.dead = {2}
    beat(20)

    nodes.dead = set()
    beat(1)

    assert nodes.believed_up() == {1, 2, 3, 4}


def test_a_node_that_hears_fewer_than_half_changes_nothing_and_says_so(
    nodes: Nodes, beat: Beats, caplog: pytest.LogCaptureFixture
) -> None:
    beat(3)
    nodes.dead = {1, 2, 3}

    beat(20)

    assert nodes.believed_up() == {1, 2, 3, 4}
    assert [record.message for record in caplog.records].count(
        "most other nodes are silent: this node is probably cut off, and changes nothing"
    ) == 1


def test_when_most_are_heard_again_the_rest_is_down(nodes: Nodes, beat: Beats) -> None:
    nodes.dead = {1, 2, 3}
    beat(20)

    nodes.dead = {3}
    beat(2)

    assert nodes.believed_up() == {1, 2, 4}


@pytest.mark.parametrize("nodes", [1], indirect=True)
def test_the_only_other_node_can_be_down(nodes: Nodes, beat: Beats) -> None:
    nodes.dead = {1}

    beat(MISSES + 2)

    assert nodes.believed_up() == set()


def test_an_echo_that_cannot_be_sent_is_one_that_is_not_answered(nodes: Nodes) -> None:
    def unreachable(_: str) -> None:
        raise OSError(101, "Network is unreachable")

    heartbeat = Heartbeat(nodes, unreachable, lambda: nodes.now)
    nodes.answered = dict.fromkeys(nodes.answered, nodes.now)

    heartbeat.beat()

    assert nodes.believed_up() == {1, 2, 3, 4}


def test_an_echo_is_vxlan_with_a_policy_for_the_node_itself() -> None:
    flags, _, policy, identifier = struct.unpack("!BBHI", ECHO[:8])

    assert (flags, policy, identifier) == (0x88, 0x5000, 0)

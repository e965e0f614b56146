"""Which of the other nodes live, by the answers to echoes."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from controller.node.plane.hearing import Silent
from controller.node.reconcile.heartbeat import ANSWERS, MISSES, Heartbeat, echo

BEAT_NS = 200_000_000


class Nodes:
    """So many other nodes, and what this one believes of them."""

    def __init__(self, count: int) -> None:
        self.now = 1_000_000_000
        self.numbers = {f"10.0.0.{number}": number for number in range(1, count + 1)}
        self.up = dict.fromkeys(self.numbers.values(), True)
        self.answered = dict.fromkeys(self.numbers.values(), 0)
        self.dead: set[int] = set()
        self.versions: dict[int, int] = {}
        """Of those that send in another version of the wire."""
        self.asked: list[str] = []

    def known(self) -> dict[str, int]:
        return self.numbers

    def heard(self, number: int) -> int:
        return 0 if number in self.versions else self.answered[number]

    def foreign(self, number: int) -> int | None:
        return self.versions.get(number)

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
    return beats_of(nodes, Heartbeat(nodes, nodes.send, lambda: nodes.now))


def beats_of(nodes: Nodes, heartbeat: Heartbeat) -> Beats:
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


def test_a_node_that_is_heard_again_is_up_after_five_answers_in_a_row(nodes: Nodes, beat: Beats) -> None:
    """At the first one, its own way to other nodes may not be open yet."""
    nodes.dead = {2}
    beat(20)

    nodes.dead = set()
    beat(ANSWERS - 1)
    nodes.dead = {2}
    beat(1)
    nodes.dead = set()
    beat(ANSWERS)
    interrupted = nodes.believed_up()
    beat(1)

    assert interrupted == {1, 3, 4}
    assert nodes.believed_up() == {1, 2, 3, 4}


def test_a_node_that_was_cut_off_goes_on_at_the_first_answers(nodes: Nodes, beat: Beats) -> None:
    """It changed nothing, so there is nothing to undo."""
    nodes.dead = {1, 2, 3, 4}
    beat(20)

    believed = []
    nodes.dead = set()
    for _ in range(ANSWERS + 1):
        beat(1)
        believed.append(nodes.believed_up())

    assert believed == [{1, 2, 3, 4}] * (ANSWERS + 1)


def test_the_next_agent_too_waits_for_five_answers_of_a_node_that_was_down(nodes: Nodes, beat: Beats) -> None:
    nodes.set_up(2, False)

    beat(ANSWERS)
    early = nodes.believed_up()
    beat(1)

    assert early == {1, 3, 4}
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
    beat(ANSWERS + 1)

    assert nodes.believed_up() == {1, 2, 4}


@pytest.mark.parametrize("nodes", [1], indirect=True)
def test_the_only_other_node_can_be_down(nodes: Nodes, beat: Beats) -> None:
    nodes.dead = {1}

    beat(MISSES + 2)

    assert nodes.believed_up() == set()


@pytest.mark.parametrize("nodes", [1, 2, 4], indirect=True)
@pytest.mark.parametrize("late_ns", [2_000_000_000, 60_000_000_000])
def test_a_thread_that_is_late_takes_nobody_for_silent(nodes: Nodes, beat: Beats, late_ns: int) -> None:
    """It has asked nobody meanwhile, so nobody has missed anything."""
    beat(3)

    for _ in range(10):
        nodes.now += late_ns
        beat(1)

    assert nodes.believed_up() == set(nodes.up)


def test_a_thread_that_is_late_still_finds_out_who_is_dead(nodes: Nodes, beat: Beats) -> None:
    beat(3)
    nodes.dead = {2}

    for _ in range(MISSES + 1):
        nodes.now += 2_000_000_000
        beat(1)

    assert nodes.believed_up() == {1, 3, 4}


def test_a_node_that_answers_late_but_answers_is_not_down(nodes: Nodes, beat: Beats) -> None:
    beat(3)

    for _ in range(20):
        nodes.dead = {2}
        beat(MISSES - 1)
        nodes.answered[2] = nodes.now
        beat(1)

    assert nodes.believed_up() == {1, 2, 3, 4}


def test_a_node_of_another_version_is_down_at_once_and_the_log_names_it(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    beat = beats_of(nodes, Heartbeat(nodes, nodes.send, lambda: nodes.now, names=lambda: {"10.0.0.2": "node-2"}))
    beat(3)

    nodes.versions = {2: 3}
    beat(5)

    assert nodes.believed_up() == {1, 3, 4}
    (record,) = caplog.records
    assert (record.peer, record.version) == ("node-2", 3)  # type: ignore[attr-defined]
    assert "another version of the wire" in record.message


def test_nodes_of_another_version_live_so_that_this_one_is_not_cut_off(nodes: Nodes, beat: Beats) -> None:
    """The first node of an upgrade: nothing of it reaches the others, so nothing may be sent to them."""
    beat(3)

    nodes.versions = {1: 2, 2: 2, 3: 2, 4: 2}
    beat(2)
    all_foreign = nodes.believed_up()
    nodes.versions = {1: 2}
    beat(ANSWERS + 1)

    assert (all_foreign, nodes.believed_up()) == (set(), {2, 3, 4})


def test_others_can_see_who_is_silent_since_when_and_why(nodes: Nodes) -> None:
    heartbeat = Heartbeat(nodes, nodes.send, lambda: nodes.now)
    beat = beats_of(nodes, heartbeat)
    beat(3)
    last = nodes.answered[2] / 1e9

    nodes.dead, nodes.versions = {2}, {3: 2}
    beat(10)

    assert (len(heartbeat.hearing.peers), heartbeat.hearing.cut_off) == (4, False)
    assert heartbeat.hearing.silent.keys() == {"10.0.0.2", "10.0.0.3"}
    assert heartbeat.hearing.silent["10.0.0.2"] == Silent(last)
    assert heartbeat.hearing.silent["10.0.0.3"].version == 2


def test_each_round_trip_is_observed(nodes: Nodes) -> None:
    seconds: list[float] = []

    def send(address: str) -> None:
        nodes.answered[nodes.numbers[address]] = nodes.now + 3_000_000

    beats_of(nodes, Heartbeat(nodes, send, lambda: nodes.now, observe=seconds.append))(3)

    assert seconds == [pytest.approx(0.003)] * 8


def test_an_echo_that_cannot_be_sent_is_one_that_is_not_answered(nodes: Nodes) -> None:
    def unreachable(_: str) -> None:
        raise OSError(101, "Network is unreachable")

    heartbeat = Heartbeat(nodes, unreachable, lambda: nodes.now)
    nodes.answered = dict.fromkeys(nodes.answered, nodes.now)

    heartbeat.beat()

    assert nodes.believed_up() == {1, 2, 3, 4}


def test_an_echo_is_vxlan_with_a_policy_for_the_node_itself() -> None:
    flags, _, policy, identifier = struct.unpack("!BBHI", echo()[:8])

    assert (flags, policy, identifier) == (0x88, 0x5000, 0)

"""Which nodes report that another one is silent: few, soon, and any that no other can stand in for."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from controller.node.plane.hearing import LASTING_SECONDS, Entry, Hearing, Silent, unreachable
from sfc.names import TELLERS

STEP = 1.0


class Fleet:
    """Nodes with replicas of one cross-connection. Each sees what the others have written `late` seconds ago."""

    def __init__(self, count: int, late: float = 2.0) -> None:
        self.names = [f"node-{number}" for number in range(count)]
        self.late = late
        self.now = 1000.0
        self.said: dict[str, list[tuple[float, tuple[str, ...]]]] = {name: [(0.0, ())] for name in self.names}
        self.silent: dict[str, dict[str, float]] = {name: {} for name in self.names}
        self.writes = 0

    def lose(self, name: str, by: Collection[str] | None = None) -> None:
        for other in self.names if by is None else by:
            if other != name:
                self.silent[other][name] = self.now

    def hear(self, name: str) -> None:
        for other in self.names:
            self.silent[other].pop(name, None)

    def run(self, seconds: float, dead: Collection[str] = ()) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += STEP
            for name in self.names:
                if name not in dead:
                    self._write(name)

    def reports(self) -> dict[str, tuple[str, ...]]:
        return {name: said[-1][1] for name, said in self.said.items() if said[-1][1]}

    def _write(self, name: str) -> None:
        if not self.silent[name] and not self.said[name][-1][1]:
            return
        others = [Entry(other, other, frozenset(self._seen(other))) for other in self.names if other != name]
        hearing = Hearing(self.names, {silent: Silent(since) for silent, since in self.silent[name].items()})
        before = self.said[name][-1][1]
        if (says := unreachable(name, others, hearing, before, self.now)) != before:
            self.said[name].append((self.now, says))
            self.writes += 1

    def _seen(self, name: str) -> tuple[str, ...]:
        return next(says for at, says in reversed(self.said[name]) if at <= self.now - self.late)


def test_a_node_that_dies_costs_few_writes_however_many_notice() -> None:
    fleet = Fleet(60)
    fleet.lose("node-7")

    fleet.run(LASTING_SECONDS + 2, dead={"node-7"})
    soon = fleet.reports()
    fleet.run(80, dead={"node-7"})

    assert len(soon) == TELLERS
    assert set(soon.values()) == {("node-7",)}
    assert fleet.reports() == soon
    assert fleet.writes == TELLERS


def test_what_lasts_a_shorter_time_is_not_written() -> None:
    fleet = Fleet(12)
    fleet.lose("node-7")

    fleet.run(LASTING_SECONDS - 1)
    fleet.hear("node-7")
    fleet.run(30)

    assert fleet.writes == 0


def test_it_is_taken_back_as_soon_as_the_node_answers() -> None:
    fleet = Fleet(12)
    fleet.lose("node-7")
    fleet.run(60, dead={"node-7"})

    fleet.hear("node-7")
    fleet.run(1)

    assert fleet.reports() == {}


@pytest.mark.parametrize("witness", ["node-0", "node-5", "node-11"])
def test_a_node_that_only_one_other_does_not_reach_is_reported_by_that_one(witness: str) -> None:
    fleet = Fleet(12)
    fleet.lose("node-7", by=[witness])

    fleet.run(LASTING_SECONDS + 60)

    assert fleet.reports() == {witness: ("node-7",)}


def test_when_those_that_report_die_others_do() -> None:
    fleet = Fleet(12)
    fleet.lose("node-7")
    fleet.run(30, dead={"node-7"})
    first = set(fleet.reports())
    for name in first:
        fleet.lose(name)
        fleet.names.remove(name)  # their entries are withdrawn

    fleet.run(90, dead={"node-7"})

    assert {name for name, says in fleet.reports().items() if "node-7" in says} - first


def test_a_node_without_replicas_here_is_not_named_however_silent() -> None:
    hearing = Hearing(["10.0.0.2", "10.0.0.9"], {"10.0.0.9": Silent(0.0)})

    assert unreachable("a", [Entry("b", "10.0.0.2", frozenset())], hearing, (), 1000.0) == ()

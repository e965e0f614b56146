"""Writes go by turns, and a namespace whose writes fail makes nobody else wait."""

from __future__ import annotations

from controller.cluster.turns import RETRY, Turns
from controller.cluster.writes import Delete


def deletes(namespace: str, count: int) -> list[Delete]:
    return [Delete(f"{namespace}-{i}") for i in range(count)]


def order(turns: Turns, now: float, **planned: int) -> list[str]:
    made = {namespace: deletes(namespace, count) for namespace, count in planned.items()}
    return [write.path for _, write in turns.order(made, now) if isinstance(write, Delete)]


def test_a_namespace_with_few_writes_does_not_wait_for_one_with_many() -> None:
    written = order(Turns(), 0, attacker=1000, victim=2)

    assert written[:4] == ["attacker-0", "victim-0", "attacker-1", "victim-1"]
    assert len(written) == 1002


def test_writes_of_one_namespace_stay_in_their_order() -> None:
    assert order(Turns(), 0, telco=3) == ["telco-0", "telco-1", "telco-2"]


def test_a_namespace_whose_write_failed_waits_and_the_others_go_on() -> None:
    turns = Turns()
    turns.note({"attacker": False, "victim": True}, now=0)

    assert order(turns, 0, attacker=1, victim=1) == ["victim-0"]
    assert 0 < turns.next_due() <= RETRY.longest
    assert order(turns, turns.next_due(), attacker=1, victim=1) == ["attacker-0", "victim-0"]


def test_a_namespace_that_fails_again_waits_longer_until_it_succeeds() -> None:
    turns = Turns()
    for _ in range(20):
        turns.note({"attacker": False}, now=0)
    assert RETRY.longest / 2 <= turns.next_due() <= RETRY.longest

    turns.note({"attacker": True}, now=0)

    assert turns.next_due() == float("inf")


def test_a_namespace_without_writes_is_forgotten() -> None:
    turns = Turns()
    turns.note({"attacker": False}, now=0)

    turns.keep({})

    assert turns.next_due() == float("inf")

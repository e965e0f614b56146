"""What is worked on next: namespaces by turns, each key once, and what failed after a back-off of its own."""

from __future__ import annotations

import pytest

from controller.cluster.queue import GATHER_SECONDS, REST_SECONDS, RETRY, Queue
from kube.objects import Key

A, B, C = ("telco", "a"), ("telco", "b"), ("venue", "c")


def queue(*keys: Key) -> Queue:
    """With keys whose time has come at 1."""
    made = Queue()
    for key in keys:
        made.add(key, 0)
    return made


def taken(queue: Queue, now: float) -> list[Key]:
    """All that can be worked on, one after the other."""
    found = []
    while (key := queue.take(now)) is not None:
        found.append(key)
        queue.done(key, now)
    return found


def fail(queue: Queue, key: Key, now: float, pause: float = 0.0) -> None:
    queue.add(key, now - 1)
    assert queue.take(now) == key
    queue.done(key, now, failed=True, pause=pause)


def test_a_key_that_waits_is_in_the_queue_once_and_gathers_what_follows() -> None:
    waiting = queue(A, A, A)
    waiting.add(A, GATHER_SECONDS / 2)

    assert len(waiting) == 1
    assert waiting.take(GATHER_SECONDS / 2) is None
    assert waiting.next_due() == GATHER_SECONDS
    assert taken(waiting, GATHER_SECONDS) == [A]


def test_a_namespace_with_few_keys_does_not_wait_for_one_with_many() -> None:
    many = [("attacker", str(i)) for i in range(1000)]

    order = taken(queue(*many, ("victim", "0"), ("victim", "1")), 1)

    assert order[:4] == [("attacker", "0"), ("victim", "0"), ("attacker", "1"), ("victim", "1")]
    assert len(order) == 1002


def test_a_namespace_has_one_pass_at_a_time_and_others_have_theirs_meanwhile() -> None:
    waiting = queue(A, B, C)

    assert [waiting.take(1), waiting.take(1), waiting.take(1)] == [A, C, None]
    waiting.done(A, 1)
    assert waiting.take(1) == B


def test_what_changes_while_it_is_worked_on_is_worked_on_again() -> None:
    waiting = queue(A)
    waiting.take(1)
    waiting.add(A, 1)
    waiting.add(A, 2)

    assert waiting.take(3) is None
    waiting.done(A, 3)

    assert taken(waiting, 3) == [A]
    assert taken(waiting, 9) == []


def test_a_key_that_fails_comes_back_by_itself_later_each_time_until_it_succeeds() -> None:
    waiting, now, waits = queue(A), 1.0, []
    for _ in range(12):
        assert waiting.take(now) == A
        waiting.done(A, now, failed=True)
        waits.append(waiting.next_due() - now)
        now = waiting.next_due()
    assert waits[0] == REST_SECONDS
    assert RETRY.longest / 2 <= waits[-1] <= RETRY.longest

    assert taken(waiting, now) == [A]

    assert waiting.next_due() == float("inf")
    fail(waiting, A, now + 1)
    assert waiting.next_due() == pytest.approx(now + 1 + REST_SECONDS)


def test_a_key_that_fails_holds_up_no_other_key_not_even_of_its_namespace() -> None:
    waiting = queue()
    fail(waiting, A, 100)

    waiting.add(B, 100)

    assert taken(waiting, 100 + GATHER_SECONDS) == [B]


def test_a_change_of_what_failed_is_worked_on_before_its_back_off_is_over_but_not_at_once() -> None:
    waiting, now = queue(), 0.0
    for now in range(0, 1000, 100):
        fail(waiting, A, now)
    assert waiting.next_due() >= now + RETRY.longest / 2

    waiting.add(A, now)

    assert waiting.take(now + GATHER_SECONDS) is None
    assert taken(waiting, now + REST_SECONDS) == [A]


def test_a_server_that_asks_to_wait_is_not_asked_earlier_whatever_changes() -> None:
    waiting = queue()
    fail(waiting, A, 1, pause=20)

    waiting.add(A, 2)

    assert waiting.take(20.9) is None
    assert taken(waiting, 21) == [A]


@pytest.mark.parametrize("failed", [True, False])
def test_what_the_queue_takes_is_bounded_by_the_number_of_keys(failed: bool) -> None:
    waiting, now = queue(), 0.0
    for _ in range(1000):
        for key in (A, B, C):
            waiting.add(key, now)
            waiting.add(key, now, delay=0)
        now += REST_SECONDS
        while (taken_key := waiting.take(now)) is not None:
            waiting.done(taken_key, now, failed=failed)

    assert len(waiting) <= 3
    assert len(waiting._later) <= 2 * 3 + 8

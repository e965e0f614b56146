"""Drains that were asked for: which request counts, and what a waiting hook is answered."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from controller.node.plane.drain import Drain, RetiredError
from controller.node.reconcile.deletions import Deletions
from controller.node.reconcile.drains import Drains

ASKED = Drain("uid-1", asked_at=100.0, deadline=130.0)
ENDED = replace(ASKED, out_of_targets_at=100.1, ended_at=101.0)
WIRED = {"uid-1"}


def test_a_request_is_in_progress_from_the_next_pass_on_while_its_pod_has_links() -> None:
    drains = Drains()
    drains.request(ASKED)

    assert drains.in_progress(None, WIRED, now=100.0) == {"uid-1": ASKED}
    assert drains.in_progress(None, (), now=100.0) == {}


def test_two_requests_before_a_pass_are_one_drain_from_the_earlier_beginning_on() -> None:
    drains = Drains()
    drains.request(ASKED)
    drains.request(replace(ASKED, asked_at=90.0, confirmed=True))

    found = drains.in_progress(None, WIRED, now=100.0)

    assert found == {"uid-1": replace(ASKED, asked_at=90.0, confirmed=True)}


def test_a_request_that_a_pass_had_to_spare_stays_a_request_and_its_hook_waits() -> None:
    drains = Drains()
    drains.request(ASKED)
    drains.in_progress(None, WIRED, now=100.0)

    drains.settle({}, [replace(ASKED, out_of_targets_at=100.1)])

    assert drains.wait("uid-1", timeout=0) == ASKED
    assert drains.in_progress(None, WIRED, now=101.0) == {"uid-1": ASKED}
    assert drains.unconfirmed


def test_a_request_that_came_during_a_pass_is_left_for_the_next() -> None:
    drains = Drains()
    drains.in_progress(None, WIRED, now=100.0)
    drains.request(ASKED)

    drains.settle({})

    assert drains.in_progress(None, WIRED, now=101.0) == {"uid-1": ASKED}


def test_a_hook_whose_drain_is_not_confirmed_by_the_api_servers_answer_is_not_held() -> None:
    drains = Drains(deletions=Deletions(set, lambda: 101.0))
    drains.settle({"uid-1": ASKED})
    drains.deletions.ask(100.5)

    left = drains.in_progress(None, WIRED, now=101.0)
    drains.settle(left)

    assert left == {}
    assert drains.wait("uid-1", timeout=10) is None
    assert not drains.unconfirmed


def test_a_drain_that_was_seen_before_its_hook_came_begins_when_the_hook_was_called() -> None:
    drains = Drains()
    drains.settle({"uid-1": replace(ASKED, out_of_targets_at=100.1)})

    drains.request(replace(ASKED, asked_at=99.0, deadline=129.0))

    found = drains.in_progress(None, WIRED, now=101.0)["uid-1"]
    assert (found.asked_at, found.deadline, found.out_of_targets_at) == (99.0, 129.0, 100.1)


def test_a_hook_waits_until_its_drain_has_ended() -> None:
    drains = Drains()
    drains.request(ASKED)
    drains.settle({"uid-1": ASKED})

    before = drains.wait("uid-1", timeout=0)
    drains.settle({"uid-1": ENDED})

    assert before == ASKED
    assert drains.wait("uid-1", timeout=10) == ENDED
    assert not drains.unfinished


def test_a_hook_whose_pod_lost_its_links_is_not_held() -> None:
    drains = Drains()
    drains.request(ASKED)

    drains.settle(drains.in_progress(None, (), now=100.0))

    assert drains.wait("uid-1", timeout=10) is None


def test_hooks_that_wait_when_the_agent_retires_are_sent_to_another_and_their_drains_go_with_them() -> None:
    drains = Drains([ASKED])
    answers: list[type[Exception]] = []

    def hook() -> None:
        try:
            drains.wait("uid-1", timeout=10)
        except RetiredError as error:
            answers.append(type(error))

    waiting = threading.Thread(target=hook)
    waiting.start()
    handed_over = drains.retire()
    waiting.join(5)

    assert handed_over == (ASKED,)
    assert answers == [RetiredError]
    with pytest.raises(RetiredError):
        drains.wait("uid-1", timeout=10)


def test_a_hook_whose_drain_has_ended_is_answered_after_the_agent_retired() -> None:
    drains = Drains()
    drains.settle({"uid-1": ENDED})

    drains.retire()

    assert drains.wait("uid-1", timeout=10) == ENDED

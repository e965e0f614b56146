"""Asking the API server for deletions: seldom, and each question after what it has to decide about."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection

import pytest

from controller.node.reconcile import deletions
from controller.node.reconcile.deletions import Deletions
from kube.api import ApiError


class Api:
    """Answers slowly, so that questions meet."""

    def __init__(self, *deleted: str, seconds: float = 0.0) -> None:
        self.deleted = set(deleted)
        self.seconds = seconds
        self.away = False
        self.asked_at: list[float] = []

    def __call__(self) -> Collection[str]:
        self.asked_at.append(time.monotonic())
        time.sleep(self.seconds)
        if self.away:
            raise ApiError(0, "NoAnswer", "no route to host")
        return self.deleted


def test_an_answer_decides_about_what_came_before_it_and_is_not_asked_for_again() -> None:
    api = Api("uid-1")
    asked = Deletions(api)
    before = time.monotonic()

    first, second = asked.ask(before), asked.ask(before)

    assert first.deleted == {"uid-1"}
    assert first.asked_at > before
    assert second is first is asked.last
    assert len(api.asked_at) == 1


def test_a_later_question_is_asked_anew_and_not_sooner_than_a_second_after_the_last() -> None:
    api = Api()
    asked = Deletions(api)
    asked.ask(time.monotonic())

    asked.ask(time.monotonic())

    first, second = api.asked_at
    assert second - first >= deletions.ASK_SECONDS - 0.01


def test_hooks_that_come_together_share_two_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletions, "ASK_SECONDS", 0.0)
    api = Api(seconds=0.2)
    asked = Deletions(api)
    first = threading.Thread(target=lambda: asked.ask(time.monotonic()))
    first.start()
    while not api.asked_at:
        time.sleep(0.001)
    came = time.monotonic()
    callers = [threading.Thread(target=lambda: asked.ask(came)) for _ in range(50)]

    for caller in callers:
        caller.start()
    for caller in (first, *callers):
        caller.join(10)

    assert len(api.asked_at) == 2


def test_who_waited_for_a_request_that_failed_is_not_made_to_wait_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletions, "ASK_SECONDS", 0.0)
    api = Api(seconds=0.2)
    api.away = True
    came: list[float] = []
    answers = []

    def once_all_have_come() -> Collection[str]:
        while len(came) < 20:
            time.sleep(0.001)
        return api()

    asked = Deletions(once_all_have_come)

    def call() -> None:
        came.append(time.monotonic())
        answers.append(asked.ask(came[-1]))

    callers = [threading.Thread(target=call) for _ in range(20)]

    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(10)

    assert len(api.asked_at) == 1
    assert [answer.deleted for answer in answers] == [None] * 20

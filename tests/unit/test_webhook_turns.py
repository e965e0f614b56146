"""Large reviews wait for each other, small ones for none of them."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from webhook import turns
from webhook.decide.model import AdmissionRequest, Decision
from webhook.review import Answer
from webhook.turns import Reviews, TooManyError


def body(uid: str, size: int = 0) -> bytes:
    metadata = {"name": "a", "annotations": {"a": "x" * size}}
    request = {"uid": uid, "operation": "CREATE", "namespace": "telco", "object": {"metadata": metadata}}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def large(uid: str) -> bytes:
    return body(uid, turns.LARGE_BYTES)


class Held:
    """Decides when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.decided: list[str] = []

    def __call__(self, request: AdmissionRequest) -> Decision:
        assert self.let.wait(10)
        self.decided.append(request.uid)
        return Decision()


def at_once(request: AdmissionRequest) -> Decision:
    return Decision()


async def started(reviews: Reviews, *bodies: bytes, held: Held) -> list[asyncio.Task[Answer]]:
    tasks = [asyncio.create_task(reviews.answer(each, held)) for each in bodies]
    await asyncio.sleep(0)
    return tasks


def run(scenario: Any) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_small_review_does_not_wait_for_a_large_one() -> None:
    async def scenario() -> None:
        reviews, held = Reviews(), Held()
        (slow,) = await started(reviews, large("large"), held=held)

        small = await reviews.answer(body("small"), at_once)

        assert (small.uid, slow.done()) == ("small", False)
        held.let.set()
        assert (await slow).uid == "large"

    run(scenario)


def test_large_reviews_are_made_one_after_the_other_with_a_rest_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "REST", 1e9)

    async def scenario() -> None:
        reviews, held = Reviews(), Held()
        first, second = await started(reviews, large("first"), large("second"), held=held)
        held.let.set()

        assert (await first).uid == "first"
        await asyncio.sleep(0.05)

        assert (held.decided, second.done()) == (["first"], False), "the thread rests"
        second.cancel()

    run(scenario)


def test_a_large_review_that_is_not_one_gives_the_turn_on() -> None:
    async def scenario() -> None:
        reviews = Reviews()
        with pytest.raises(Exception, match="is not JSON"):
            await reviews.answer(b"{" * (turns.LARGE_BYTES + 1), at_once)

        assert (await reviews.answer(large("next"), at_once)).uid == "next"

    run(scenario)


def test_too_many_large_reviews_are_refused_and_small_ones_never() -> None:
    async def scenario() -> None:
        reviews, held = Reviews(), Held()
        tasks = await started(reviews, *(large(str(i)) for i in range(turns.MOST_WAITING)), held=held)

        with pytest.raises(TooManyError, match="try again"):
            await reviews.answer(large("one more"), at_once)
        assert (await reviews.answer(body("small"), at_once)).uid == "small"

        held.let.set()
        assert (await tasks[0]).uid == "0"
        for task in tasks[1:]:
            task.cancel()

    run(scenario)

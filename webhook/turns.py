"""Large reviews wait for each other, small ones for none of them.

A review of a few kilobytes takes about a millisecond and is made at once. One of a megabyte takes a hundred times as
long, and its size is a tenant's choice. Large ones are made in a thread of their own, one at a time, and after each
the thread rests, so that they take at most a quarter of a processor from everybody else's.
"""

from __future__ import annotations

import asyncio
import time

from sfc import threads
from webhook.review import Answer, Decide, review

LARGE_BYTES = 64 << 10
"""Of a body. A workload has seldom more than 30 KiB, two of which come in an update."""
MOST_WAITING = 8
"""Large reviews at one time, with the one that is being made; a bound for the memory that they take."""
REST = 3.0
"""How many times as long as a large review took its thread rests."""


class TooManyError(Exception):
    """Too many large reviews wait. The API server, or who asked it, may try again."""


class Reviews:
    """Makes reviews, for one event loop."""

    def __init__(self) -> None:
        self._thread = threads.pool(1, "large reviews")
        self._turn = asyncio.Lock()
        self._large = 0

    async def answer(self, body: bytes, decide: Decide) -> Answer:
        """As `webhook.review.review`, which raises Malformed. Raises TooManyError for a large body."""
        if len(body) <= LARGE_BYTES:
            return review(body, decide)
        if self._large >= MOST_WAITING:
            raise TooManyError(f"{MOST_WAITING} reviews of more than {LARGE_BYTES} bytes wait already; try again")
        self._large += 1
        try:
            await self._turn.acquire()
            return await self._made(body, decide)
        finally:
            self._large -= 1

    async def _made(self, body: bytes, decide: Decide) -> Answer:
        """Gives the turn on after the rest, which the caller does not wait for."""
        loop, began = asyncio.get_running_loop(), time.monotonic()
        try:
            return await loop.run_in_executor(self._thread, review, body, decide)
        finally:
            loop.call_later((time.monotonic() - began) * REST, self._turn.release)

"""Asks the API server which replicas of this node are being deleted, where the watch has not shown it.

A hook that the watch explains needs no question. Any other one costs one request at most: the answer decides about all
hooks that were called before it was asked for. However many hooks are called, and whoever calls them, two requests are
ASK_SECONDS apart.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection

from controller.node.plane.drain import NEVER_ASKED, Answer
from kube.api import ApiError

log = logging.getLogger(__name__)

ASK_SECONDS = 1.0
"""Between two requests."""


def nobody() -> Collection[str]:
    """For a node without an API server. Raises ApiError."""
    raise ApiError(0, "NoAnswer", "there is no API server")


class Deletions:
    """Any thread may call it."""

    def __init__(
        self, deleted: Callable[[], Collection[str]] = nobody, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`deleted` returns the UIDs of the node's replicas that are being deleted, and raises ApiError."""
        self._deleted = deleted
        self._clock = clock
        self._asking = threading.Lock()
        """Held during a request and the pause before it. Whoever waits for it shares the next answer."""
        self._last = NEVER_ASKED
        self._heard_at = float("-inf")
        """When the last request was answered, or failed."""

    @property
    def last(self) -> Answer:
        """The last answer; `deleted` is None before the first, and when the API server could not be asked."""
        return self._last

    def ask(self, since: float) -> Answer:
        """An answer that was asked for after `since`, which is on the clock.

        Waits as long as the client of the API server does. The answer's `deleted` is None when the API server cannot be
        asked.
        """
        came = self._clock()
        with self._asking:
            failed_meanwhile = self._last.deleted is None and self._heard_at > came
            if self._last.asked_at <= since and not failed_meanwhile:
                time.sleep(min(ASK_SECONDS, max(0.0, self._last.asked_at + ASK_SECONDS - self._clock())))
                self._last = self._asked()
                self._heard_at = self._clock()
            return self._last

    def _asked(self) -> Answer:
        began = self._clock()
        try:
            return Answer(began, frozenset(self._deleted()))
        except ApiError as error:
            log.warning("the API server cannot be asked for deletions", extra={"error": str(error)})
            return Answer(began, None)

"""Gives links the shortcut past their filter, outside of any pass: the kernel changes no other link meanwhile.

A link needs no shortcut, because its filter does the same. So this takes its time: it waits until the links that came
together are there, and after each link it leaves the kernel to others for as long as that link took.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain

from controller.node.plane.model import LinksByPod
from controller.node.plane.plan import State
from sfc import threads

log = logging.getLogger(__name__)

CALM_SECONDS = 1.0
"""Between the news of a link and its shortcut."""


class Shortcuts:
    """To run in a thread of its own; `note` may be called by any other."""

    def __init__(self, number: int, give: Callable[[int], None], take: Callable[[int], None]) -> None:
        """`number` is the kernel's number of this agent's shortcut. `give` puts it on the link with an interface index,
        in place of what former agents left there; `take` removes all of ours. Both are idempotent."""
        self._number = number
        self._give = give
        self._take = take
        self._links: LinksByPod = {}
        self._news = threading.Event()

    def note(self, state: State) -> None:
        """A pass has seen the node's links."""
        if state.links is not self._links:
            self._links = state.links
            self._news.set()

    def run(self, stop: threading.Event) -> None:
        """Mends the shortcuts of links whenever a pass has listed them, until `stop`."""
        while not stop.is_set():
            threads.beat()
            if self._news.wait(CALM_SECONDS) and not stop.wait(CALM_SECONDS):
                self._news.clear()
                for seconds in self.mend():
                    threads.beat()
                    if stop.wait(seconds):
                        return

    def mend(self) -> Iterator[float]:
        """Gives the shortcut to each link that lacks it, and takes it from those that may not have it any more; the
        seconds that each took. What the kernel refuses is tried again when the links are listed again."""
        for link in chain.from_iterable(self._links.values()):
            wanted = (self._number,) if link.shortens else ()
            if link.shortcuts == wanted:
                continue
            began = time.monotonic()
            try:
                (self._give if wanted else self._take)(link.ifindex)
            except Exception:
                log.exception("shortcut refused; the link's frames take its filter", extra={"link": link.name})
            yield time.monotonic() - began

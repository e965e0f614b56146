"""In which order the writes of a plan are done: by turns, so that no tenant's writes wait for all those of another.

A namespace whose write failed waits before it is tried again; the others go on meanwhile. It may be one that is being
deleted, and whose owner keeps it from ending.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from controller.cluster.writes import Write
from kube.backoff import Backoff

RETRY = Backoff(first=0.5, longest=30.0)
"""After a write of a namespace that failed."""


class Turns:
    """The namespaces that wait. For one thread. Times are seconds on the monotonic clock."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        """Passes in a row in which a write of the namespace failed."""
        self._due: dict[str, float] = {}
        """When the namespace may be tried again."""

    def order(self, planned: Mapping[str, Sequence[Write]], now: float) -> Iterator[tuple[str, Write]]:
        """One write of each namespace, then the next of each, and so on; none of a namespace that waits.

        Writes of one namespace stay in their order.
        """
        left = {
            namespace: iter(writes) for namespace, writes in planned.items() if self._due.get(namespace, now) <= now
        }
        while left:
            for namespace, writes in list(left.items()):
                if (write := next(writes, None)) is None:
                    del left[namespace]
                else:
                    yield namespace, write

    def note(self, results: Mapping[str, bool], now: float) -> None:
        """Whether all writes succeeded, for each namespace that had some."""
        for namespace, succeeded in results.items():
            if succeeded:
                self._failures.pop(namespace, None)
                self._due.pop(namespace, None)
            else:
                self._failures[namespace] = self._failures.get(namespace, 0) + 1
                self._due[namespace] = now + RETRY.seconds(self._failures[namespace])

    def keep(self, planned: Mapping[str, Sequence[Write]]) -> None:
        """Forget the namespaces that have nothing to write any more."""
        for namespace in self._due.keys() - planned.keys():
            del self._due[namespace], self._failures[namespace]

    def next_due(self) -> float:
        """When the first of the waiting namespaces may be tried again; infinite when none waits."""
        return min(self._due.values(), default=float("inf"))

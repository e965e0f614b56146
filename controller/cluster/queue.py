"""What the cluster controller works on next, and when. No I/O; time is an argument.

As the rate-limiting work queue of client-go: a key that waits is in the queue once; one that is worked on is not given
out again before that has ended; one whose pass failed comes back after a back-off of its own. Besides, namespaces take
turns, and each has one pass at a time. So neither many chains of a tenant nor writes that take long or fail make
another tenant wait.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass

from kube.backoff import Backoff
from kube.objects import Key

GATHER_SECONDS = 0.1
"""A key waits this long after it was added first, so that one pass covers the changes that follow at once."""
RETRY = Backoff(first=0.5, longest=30.0)
"""After passes that failed."""
REST_SECONDS = 0.5
"""After a pass that failed, changes of the same object bring the next one no sooner than this."""


@dataclass(frozen=True, slots=True)
class _Failed:
    in_a_row: int
    rests_until: float


class Queue:
    """The keys that wait. For one thread at a time. Times are seconds on the monotonic clock.

    It holds a key at most once; what it takes is bounded by the number of keys.
    """

    def __init__(self) -> None:
        self._due: dict[Key, float] = {}
        """The keys whose time has not come."""
        self._later: list[tuple[float, Key]] = []
        """The same as a heap. An entry counts only if `_due` has the same time."""
        self._ready: OrderedDict[str, OrderedDict[Key, None]] = OrderedDict()
        """The keys whose time has come, by namespace, in the order of their turns."""
        self._busy: dict[str, Key] = {}
        """What is worked on, by namespace."""
        self._again: dict[Key, float] = {}
        """Of what is worked on: what was added meanwhile, and for when."""
        self._failed: dict[Key, _Failed] = {}

    def __len__(self) -> int:
        """The keys that wait."""
        return len(self._due) + sum(map(len, self._ready.values())) + len(self._again)

    def add(self, key: Key, now: float, delay: float = GATHER_SECONDS) -> None:
        """Work on `key` after `delay`, unless it comes sooner anyway."""
        if self._busy.get(key[0]) == key:
            self._again[key] = min(now + delay, self._again.get(key, float("inf")))
        elif key not in self._ready.get(key[0], ()):
            self._wait(key, now + delay)

    def take(self, now: float) -> Key | None:
        """The next key to work on, whose namespace is busy until `done`. None when no key may be worked on now."""
        self._ripen(now)
        namespace = next((each for each in self._ready if each not in self._busy), None)
        if namespace is None:
            return None
        keys = self._ready.pop(namespace)
        key, _ = keys.popitem(last=False)
        if keys:
            self._ready[namespace] = keys  # behind all others
        self._busy[namespace] = key
        return key

    def done(self, key: Key, now: float, *, failed: bool = False, pause: float = 0.0) -> None:
        """The work on `key` has ended. `failed`: it has to be repeated, after `pause` at least."""
        del self._busy[key[0]]
        if failed:
            failures = self._failed[key].in_a_row + 1 if key in self._failed else 1
            self._failed[key] = _Failed(failures, now + max(pause, REST_SECONDS))
            self._wait(key, now + max(pause, RETRY.seconds(failures)))
        else:
            self._failed.pop(key, None)
        if (again := self._again.pop(key, None)) is not None:
            self._wait(key, again)

    def next_due(self) -> float:
        """When the time of another key comes; infinite when none waits for it."""
        return self._later[0][0] if self._later else float("inf")

    def _wait(self, key: Key, due: float) -> None:
        if failed := self._failed.get(key):
            due = max(due, failed.rests_until)
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._later, (due, key))
        if len(self._later) > 2 * len(self._due) + 8:
            self._later = [(time, each) for each, time in self._due.items()]
            heapq.heapify(self._later)

    def _ripen(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            due, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self._ready.setdefault(key[0], OrderedDict())[key] = None

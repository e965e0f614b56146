"""Counts the active sessions of replicas that drain, ends those that a deadline ends, and removes sessions whose
cross-connection has left the node.

In a thread of its own, because looking through the session tables takes milliseconds, and no pass may wait for that.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from controller.node.plane.drain import Drain
from controller.node.plane.plan import State
from controller.node.reconcile.drains import Drains
from controller.node.reconcile.protocols import DataPathWriter
from sfc import threads

log = logging.getLogger(__name__)

COUNT_SECONDS = 0.2
"""Between two counts."""
STOP_SECONDS = 1.0
"""While no replica drains: until the thread notices that it should end."""


class SessionCounter:
    """`run` or `count` writes the result, and a pass reads it with `active`. It is one value that is replaced as a
    whole, so there is no lock."""

    def __init__(
        self,
        datapath: DataPathWriter,
        drains: Drains,
        state: Callable[[], State],
        wake: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`state` is what the last pass left behind; `wake` is called after each count."""
        self._datapath = datapath
        self._drains = drains
        self._state = state
        self._wake = wake
        self._clock = clock
        self._counted: tuple[float, Mapping[str, int]] = (clock(), {})
        """When the last count began, and the active sessions of each pod."""
        self._reset: frozenset[tuple[str, float]] = frozenset()
        """(pod UID, when its deadline passed) of each pod whose sessions the deadline has ended."""

    def run(self, stop: threading.Event) -> None:
        """Counts again and again while replicas drain, until `stop`."""
        while not stop.is_set():
            threads.beat()
            self._drains.wait_for_any(STOP_SECONDS)
            try:
                self.count()
                self.end()
                self._datapath.sweep()
            except Exception:
                log.exception("the session tables could not be looked through")
            stop.wait(COUNT_SECONDS)

    def count(self) -> None:
        """Counts once, for the replicas that are out of the targets and whose drain has not ended."""
        state, began = self._state(), self._clock()
        slots = {
            uid: [link.slot for link in state.links.get(uid, ())]
            for uid, drain in state.drains.items()
            if drain.out_of_targets_at is not None and not drain.ended
        }
        if slots:
            active = self._datapath.activity([slot for of_pod in slots.values() for slot in of_pod])
            self._counted = began, {uid: sum(active.get(slot, 0) for slot in slots[uid]) for uid in slots}
            self._wake()

    def end(self) -> None:
        """Ends the sessions that are left of the replicas whose deadline ends them."""
        state = self._state()
        waiting = [drain for drain in state.drains.values() if not drain.ended]
        passed = frozenset((each.pod_uid, each.resets_at) for each in waiting if each.resets_at is not None)
        if passed - self._reset:
            self._datapath.end_sessions([link.slot for uid, _ in passed for link in state.links.get(uid, ())])
            self._reset = passed
            self._wake()

    def all_reset(self, drain: Drain) -> bool:
        """Whether the sessions that the deadline found have been ended."""
        return (drain.pod_uid, drain.resets_at) in self._reset

    def active(self, drain: Drain) -> int | None:
        """Active sessions of the replica, or None when they have not been counted since it left the targets."""
        began, active = self._counted
        counted = drain.out_of_targets_at is not None and began >= drain.out_of_targets_at
        return active.get(drain.pod_uid) if counted else None

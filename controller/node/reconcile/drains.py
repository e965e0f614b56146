"""The drains that were asked for, and the hooks that wait for their end."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping

from controller.node.plane.cluster import Cluster
from controller.node.plane.drain import Drain, RetiredError, in_progress


class Drains:
    """Any thread may call any method. What changes takes one lock, and only for a moment: `wait` and `wait_for_any` let
    go of it while they wait, and no method calls out of this class while it holds it.

    A request comes from a hook and becomes a drain in the next pass. A pass calls `in_progress` at its beginning and
    `settle` at its end.
    """

    def __init__(self, inherited: Iterable[Drain] = ()) -> None:
        """`inherited` are the drains that the agent that led before had in progress."""
        self._changed = threading.Condition()
        """Guards everything below; notified after each pass and when this agent retires."""
        self._requests: dict[str, Drain] = {drain.pod_uid: drain for drain in inherited}
        """By pod UID; no pass has taken them into account yet."""
        self._drains: Mapping[str, Drain] = {}
        """As the last pass left them."""
        self._retired = False

    @property
    def unfinished(self) -> bool:
        """Whether the last pass left a drain that has not ended."""
        return any(not drain.ended for drain in self._drains.values())

    def request(self, drain: Drain) -> None:
        """Asks for a drain, unless one is known that began as early. Of two requests for a pod the first one counts."""
        with self._changed:
            known = self._drains.get(drain.pod_uid)
            if known is None or drain.asked_at < known.asked_at:
                self._requests.setdefault(drain.pod_uid, drain)

    def wait(self, pod_uid: str, timeout: float) -> Drain | None:
        """Waits until the pod's drain has ended or is dropped, for at most `timeout` seconds; the drain as it is then.

        Raises RetiredError when this agent retires before that.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._retired or self._finished(pod_uid), timeout)
            if self._retired and not self._finished(pod_uid):
                raise RetiredError
            return self._drains.get(pod_uid) or self._requests.get(pod_uid)

    def wait_for_any(self, timeout: float) -> None:
        """Waits until a drain is unfinished, for at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.unfinished, timeout)

    def in_progress(self, cluster: Cluster | None, wired: Collection[str], now: float) -> dict[str, Drain]:
        """The drains that a pass must respect, by pod UID; `wired` are the UIDs of the pods that have links."""
        with self._changed:
            known, requests = self._drains, dict(self._requests)
        return in_progress(known, requests, cluster, wired, now)

    def settle(self, drains: Mapping[str, Drain], wired: Collection[str]) -> None:
        """What a pass left: its drains, and the UIDs of the pods that have links. Requests that it took into account,
        and those of pods without links, are done with."""
        with self._changed:
            self._drains = drains
            self._requests = {uid: drain for uid, drain in self._requests.items() if uid in wired and uid not in drains}
            self._changed.notify_all()

    def retire(self) -> tuple[Drain, ...]:
        """The drains that another agent has to continue. To be called after the last pass; hooks that still wait get
        RetiredError."""
        with self._changed:
            self._retired = True
            self._changed.notify_all()
            return tuple({**self._requests, **self._drains}.values())

    def _finished(self, pod_uid: str) -> bool:
        drain = self._drains.get(pod_uid)
        return drain.ended if drain else pod_uid not in self._requests

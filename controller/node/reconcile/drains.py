"""The drains that were asked for, and the hooks that wait for their end."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping

from controller.node.plane.cluster import Cluster
from controller.node.plane.drain import Drain, RetiredError, anew, earlier, in_progress
from controller.node.reconcile.deletions import Deletions


class Drains:
    """Any thread may call any method. What changes takes one lock, and only for a moment: `wait` and `wait_for_any` let
    go of it while they wait, and no method calls out of this class while it holds it.

    A request comes from a hook and becomes a drain in the next pass, unless the pass has to spare the replica. A pass
    calls `in_progress` at its beginning and `settle` at its end.
    """

    def __init__(self, inherited: Iterable[Drain] = (), deletions: Deletions | None = None) -> None:
        """`inherited` are the drains that the agent that led before had in progress. Without `deletions`, nothing but
        the watch contradicts a hook."""
        self.deletions = deletions or Deletions()
        """What confirms a drain, or drops it, where the watch does not."""
        self._changed = threading.Condition()
        """Guards everything below; notified after each pass and when this agent retires."""
        self._requests: dict[str, Drain] = {drain.pod_uid: drain for drain in inherited}
        """By pod UID; no pass has carried them out yet."""
        self._considered: Mapping[str, Drain] = {}
        """The requests that the present pass has seen."""
        self._drains: Mapping[str, Drain] = {}
        """As the last pass left them."""
        self._retired = False

    @property
    def unfinished(self) -> bool:
        """Whether the last pass left a drain that has not ended."""
        return any(not drain.ended for drain in self._drains.values())

    @property
    def unconfirmed(self) -> bool:
        """Whether there is a drain or a request that no deletion has confirmed."""
        with self._changed:
            return not all(drain.confirmed for drain in (*self._drains.values(), *self._requests.values()))

    def request(self, drain: Drain) -> None:
        """Asks for a drain, unless one is known that began as early and is as certain."""
        uid = drain.pod_uid
        with self._changed:
            known = self._drains.get(uid)
            if known is None or earlier(known, drain) is not known:
                self._requests[uid] = earlier(self._requests[uid], drain) if uid in self._requests else drain

    def wait(self, pod_uid: str, timeout: float) -> Drain | None:
        """Waits until the pod's drain has ended or is dropped, for at most `timeout` seconds; the drain as it is then.

        Raises RetiredError when this agent retires before that.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._retired or self._finished(pod_uid), timeout)
            if self._retired and not self._finished(pod_uid):
                raise RetiredError
            return self._drains.get(pod_uid) or self._requests.get(pod_uid)

    def confirmed(self, pod_uids: Collection[str], timeout: float) -> list[str]:
        """Those of the pods that have a confirmed drain; waits for one, for at most `timeout` seconds."""

        def found() -> list[str]:
            return [uid for uid in pod_uids if (drain := self._drains.get(uid)) and drain.confirmed]

        with self._changed:
            return self._changed.wait_for(found, timeout)

    def wait_for_any(self, timeout: float) -> None:
        """Waits until a drain is unfinished, for at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.unfinished, timeout)

    def in_progress(self, cluster: Cluster | None, wired: Collection[str], now: float) -> dict[str, Drain]:
        """The drains that a pass must respect, by pod UID; `wired` are the UIDs of the pods that have links."""
        with self._changed:
            asked = (*self._drains.values(), *self._requests.values())
            self._considered = dict(self._requests)
        return in_progress(asked, cluster, self.deletions.last, wired, now)

    def settle(self, drains: Mapping[str, Drain], spared: Iterable[Drain] = ()) -> None:
        """What a pass left: its drains, and those that it did not carry out, which stay requests. All other requests
        that it has seen are done with."""
        with self._changed:
            self._drains = drains
            later = {uid: one for uid, one in self._requests.items() if self._considered.get(uid) is not one}
            self._requests = {drain.pod_uid: anew(drain) for drain in spared} | later
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

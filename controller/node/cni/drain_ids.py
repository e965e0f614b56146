"""One drain id, one pod: which replica a hook drains must never depend on which link is found first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from controller.node.cni.answer import CniError, Code
from controller.node.plane.model import SLOTS, HostLink


class DrainIds:
    """Which pod of the node has which drain id. `links` lists the node's links. Safe to use from several threads.

    Links are listed when something seems wrong, and otherwise seldom: an ADD must not cost what the node holds.
    """

    def __init__(self, links: Callable[[], Iterable[HostLink]]) -> None:
        self._links = links
        self._lock = threading.Lock()
        self._pending: list[tuple[str, str]] = []
        """(drain id, pod UID) of the blocks that have not ended."""
        self._pods: dict[str, str] | None = None
        """Pod UID by drain id: of the links when they were listed, and of every pod that came since. None before the
        first list."""
        self._ids: dict[str, str] = {}
        """The same by pod UID."""

    @contextmanager
    def claim(self, drain_id: str, pod_uid: str) -> Iterator[None]:
        """In the block, and while it has links, the pod has this drain id and no other, and no other pod has it.

        Raises CniError (DRAIN_ID_TAKEN) when a link, or another block, says otherwise. A pod without UID is not
        checked: its runtime is too old to say who it is.
        """
        claimed = (drain_id, pod_uid)
        with self._lock:
            if pod_uid:
                self._note(*claimed)
            self._pending.append(claimed)
        try:
            yield
        finally:
            with self._lock:
                self._pending.remove(claimed)

    def _note(self, drain_id: str, pod_uid: str) -> None:
        if self._pods is None or len(self._pods) > 2 * SLOTS or self._fault(drain_id, pod_uid):
            listed = [(link.drain_id, link.pod_uid) for link in self._links()]
            known = [pair for pair in (*listed, *self._pending) if pair[1]]
            self._pods = dict(known)
            self._ids = {uid: known_id for known_id, uid in known}
        if fault := self._fault(drain_id, pod_uid):
            raise CniError(
                Code.DRAIN_ID_TAKEN,
                f"args.cni.drainId is {drain_id!r}, {fault}: the annotation comes from another pod; delete this pod, "
                "and let the webhook admit its successor",
            )
        self._pods[drain_id] = pod_uid
        self._ids[pod_uid] = drain_id

    def _fault(self, drain_id: str, pod_uid: str) -> str | None:
        if (other := (self._pods or {}).get(drain_id, pod_uid)) != pod_uid:
            return f"which is that of pod {other} on this node"
        if (other := self._ids.get(pod_uid, drain_id)) != drain_id:
            return f"but another interface of this pod has {other!r}"
        return None

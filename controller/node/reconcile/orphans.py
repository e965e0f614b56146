"""Removes links whose pod does not exist any more: their sandbox outlived it, and no CNI DEL that we heard came.

That the watch does not show a pod is no proof, for a pod that lost its labels is not watched and may get them back. So
a link that belongs to no known pod for a while is a reason to ask the API server which pods this node has. A pod exists
before its links do, hence a list that is asked for later and lacks it tells the truth.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from typing import Protocol

from controller.node.plane.desired import State
from controller.node.plane.model import HostLink
from kube.api import ApiError

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
PATIENCE_SECONDS = 30.0
"""How long a link may belong to no known pod: the kubelet may still be about to remove it."""


class Links(Protocol):
    def delete(self, name: str) -> None: ...


class Orphans:
    """`pod_uids` asks the API server for the pods of this node; raises ApiError."""

    def __init__(
        self,
        links: Links,
        state: Callable[[], State],
        pod_uids: Callable[[], Collection[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._links = links
        self._state = state
        self._pod_uids = pod_uids
        self._clock = clock
        self._unknown_since: dict[HostLink, float] = {}

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK_SECONDS):
            try:
                self.remove()
            except ApiError as error:
                log.warning("orphaned links stay for now", extra={"error": str(error)})
            except Exception:
                log.exception("orphaned links could not be removed")

    def remove(self) -> None:
        now = self._clock()
        self._unknown_since = {link: self._unknown_since.get(link, now) for link in _unknown(self._state())}
        suspects = [link for link, since in self._unknown_since.items() if now - since >= PATIENCE_SECONDS]
        existing = self._pod_uids() if suspects else ()
        for link in suspects:
            if link.pod_uid not in existing:
                self._links.delete(link.name)
                log.info("link removed: its pod does not exist", extra={"link": link.name, "pod_uid": link.pod_uid})


def _unknown(state: State) -> list[HostLink]:
    """A runtime that does not tell pods' UIDs leaves them empty: nothing can be said of such links."""
    if state.cluster is None:
        return []
    return [link for uid, links in state.links.items() if uid and uid not in state.cluster.replicas for link in links]

"""Removes orphans: links whose pod does not exist any more. Its sandbox outlived it, and no CNI DEL reached the agent.

The watch may lag behind. So when a link has belonged to no known pod for a while, the API server is asked which pods
this node has. A pod exists before its links do: if a later list lacks it, it is gone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection

from controller.node.plane.model import HostLink
from controller.node.plane.plan import State
from kube.api import ApiError
from sfc import threads

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
PATIENCE_SECONDS = 30.0
"""How long a link may belong to no known pod: the kubelet may still be about to remove it."""


class Orphans:
    """Finds orphans in what the reconciler's last pass left. For one thread."""

    def __init__(
        self,
        delete: Callable[[str], None],
        state: Callable[[], State],
        existing: Callable[[], Collection[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`delete` removes a link by its name. `existing` asks the API server for the UIDs of this node's pods, and
        raises ApiError."""
        self._delete = delete
        self._state = state
        self._existing = existing
        self._clock = clock
        self._unknown_since: dict[HostLink, float] = {}
        """On the clock, for each link that belongs to no known pod."""

    def run(self, stop: threading.Event) -> None:
        """Removes orphans every LOOK_SECONDS, until `stop`. What fails is logged and retried."""
        while not stop.wait(LOOK_SECONDS):
            threads.beat()
            try:
                self.remove()
            except ApiError as error:
                log.warning("orphaned links stay for now", extra={"error": str(error)})
            except Exception:
                log.exception("orphaned links could not be removed")

    def remove(self) -> None:
        """Removes the orphans that have been unknown for PATIENCE_SECONDS. Raises ApiError, or what `delete` raises."""
        now = self._clock()
        self._unknown_since = {link: self._unknown_since.get(link, now) for link in _unknown(self._state())}
        suspects = [link for link, since in self._unknown_since.items() if now - since >= PATIENCE_SECONDS]
        existing = self._existing() if suspects else ()
        for link in suspects:
            if link.pod_uid not in existing:
                threads.beat()
                self._delete(link.name)
                log.info("link removed: its pod does not exist", extra={"link": link.name, "pod_uid": link.pod_uid})


def _unknown(state: State) -> list[HostLink]:
    """The links of unknown pods, but not those without a UID: a container runtime that gives no UIDs leaves them empty,
    and nothing is known of their pods."""
    if state.cluster is None:
        return []
    known = state.cluster.replicas.keys() | state.cluster.others.keys()
    return [link for uid, links in state.links.items() if uid and uid not in known for link in links]

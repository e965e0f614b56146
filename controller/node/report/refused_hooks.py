"""Reports PreStop hooks that were refused, as events of the pod whose hook it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from controller.node.plane.replica import Replica
from kube.events import Event

TELL_SECONDS = 60.0
"""Between two events of one pod, however often its hook is called."""
REFUSED = Event(
    "HookRefused",
    "its PreStop hook was called, but the API server shows no deletion of the pod: nothing is drained. The kubelet "
    "calls it to restart a container, or to end the pod by itself; if it did neither, somebody else called it",
    warning=True,
)


class RefusedHooks:
    """Any thread may call it."""

    def __init__(self, write: Callable[[Replica, Event], None], clock: Callable[[], float] = time.monotonic) -> None:
        """`write` makes an event of the replica's pod; it must be cheap."""
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[str, float] = {}
        """When, by pod UID; not longer than TELL_SECONDS ago."""

    def note(self, replica: Replica) -> None:
        """A hook of the replica was refused."""
        now = self._clock()
        with self._lock:
            self._told = {uid: at for uid, at in self._told.items() if now - at < TELL_SECONDS}
            new = replica.uid not in self._told
            self._told.setdefault(replica.uid, now)
        if new:
            self._write(replica, REFUSED)

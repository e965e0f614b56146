"""Writes the node's reports to the API server, in a thread of its own: a slow API server never delays the data path.

Level-driven: it compares what stands in the cluster with what should, and writes the difference. What was just written
is not written again until the watch had time to bring it back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from controller.node.plane.plan import State
from controller.node.plane.replica import Replica
from controller.node.plane.transitions import Transition
from controller.node.report import conditions as report
from kube.api import STRATEGIC_MERGE_PATCH, ApiError
from sfc import names

log = logging.getLogger(__name__)

ECHO_SECONDS = 5.0
"""How long the watch may take to show what was written, before it is written again."""
IDLE_SECONDS = 10.0
RETRY_SECONDS = 1.0
TRANSITIONS = 256
"""Kept for events while the API server is away; older ones are in the log only."""


class Api(Protocol):
    def patch(self, path: str, body: Any, content_type: str) -> dict[str, Any]: ...
    def apply(self, path: str, obj: Mapping[str, Any], manager: str) -> dict[str, Any]: ...
    def create(self, path: str, obj: Mapping[str, Any]) -> dict[str, Any]: ...


class StatusWriter:
    """`connections` gives the CrossConnections that exist, by (namespace, name)."""

    def __init__(
        self,
        api: Api,
        node: str,
        state: Callable[[], State],
        connections: Callable[[], Mapping[tuple[str, str], Mapping[str, Any]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._node = node
        self._state = state
        self._connections = connections
        self._clock = clock
        self._woken = threading.Event()
        self._written: dict[str, tuple[Any, float]] = {}
        self._transitions: deque[tuple[Transition, datetime]] = deque(maxlen=TRANSITIONS)

    def wake(self) -> None:
        self._woken.set()

    def tell(self, transition: Transition) -> None:
        """To be made an event of the pod."""
        self._transitions.append((transition, datetime.now(UTC)))

    def run(self, stop: threading.Event) -> None:
        pause = IDLE_SECONDS
        while not stop.is_set():
            self._woken.wait(pause)
            self._woken.clear()
            pause = IDLE_SECONDS if self.publish() else RETRY_SECONDS

    def publish(self) -> bool:
        """Write what differs; False when something could not be written and should be tried again soon."""
        state = self._state()
        done = [self._write_condition(replica, condition) for replica, condition in report.conditions(state)]
        wanted = report.node_status(state, self._node) if state.cluster else None
        if wanted is not None:
            done += [self._write_status(key, obj, wanted.get(key)) for key, obj in self._connections().items()]
        done.append(self._write_events())
        horizon = self._clock() - ECHO_SECONDS
        self._written = {path: (body, at) for path, (body, at) in self._written.items() if at > horizon}
        return all(done)

    def _write_events(self) -> bool:
        """Those of transitions that could not be written are kept for the next time."""
        while self._transitions:
            transition, at = self._transitions[0]
            if transition.replica:
                obj = report.event(transition, transition.replica, self._node, at)
                try:
                    self._api.create(f"/api/v1/namespaces/{transition.replica.namespace}/events", obj)
                except ApiError as error:
                    if error.status in (0, 429) or error.status >= 500:
                        return False
                    log.warning("event refused", extra={"pod": transition.pod, "error": str(error)})
            self._transitions.popleft()
        return True

    def _write_condition(self, replica: Replica, condition: report.Condition) -> bool:
        if condition.stands_in(replica.condition):
            return True
        path = f"/api/v1/namespaces/{replica.namespace}/pods/{replica.name}/status"
        patch = condition.patch(replica.uid, replica.condition, datetime.now(UTC))

        def write() -> None:
            self._api.patch(path, patch, STRATEGIC_MERGE_PATCH)
            fields = {"status": str(condition.status), "reason": condition.reason}
            log.info("condition set", extra={"pod": replica.path, **fields})

        return self._once(path, condition, write)

    def _write_status(
        self, key: tuple[str, str], connection: Mapping[str, Any], entry: Mapping[str, Any] | None
    ) -> bool:
        nodes = connection.get("status", {}).get("nodes", [])
        if next((n for n in nodes if n["name"] == self._node), None) == entry:
            return True
        namespace, name = key
        path = f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.CROSS_CONNECTION_PLURAL}/{name}/status"
        obj = {
            "apiVersion": names.API_VERSION,
            "kind": names.CROSS_CONNECTION_KIND,
            "metadata": {"namespace": namespace, "name": name},
            "status": {"nodes": [entry] if entry else []},
        }
        return self._once(path, obj, lambda: self._api.apply(path, obj, f"sfc-node-{self._node}"))

    def _once(self, path: str, body: Any, write: Callable[[], Any]) -> bool:
        if path in self._written and self._written[path][0] == body:
            return True
        try:
            write()
        except ApiError as error:
            if error.status == 404:  # deleted in the meantime; the watch will say so
                return True
            log.warning("could not write status", extra={"path": path, "error": str(error)})
            return False
        self._written[path] = body, self._clock()
        return True

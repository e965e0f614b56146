"""Writes the node's reports to the API server, in a thread of its own: a slow API server never delays the data path.

It compares what the API server has with what it should have, and writes the difference. What was just written is not
written again until the watch had time to show it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from controller.node.plane.hearing import Entry, Hearing, unreachable
from controller.node.plane.plan import State
from controller.node.plane.replica import Replica
from controller.node.plane.transitions import STEERED_AWAY, Transition
from controller.node.report import COMPONENT
from controller.node.report.conditions import alike, conditions, node_status
from kube.api import STRATEGIC_MERGE_PATCH, ApiError
from kube.conditions import Condition
from kube.events import Event, Reporter
from kube.objects import CONNECTIONS, EVENTS, PODS, Key, Object
from sfc import names, threads

log = logging.getLogger(__name__)

ECHO_SECONDS = 5.0
"""How long the watch may take to show what was written, before it is written again."""
IDLE_SECONDS = 10.0
"""Between two comparisons when nothing wakes the thread."""
RETRY_SECONDS = 1.0
"""After a write that failed."""
EVENTS_KEPT = 256
"""How many events are kept while the API server does not answer; older ones are in the log only."""


class StatusApi(Protocol):
    """The part of `kube.api.ApiServer` that is needed here. Every method raises ApiError."""

    def patch(self, path: str, body: Any, content_type: str) -> dict[str, Any]:
        """The patched object."""

    def apply(self, path: str, obj: Mapping[str, Any], manager: str) -> dict[str, Any]:
        """The applied object."""

    def create(self, path: str, obj: Mapping[str, Any]) -> dict[str, Any]:
        """The created object."""


class StatusWriter:
    """The thread and its queue of events. `wake`, `tell` and `write` may be called from any thread."""

    def __init__(  # noqa: PLR0913
        self,
        api: StatusApi,
        node: str,
        state: Callable[[], State],
        connections: Callable[[], Mapping[Key, tuple[str, Object | None]]],
        *,
        clock: Callable[[], float] = time.monotonic,
        address: Callable[[], str | None] = lambda: None,
        mtu: Callable[[], int | None] = lambda: None,
        hearing: Callable[[], Hearing] = Hearing,
        others: Callable[[Key], Sequence[Entry]] = lambda _: (),
    ) -> None:
        """`connections` returns the UID of each CrossConnection that exists, by (namespace, name), and this node's
        element of its `status.nodes`; None for one without it. `others`: the elements of other nodes. `hearing`: which
        of those answer."""
        self._api = api
        self._node = node
        self._reporter = Reporter(COMPONENT, node)
        self._state = state
        self._connections = connections
        self._clock = clock
        self._address, self._mtu = address, mtu
        self._hearing = hearing
        self._others = others
        self._woken = threading.Event()
        self._written: dict[tuple[str, str], tuple[Any, float]] = {}
        """By path and UID: what was written, and when. An object made anew under the same name has nothing of it."""
        self._said: tuple[State, list[tuple[Replica, Condition]]] = State(), []
        """The conditions, and the state that they were made of."""
        self._events: deque[tuple[Replica, Event, datetime]] = deque(maxlen=EVENTS_KEPT)

    def wake(self) -> None:
        """The state may have changed. Returns at once."""
        self._woken.set()

    def tell(self, transition: Transition) -> None:
        """Queue an event of the pod. Returns at once; the event is written when the thread wakes."""
        if transition.replica:
            lost = transition.reason == STEERED_AWAY and not transition.replica.finished
            warning = lost or bool(transition.fields.get("sessions_left"))
            self._events.append(
                (transition.replica, Event(transition.reason, transition.message, warning), datetime.now(UTC))
            )

    def write(self, replica: Replica, event: Event) -> None:
        """Queue an event of the pod, to be written soon. Returns at once."""
        self._events.append((replica, event, datetime.now(UTC)))
        self.wake()

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; returns up to IDLE_SECONDS later."""
        pause = IDLE_SECONDS
        while not stop.is_set():
            threads.beat()
            self._woken.wait(pause)
            self._woken.clear()
            try:
                pause = IDLE_SECONDS if self.publish() else RETRY_SECONDS
            except Exception:
                log.exception("statuses could not be written; tried again")
                pause = RETRY_SECONDS

    def publish(self) -> bool:
        """Write what differs. False when a write failed and should be repeated soon."""
        state = self._state()
        if not alike(self._said[0], state):
            self._said = state, [*conditions(state)]
        done = [self._write_condition(*each) for each in self._said[1]]
        wanted = node_status(state, self._node, self._address(), self._mtu()) if state.cluster else None
        if wanted is not None:
            present = self._connections()  # mostly of chains that this node knows nothing of
            self._add_unreachable(wanted, present)
            differ = [key for key, (_, entry) in present.items() if entry is not None or key in wanted]
            done += [self._write_status(key, *present[key], wanted.get(key)) for key in differ]
        done.append(self._write_events())
        horizon = self._clock() - ECHO_SECONDS
        self._written = {of: (body, at) for of, (body, at) in self._written.items() if at > horizon}
        return all(done)

    def _add_unreachable(
        self, wanted: Mapping[Key, dict[str, Any]], present: Mapping[Key, tuple[str, Object | None]]
    ) -> None:
        hearing, now = self._hearing(), self._clock()
        for key, entry in wanted.items() if hearing.silent else ():
            said = (present[key][1] or {}).get("unreachable", ()) if key in present else ()
            if silent := unreachable(self._node, self._others(key), hearing, said, now):
                entry["unreachable"] = list(silent)

    def _write_events(self) -> bool:
        """False when the API server does not answer: the events are kept for the next time."""
        while self._events:
            threads.beat()
            replica, event, at = self._events[0]
            about = PODS.reference(replica.namespace, replica.name, replica.uid)
            name = f"{replica.name}.{int(at.timestamp() * 1e6):x}"
            try:
                self._api.create(EVENTS.path(replica.namespace), self._reporter.event(event, about, name, at))
            except ApiError as error:
                if error.status in (0, 429) or error.status >= 500:
                    return False
                log.warning("event refused", extra={"pod": replica.path, "error": str(error)})
            self._events.popleft()
        return True

    def _write_condition(self, replica: Replica, condition: Condition) -> bool:
        if condition.stands_in(replica.condition):
            return True
        path = PODS.path(replica.namespace, replica.name, "status")

        def write() -> None:
            patch = condition.patch(replica.uid, replica.condition, datetime.now(UTC))
            self._api.patch(path, patch, STRATEGIC_MERGE_PATCH)
            fields = {"status": str(condition.status), "reason": condition.reason}
            log.info("condition set", extra={"pod": replica.path, **fields})

        return self._once(path, replica.uid, condition, write)

    def _write_status(self, key: Key, uid: str, present: Object | None, entry: Object | None) -> bool:
        if present == entry:
            return True
        namespace, name = key
        path = CONNECTIONS.path(namespace, name, "status")
        metadata = {"namespace": namespace, "name": name, "uid": uid}
        obj = CONNECTIONS.object(metadata, status={"nodes": [entry] if entry else []})
        return self._once(path, uid, obj, lambda: self._api.apply(path, obj, names.ENTRY_MANAGER + self._node))

    def _once(self, path: str, uid: str, body: Any, write: Callable[[], Any]) -> bool:
        if (path, uid) in self._written and self._written[path, uid][0] == body:
            return True
        threads.beat()
        try:
            write()
        except ApiError as error:
            if error.status in (404, 409):  # deleted meanwhile, or made anew; the watch will show it
                return True
            log.warning("could not write status", extra={"path": path, "error": str(error)})
            return False
        self._written[path, uid] = body, self._clock()
        return True

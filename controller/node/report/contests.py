"""Reports clashes as Events of both pods, in a thread of its own. A count that has grown raises the Event's count."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from controller.node.plane.model import Contest
from controller.node.plane.plan import State
from controller.node.report import COMPONENT
from controller.node.report.clashes import Clash, clashes
from kube.api import ApiError
from kube.events import Event, EventApi, Reporter, record, repeatable_name
from kube.objects import PODS
from sfc import threads

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
TELL_SECONDS = 60.0
"""Between two writes of one Event, however often its two replicas clash."""
REASON = "SharedSourcePorts"


class Contests:
    """The thread, and the counts that it has reported. Each Event is written at most once in TELL_SECONDS."""

    def __init__(
        self,
        api: EventApi,
        node: str,
        state: Callable[[], State],
        counts: Callable[[], Mapping[Contest, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`counts` returns the contests so far, by the two links. `clock`: seconds."""
        self._api = api
        self._reporter = Reporter(COMPONENT, node)
        self._state = state
        self._counts = counts
        self._clock = clock
        self._told: dict[str, tuple[int, float]] = {}
        """By the Event's name: the count that was written, and when."""

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set."""
        threads.every(LOOK_SECONDS, stop, self.look, "contests could not be reported")

    def look(self) -> None:
        """Compare the counters with what was reported, once; a write that fails is repeated at the next look."""
        now = self._clock()
        present = {_event_name(clash): clash for clash in clashes(self._state(), self._counts())}
        for name, clash in present.items():
            said, at = self._told.get(name, (0, now - TELL_SECONDS))
            if clash.count != said and now - at >= TELL_SECONDS and self._tell(clash, name):
                self._told[name] = clash.count, now
        self._told = {name: told for name, told in self._told.items() if name in present}

    def _tell(self, clash: Clash, name: str) -> bool:
        about = PODS.reference(clash.replica.namespace, clash.replica.name, clash.replica.uid)
        what = Event(REASON, clash.message, warning=True)
        event = self._reporter.event(what, about, name, datetime.now(UTC))
        fields = {"pod": clash.replica.path, "other": clash.other.path, "interface": clash.interface}
        threads.beat()
        try:
            record(self._api, event, clash.count)
        except ApiError as error:
            log.warning("could not report a clash", extra={**fields, "error": str(error)})
            return False
        log.warning("replicas claim the same connections", extra={**fields, "count": clash.count})
        return True


def _event_name(clash: Clash) -> str:
    uids = sorted((clash.replica.uid, clash.other.uid))
    return repeatable_name(clash.replica.name, *uids, clash.interface, clash.message)

"""A connection that two replicas claim at once, told as an Event of both pods with the remedy.

Replicas share their addresses, so two of them can produce one 5-tuple, and the replies reach only one of the two. The
program counts that by the two links; a count that has grown becomes an Event, the same one with a higher count.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from controller.node.plane.model import Contest
from controller.node.plane.plan import State
from controller.node.plane.replica import Replica
from controller.node.report import conditions as report
from kube.api import MERGE_PATCH, ApiError
from sfc import names

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
TELL_SECONDS = 60.0
"""Between two writes of one Event, however often its two replicas clash."""
REASON = "SharedSourcePorts"


class Api(Protocol):
    def create(self, path: str, obj: Mapping[str, Any]) -> dict[str, Any]: ...
    def patch(self, path: str, body: Any, content_type: str) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Clash:
    """Two replicas of a stage that claimed the same connections on an interface."""

    replica: Replica
    other: Replica
    interface: str
    sliced: bool
    """The interface has slices of source ports, but somebody does not keep to them."""
    count: int

    @property
    def message(self) -> str:
        where = f"{self.replica.stage}.{self.interface}"
        chain = f"{names.CHAIN_KIND} {self.replica.namespace}/{self.replica.chain}"
        remedy = (
            f"{where} has sourcePorts: let the function choose no ports but those in the annotation "
            f"{names.SOURCE_PORTS} of its pod, and roll out anew pods that have none"
            if self.sliced
            else f"give each replica source ports of its own: sourcePorts: {{slices: N}} on interface {self.interface} "
            f"of stage {self.replica.stage}"
        )
        return (
            f"this replica and {self.other.path} use the same addresses and ports at {where} of {chain}, and replies "
            f"reach only one of them: {remedy}"
        )

    @property
    def event_name(self) -> str:
        pair = "/".join((*sorted((self.replica.uid, self.other.uid)), self.interface, self.message))
        return f"{self.replica.name}.{hashlib.sha256(pair.encode()).hexdigest()[:16]}"


def clashes(state: State, counts: Mapping[Contest, int]) -> Iterator[Clash]:
    """Two for each contest between replicas that are still there, one for each of them."""
    links = {link.slot: link for of_pod in state.links.values() for link in of_pod}
    totals: dict[tuple[str, str, str], int] = {}
    for contest, count in counts.items():
        ends = [links.get(slot) for slot in (contest.former, contest.latter)]
        for one, other in (ends, ends[::-1]):
            if one and other:
                key = one.pod_uid, other.pod_uid, one.interface
                totals[key] = totals.get(key, 0) + count
    for (uid, other_uid, interface), count in totals.items():
        if clash := _clash(state, uid, other_uid, interface, count):
            yield clash


def _clash(state: State, uid: str, other_uid: str, interface: str, count: int) -> Clash | None:
    cluster = state.cluster
    replica, other = (cluster.replicas.get(each) if cluster else None for each in (uid, other_uid))
    if not (cluster and replica and other):
        return None
    chain = cluster.chain_of(replica)
    stage = chain.stage(replica.stage) if chain else None
    found = stage.interface(interface) if stage else None
    return Clash(replica, other, interface, bool(found and found.slices), count)


class Contests:
    """Tells of clashes, in a thread of its own; each Event is written TELL_SECONDS apart at most often."""

    def __init__(
        self,
        api: Api,
        node: str,
        state: Callable[[], State],
        counts: Callable[[], Mapping[Contest, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._node = node
        self._state = state
        self._counts = counts
        self._clock = clock
        self._told: dict[str, tuple[int, float]] = {}
        """By the Event's name: the count it says, and since when."""

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        now = self._clock()
        present = list(clashes(self._state(), self._counts()))
        for clash in present:
            said, at = self._told.get(clash.event_name, (0, now - TELL_SECONDS))
            if clash.count != said and now - at >= TELL_SECONDS and self._tell(clash):
                self._told[clash.event_name] = clash.count, now
        known = {clash.event_name for clash in present}
        self._told = {name: told for name, told in self._told.items() if name in known}

    def _tell(self, clash: Clash) -> bool:
        path = f"/api/v1/namespaces/{clash.replica.namespace}/events"
        content = {"type": "Warning", "reason": REASON, "message": clash.message, "count": clash.count}
        event = report.pod_event(clash.replica, self._node, clash.event_name, datetime.now(UTC), content)
        fields = {"pod": clash.replica.path, "other": clash.other.path, "interface": clash.interface}
        try:
            self._write(path, event)
        except ApiError as error:
            log.warning("could not tell of a clash", extra={**fields, "error": str(error)})
            return False
        log.warning("replicas claim the same connections", extra={**fields, "count": clash.count})
        return True

    def _write(self, path: str, event: Mapping[str, Any]) -> None:
        try:
            self._api.create(path, event)
        except ApiError as error:
            if error.status != 409:
                raise
            again = {key: event[key] for key in ("count", "lastTimestamp")}
            self._api.patch(f"{path}/{event['metadata']['name']}", again, MERGE_PATCH)

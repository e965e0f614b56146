"""Events, which `kubectl describe` shows under the object that they are about (core/v1)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from kube import objects
from kube.api import MERGE_PATCH, ApiError
from kube.objects import EVENTS, Object

MESSAGE_LIMIT = 1024
"""Characters; the limit of events.k8s.io/v1."""


class EventApi(Protocol):
    """The part of `kube.api.ApiServer` that is needed here. Every method raises ApiError."""

    def get(self, path: str) -> dict[str, Any]:
        """The object at `path`."""

    def create(self, path: str, obj: Mapping[str, Any]) -> dict[str, Any]:
        """`path`: of the collection. Status 409 when the object exists."""

    def patch(self, path: str, body: Any, content_type: str) -> dict[str, Any]:
        """The patched object."""


@dataclass(frozen=True, slots=True)
class Event:
    """What happened."""

    reason: str
    """One word in CamelCase."""
    message: str
    """Cut at MESSAGE_LIMIT when it is written."""
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Reporter:
    """The program that reports events."""

    component: str
    node: str = ""
    """Empty for a program that runs once in the cluster."""

    def event(self, event: Event, about: Object, name: str, now: datetime) -> dict[str, Any]:
        """The object of kind Event. `about`: a `Resource.reference`. `name`: of the Event in the namespace, which is
        `default` for an object without one."""
        moment = objects.timestamp(now)
        return EVENTS.object(
            {"name": name, "namespace": about["namespace"] or "default"},
            involvedObject=about,
            type="Warning" if event.warning else "Normal",
            reason=event.reason,
            message=event.message[:MESSAGE_LIMIT],
            count=1,
            firstTimestamp=moment,
            lastTimestamp=moment,
            source={"component": self.component} | ({"host": self.node} if self.node else {}),
            reportingComponent=self.component,
            **({"reportingInstance": self.node} if self.node else {}),
        )


def repeatable_name(about: str, *content: str) -> str:
    """The name of an Event about the object named `about`.

    The same content gives the same name, so that `record` counts a repetition instead of storing one more Event.
    """
    return f"{about}.{hashlib.sha256('/'.join(content).encode()).hexdigest()[:16]}"


def record(api: EventApi, event: Object, total: int | None = None) -> None:
    """Create the Event; if it exists, raise its count. Raises ApiError.

    `total`: how often it happened in all. Without it, the count of the existing Event goes up by one.
    """
    namespace, name = objects.namespace(event), objects.name(event)
    try:
        api.create(EVENTS.path(namespace), {**event, "count": total or 1})
    except ApiError as error:
        if error.status != 409:
            raise
        path = EVENTS.path(namespace, name)
        count = total or api.get(path).get("count", 1) + 1
        api.patch(path, {"count": count, "lastTimestamp": event["lastTimestamp"]}, MERGE_PATCH)

"""Events: what `kubectl describe` of a chain tells of its past. They follow from the change of its status."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controller.cluster import status
from kube import objects
from kube.objects import Object

REPORTER = "sfc-cluster-controller"
MESSAGE_LIMIT = 1024
"""Characters; the limit of events.k8s.io/v1."""


@dataclass(frozen=True, slots=True)
class Event:
    reason: str
    message: str
    warning: bool = False


def of_change(before: Object | None, after: Object) -> Iterator[Event]:
    """From one status of a chain to the next; `before` is None for a chain that had none."""
    yield from _of_readiness(_ready(before), _ready(after))
    yield from _of_ports(
        *(objects.condition({"status": s or {}}, status.SOURCE_PORTS_ASSIGNED) for s in (before, after))
    )
    yield from _of_stages((before or {}).get("stages") or (), after.get("stages") or ())


def of_creation(connections: Iterable[str]) -> Iterator[Event]:
    if made := ", ".join(connections):
        yield Event("CrossConnectionsCreated", made)


def _of_readiness(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Event]:
    reason, message = after.get("reason"), after.get("message", "")
    was = before.get("reason")
    if reason == status.ALL_STAGES_SERVE:
        if was != reason:
            yield Event("ChainReady", message)
    elif reason == status.INVALID:
        if (was, before.get("message")) != (reason, message):
            yield Event("InvalidChain", message, warning=True)
    elif reason == status.NETWORK_CONFLICT:
        if was != reason:
            yield Event("NetworkConflict", message, warning=True)
    elif reason == status.STAGE_EMPTY and was != reason:
        yield Event("ChainNotReady", message, warning=was == status.ALL_STAGES_SERVE)


def _of_ports(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Iterator[Event]:
    was, reason = ((found or {}).get("reason") for found in (before, after))
    if after and was != reason == status.NO_FREE_SOURCE_PORTS:
        yield Event(reason, after["message"], warning=True)


def _of_stages(before: Iterable[Object], after: Iterable[Object]) -> Iterator[Event]:
    served = {stage["name"]: stage["serving"] for stage in before}
    for stage in after:
        name, serving = stage["name"], stage["serving"]
        if serving and not served.get(name):
            yield Event("StageServing", f"stage {name} has a replica that serves")
        if not serving and served.get(name):
            yield Event("StageEmpty", f"no replica of stage {name} serves any more", warning=True)


def _ready(found: Object | None) -> Mapping[str, Any]:
    return objects.condition({"status": found or {}}, status.READY) or {}


def to_object(event: Event, about: Object, now: datetime) -> dict[str, Any]:
    """The same event about the same object has the same name: its repetition is counted, not stored anew."""
    metadata = about["metadata"]
    content = f"{metadata['uid']}/{event.reason}/{event.message}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    moment = objects.timestamp(now)
    return objects.EVENTS.object(
        {"name": f"{metadata['name']}.{digest}", "namespace": metadata["namespace"]},
        involvedObject={
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
        type="Warning" if event.warning else "Normal",
        reason=event.reason,
        message=event.message[:MESSAGE_LIMIT],
        count=1,
        firstTimestamp=moment,
        lastTimestamp=moment,
        source={"component": REPORTER},
        reportingComponent=REPORTER,
    )

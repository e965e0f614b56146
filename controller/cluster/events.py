"""Events of chains, which follow from the change of a chain's status, and how all our events are named."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from datetime import datetime
from typing import Any

from controller.cluster import status
from controller.cluster.writes import Record
from kube import objects
from kube.events import Event, Reporter, repeatable_name
from kube.objects import Object
from sfc import names

REPORTER = Reporter("sfc-cluster-controller")


def record(event: Event, about: Object, now: datetime) -> Record:
    """The same event about the same object has the same name: its repetition is counted.

    `about`: a `kube.objects.Resource.reference`.
    """
    name = repeatable_name(about["name"], about["uid"], event.reason, event.message)
    return Record(REPORTER.event(event, about, name, now))


def of_change(
    before: Object | None, after: Object, finished: Collection[str] = (), waiting: Collection[str] = ()
) -> Iterator[Event]:
    """From one status of a chain to the next. `before`: None for a chain that had no status.

    `finished`: the stages whose replicas have done their work, as those of a Job do: no warning that they are empty.
    `waiting`: the stages whose replicas would serve if a hop of theirs were not open: they are not empty either.
    """
    readiness = _condition(before, status.READY), _condition(after, status.READY)
    yield from _of_readiness(*readiness, after, {*finished, *waiting})
    yield from _of_ports(
        _condition(before, status.SOURCE_PORTS_ASSIGNED), _condition(after, status.SOURCE_PORTS_ASSIGNED)
    )
    yield from _of_stages((before or {}).get("stages") or (), after.get("stages") or (), finished, waiting)


def of_creation(connections: Iterable[str]) -> Iterator[Event]:
    """One event for all CrossConnections that were made for a chain, by their names; none when none was."""
    if made := ", ".join(connections):
        yield Event("CrossConnectionsCreated", made)


def _of_readiness(
    before: Mapping[str, Any], after: Mapping[str, Any], whole: Object, excused: Set[str]
) -> Iterator[Event]:
    reason, message = after.get("reason"), after.get("message", "")
    was = before.get("reason")
    if reason == status.ALL_STAGES_SERVE:
        if was != reason:
            yield Event("ChainReady", message)
    elif reason in (status.INVALID, status.OBJECTS_REFUSED):
        if (was, before.get("message")) != (reason, message):
            yield Event("InvalidChain" if reason == status.INVALID else reason, message, warning=True)
    elif reason == status.NETWORK_CONFLICT:
        if was != reason:
            yield Event("NetworkConflict", message, warning=True)
    elif reason == status.STAGE_EMPTY and was != reason:
        empty = {stage["name"] for stage in whole.get("stages") or () if not stage["serving"]}
        lost = was == status.ALL_STAGES_SERVE and not empty <= excused
        yield Event("ChainNotReady", message, warning=lost)
    elif reason == names.HOP_OPEN and was != reason:
        yield Event("ChainNotReady", message, warning=was == status.ALL_STAGES_SERVE)


def _of_ports(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Event]:
    reason = after.get("reason")
    if reason in (status.NO_FREE_SOURCE_PORTS, status.SOURCE_PORTS_REFUSED) and before.get("reason") != reason:
        yield Event(reason, after["message"], warning=True)


def _of_stages(
    before: Iterable[Object], after: Iterable[Object], finished: Collection[str], waiting: Collection[str]
) -> Iterator[Event]:
    served = {stage["name"]: stage["serving"] for stage in before}
    for stage in after:
        name, serving = stage["name"], stage["serving"]
        if serving and not served.get(name):
            yield Event("StageServing", f"stage {name} has a replica that serves")
        if not serving and served.get(name) and name in finished:
            yield Event(
                "StageFinished", f"the replicas of stage {name} have done their work and ended without an error"
            )
        elif not serving and served.get(name) and name not in waiting:
            yield Event("StageEmpty", f"no replica of stage {name} serves any more", warning=True)


def _condition(found: Object | None, kind: str) -> Mapping[str, Any]:
    return objects.condition({"status": found or {}}, kind) or {}

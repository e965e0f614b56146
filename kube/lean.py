"""Objects without what nobody here reads: it is left out while the JSON is decoded.

Our programs watch objects of all tenants. What a tenant may write at will (`managedFields`, annotations, most of a
pod's spec) would make the others wait while it is decoded, and fill the memory. Decoding what is left out costs a tenth
of decoding it with `json`, and makes no Python objects.

Who reads another field of an object that is watched adds it here first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypedDict, TypeVar

import msgspec

from sfc import names

O = TypeVar("O")  # noqa: E741


class Metadata(TypedDict, total=False):
    """All of `metadata` but `managedFields`. Of the annotations, only those that begin with KEPT are left."""

    name: str
    namespace: str
    uid: str
    resourceVersion: str
    generation: int
    creationTimestamp: str | None
    deletionTimestamp: str
    deletionGracePeriodSeconds: int
    labels: dict[str, str] | None
    annotations: dict[str, str] | None
    ownerReferences: Any
    finalizers: Any


class Whole(TypedDict, total=False):
    """An object of any kind, or a Status, which is what an ERROR event is about."""

    apiVersion: str
    kind: str
    metadata: Metadata
    spec: Any
    status: Any
    code: Any
    reason: Any
    message: Any
    details: Any


class ChainObject(Whole, total=False):
    """A ServiceFunctionChain; its spec as it came, because most readers need only few chains."""

    spec: msgspec.Raw


class ConnectionObject(Whole, total=False):
    """A CrossConnection; its status as it came, because a node agent needs that of few."""

    status: msgspec.Raw


class ContainerSpec(TypedDict, total=False):
    """What makes an init container a sidecar."""

    name: str
    restartPolicy: str


class PodSpec(TypedDict, total=False):
    """Where a pod runs, what keeps it from running, and how long it may take to end."""

    nodeName: str
    schedulingGates: Any
    hostNetwork: bool
    restartPolicy: str
    terminationGracePeriodSeconds: int
    containers: list[ContainerSpec] | None
    """None in a bookmark, which is a pod without everything."""
    initContainers: list[ContainerSpec] | None


class PodObject(Whole, total=False):
    """A Pod."""

    spec: PodSpec


class TemplateOf(TypedDict, total=False):
    """A pod template, without what is in the pods."""

    metadata: Metadata


class JobSpec(TypedDict, total=False):
    """What a CronJob makes Jobs of."""

    template: TemplateOf


class JobTemplate(TypedDict, total=False):
    """The Job of a CronJob."""

    spec: JobSpec


class WorkloadSpec(TypedDict, total=False):
    """How many pods a workload should have, and how it makes them."""

    replicas: int
    paused: bool
    suspend: bool
    updateStrategy: Any
    template: TemplateOf
    jobTemplate: JobTemplate


class WorkloadObject(Whole, total=False):
    """A workload with a pod template."""

    spec: WorkloadSpec


class NameOnly(TypedDict, total=False):
    """An object of any kind, for who only wants to know whether it exists."""

    metadata: Metadata


class Event(TypedDict, Generic[O]):
    """One line of a watch."""

    type: str
    object: O


class Page(TypedDict, Generic[O], total=False):
    """One answer to a list request."""

    apiVersion: str
    kind: str
    metadata: dict[str, Any]
    items: list[O]


KEPT = (f"{names.GROUP}/", names.NETWORKS_ANNOTATION)


class Shape:
    """What is read of the objects of one kind."""

    def __init__(self, kind: Any) -> None:
        """`kind`: a TypedDict."""
        self._event = msgspec.json.Decoder(Event[kind])
        self._page = msgspec.json.Decoder(Page[kind])

    def event(self, line: bytes) -> dict[str, Any]:
        """One line of a watch. Raises ValueError for anything else."""
        event: dict[str, Any] = self._event.decode(line)  # type: ignore[assignment]
        _forget_annotations(event["object"])
        return event

    def page(self, body: bytes) -> dict[str, Any]:
        """One answer to a list request. Raises ValueError for anything else."""
        page: dict[str, Any] = self._page.decode(body)  # type: ignore[assignment]
        for item in page.get("items") or ():
            _forget_annotations(item)
        return page


WHOLE, CHAIN, POD, NAME = Shape(Whole), Shape(ChainObject), Shape(PodObject), Shape(NameOnly)
WORKLOAD, CONNECTION = Shape(WorkloadObject), Shape(ConnectionObject)


def written(value: object) -> bytes:
    """The JSON of a part of an object: as it came, if it was left as it came."""
    return bytes(value) if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)


def decoded(text: bytes) -> Any:
    """The value that `written` gave. Raises ValueError."""
    return msgspec.json.decode(text)


def _forget_annotations(obj: Mapping[str, Any]) -> None:
    metadata = obj.get("metadata") or {}
    if annotations := metadata.get("annotations"):
        metadata["annotations"] = {key: value for key, value in annotations.items() if key.startswith(KEPT)}

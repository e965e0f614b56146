"""What the cluster controller can do to the cluster's objects, as values."""

from __future__ import annotations

from dataclasses import dataclass

from kube.objects import Object


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply."""

    path: str
    obj: Object


@dataclass(frozen=True, slots=True)
class Delete:
    path: str


@dataclass(frozen=True, slots=True)
class Patch:
    """Strategic merge patch, of a pod's status."""

    path: str
    body: Object


@dataclass(frozen=True, slots=True)
class Assign:
    """Give source ports to the pods of a stage that wait for them, as they are when it is done: a plan may be made
    from watches that do not show yet what the plan before it led to."""

    namespace: str
    chain: str
    stage: str
    slices: int | None


@dataclass(frozen=True, slots=True)
class Record:
    """An Event to be created, or counted once more."""

    obj: Object


Change = Apply | Delete | Patch | Assign | Record

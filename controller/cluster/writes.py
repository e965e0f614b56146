"""The requests that the cluster controller sends to the API server, as values."""

from __future__ import annotations

from dataclasses import dataclass

from kube.objects import Object


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply."""

    path: str
    obj: Object


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Remove a node's element of `status.nodes` of a CrossConnection, in the name of its agent."""

    path: str
    obj: Object
    """The CrossConnection as the agent would apply it."""
    node: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Of one object, by its path."""

    path: str


@dataclass(frozen=True, slots=True)
class Patch:
    """Strategic merge patch of a pod's status."""

    path: str
    body: Object


@dataclass(frozen=True, slots=True)
class Assign:
    """Give source ports to the pods of a stage that wait for them.

    The pods are listed again when this is done: the watches that a plan is made from may not show yet what the plan
    before it did.
    """

    namespace: str
    chain: str
    stage: str
    slices: int | None
    """None: the stage has no slices any more, and its pods go on without ports."""


@dataclass(frozen=True, slots=True)
class Record:
    """Create an Event, or count it up (`kube.events.record`)."""

    obj: Object


Write = Apply | Withdraw | Delete | Patch | Assign | Record

"""The requests that the cluster controller sends to the API server, as values, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kube.objects import Object
from sfc.source_ports import Shares


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
class Create:
    """Of an object that does not exist, so far as is known."""

    path: str
    """Of the object, not of the collection."""
    obj: Object


@dataclass(frozen=True, slots=True)
class Delete:
    """Of one object. Another one that has its name by now stays."""

    path: str
    uid: str


@dataclass(frozen=True, slots=True)
class Patch:
    """Strategic merge patch of a pod's status."""

    path: str
    body: Object


@dataclass(frozen=True, slots=True)
class Assign:
    """Give source ports, and numbers, to the pods of a stage that wait for them.

    The pods are listed again when this is done: the watches that a plan is made from may not show yet what the plan
    before it did.
    """

    namespace: str
    chain: str
    stage: str
    shares: Shares | None
    """None: the stage has none any more, and its pods go on without."""


@dataclass(frozen=True, slots=True)
class Record:
    """Create an Event, or count it up (`kube.events.record`)."""

    obj: Object


Write = Apply | Withdraw | Create | Delete | Patch | Assign | Record


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of writes, so far as a status or an event says it."""

    created: tuple[str, ...] = ()
    """Names of the objects that a Create made."""
    found: tuple[str, ...] = ()
    """Names of the objects that existed already."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """The API server's words, by the path of what it refused: of an object, or of the pods of a stage."""

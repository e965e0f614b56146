"""The values of an admission: a request, what is read of its object, and the decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

Edit = tuple[tuple[str | int, ...], object]
"""A place in an object, as keys and list indices from the top, and the value that belongs there; None for no value.

The index of a list that exists may be its length: the value is appended.
"""


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """An admission request, its objects not read yet."""

    uid: str
    operation: str
    """CREATE, UPDATE, DELETE or CONNECT."""
    namespace: str
    obj: Json
    """The object as it would be stored; empty except at CREATE and UPDATE."""
    old: Json
    """The object as it is stored; empty except at UPDATE and DELETE."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to an admission request; the default allows the object as it is."""

    edits: tuple[Edit, ...] = ()
    """Changes of the object. No place lies within another one."""
    denied: str | None = None
    """Why the object is denied, and what to do about it; None allows it."""
    code: int = 403
    """HTTP status of a denial."""
    warnings: tuple[str, ...] = ()


class Malformed(Exception):  # noqa: N818
    """The request is not what an API server sends. Answered with HTTP 400."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path} {message}")


@dataclass(frozen=True, slots=True)
class Membership:
    """The values of our two labels, each None where the label is absent."""

    chain: str | None
    stage: str | None

    @property
    def values(self) -> tuple[str | None, str | None]:
        """In the order of `webhook.decide.read.LABELS`."""
        return self.chain, self.stage

    def __bool__(self) -> bool:
        """False when both labels are absent."""
        return self.chain is not None or self.stage is not None


@dataclass(frozen=True, slots=True)
class Container:
    """A container or init container of a pod."""

    name: object
    """As it is written; only shown to users."""
    hook: Json
    """The preStop hook; empty for none."""
    lasting: bool
    """True when it runs as long as the pod: false only for an init container that is no native sidecar (KEP-753)."""
    probes: tuple[str, ...] = ()
    """Those of its probes that end it with the pod's grace period when they fail, by their keys."""
    probe_grace_seconds: int | None = None
    """The grace period that those probes get instead; None leaves them alone."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod, or the pod template of a workload: everything that admission reads or changes of it."""

    labels: Membership
    annotations: Json
    """All of them, with values of any type."""
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...]
    readiness_gates: tuple[Json, ...]
    scheduling_gates: tuple[Json, ...]
    grace_seconds: int | None
    """terminationGracePeriodSeconds; None leaves the choice to Kubernetes."""
    preferences: tuple[Json, ...]
    """Weighted terms of the affinity to other pods (podAffinity)."""
    rules_for_nodes: bool
    """True when the pod says itself how it is spread: a term of the affinity or anti-affinity to other pods is about
    nodes (kubernetes.io/hostname), an anti-affinity is required, or there are topology spread constraints."""
    host_network: bool
    node_name: object
    """As it is written; None or empty for none."""
    sysctls: Json
    """Values, as they are written, by names with dots."""


@dataclass(frozen=True, slots=True)
class Template:
    """The pod template of a workload."""

    path: tuple[str, ...]
    """From the workload's top."""
    labels: Membership
    """As the request has them."""
    stored: Membership
    """As they are stored; both None at CREATE."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller of an object, which writes it."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class SelectorRule:
    """What a selector asks of one of our labels. Its text is that of `kubectl get --selector`."""

    index: int
    """Of the label, in `Membership.values`."""
    key: str
    operator: str
    """In, NotIn, Exists or DoesNotExist; anything else allows all."""
    values: tuple[object, ...] = ()

    @property
    def needs_a_value(self) -> bool:
        """Whether a pod without the label is not selected."""
        return self.operator in ("In", "Exists")

    def allows(self, labels: Membership) -> bool:
        """Whether a pod with these labels is selected, as far as this rule says."""
        value = labels.values[self.index]
        if self.operator in ("In", "NotIn"):
            return (value is not None and value in self.values) == (self.operator == "In")
        return (value is not None) == (self.operator == "Exists") or self.operator not in ("Exists", "DoesNotExist")

    def __str__(self) -> str:
        if self.operator in ("In", "NotIn"):
            return f"{self.key} {self.operator.lower()} ({', '.join(map(str, self.values))})"
        return f"{'!' if self.operator == 'DoesNotExist' else ''}{self.key}"


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload with a pod template."""

    kind: str
    name: str
    """Empty for one that the API server names."""
    owner: Owner | None
    labels: Membership
    """Of the workload itself, as the request has them."""
    stored: Membership
    """Of the workload itself, as they are stored; both None at CREATE."""
    is_stored: bool
    """False at CREATE."""
    template: Template | None
    """None when it cannot change any more."""
    changed: bool
    """True when our labels, or the template apart from our labels, differ from what is stored."""
    selector: tuple[SelectorRule, ...]
    """What it asks of our labels."""
    replicas: object
    """As it is written; None for none."""
    paused: bool
    on_delete: bool
    """True when pods get a new template only after somebody deleted them (updateStrategy OnDelete)."""
    partition: object
    """Of a StatefulSet's rolling update, as it is written; None or 0 for none."""

"""What becomes of workloads and pods with our labels: pure functions over the request and the chains known.

Both are idempotent, so that the order of injectors and a second pass do not matter, and build a new object that shares
every unchanged part with the old one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sfc import annotation, drain_id, names
from sfc.chain import Chain
from sfc.problem import shown
from sfc.validation import InvalidChain
from webhook import source_ports
from webhook.model import Decision, Json, Request, at, elements, label, submapping, text
from webhook.replica import HookMode, Position, mutate_pod

LABELS = (names.CHAIN_LABEL, names.STAGE_LABEL)
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
TEMPLATES = {"CronJob": ("spec", "jobTemplate", "spec", "template")}
"""Where a workload keeps its pod template, if not in spec.template."""

FindChain = Callable[[str, str], Chain | InvalidChain | None]
"""(namespace, name) → the chain, what is wrong with it, or None for there is none."""


@dataclass(frozen=True, slots=True)
class Membership:
    chain: str | None
    stage: str | None

    @classmethod
    def of(cls, obj: Json, path: str) -> Membership:
        labels = submapping(submapping(obj, "metadata", path), "labels", f"{path}.metadata")
        return cls(*(label(labels, key, f"{path}.metadata.labels") for key in LABELS))

    @property
    def values(self) -> tuple[str | None, str | None]:
        return self.chain, self.stage


# --- workloads --------------------------------------------------------------------------------------------------------


def workload(request: Request, find: FindChain) -> Decision:
    """Carry the labels into the pod template, or take them out again; doubts about them become warnings."""
    obj = request.obj
    if request.operation not in ("CREATE", "UPDATE") or _controlled(obj) or _immutable(request):
        return Decision()
    path = TEMPLATES.get(str(obj.get("kind")), ("spec", "template"))
    now, before = Membership.of(obj, "object"), Membership.of(request.old, "oldObject")
    doubt = missing(now, request.namespace, find)
    return Decision(
        obj=at(obj, (*path, "metadata", "labels"), lambda labels: carried(labels, now, before)),
        warnings=(f"{doubt} Until then its pods are refused.",) if doubt else (),
    )


def carried(labels: Json, now: Membership, before: Membership) -> Json:
    """The template's labels; ours are taken out only where they are still as they were carried in."""
    changed = dict(labels)
    for key, value, old in zip(LABELS, now.values, before.values, strict=True):
        if value is not None:
            changed[key] = value
        elif old is not None and changed.get(key) == old:
            del changed[key]
    return changed


def _controlled(obj: Json) -> bool:
    """Its owner writes it; the labels are the owner's affair."""
    owners = elements(submapping(obj, "metadata", "object"), "ownerReferences", "object.metadata")
    return any(owner.get("controller") is True for owner in owners)


def _immutable(request: Request) -> bool:
    return request.operation == "UPDATE" and request.obj.get("kind") == "Job"


# --- what a pair of labels means --------------------------------------------------------------------------------------


def missing(member: Membership, namespace: str, find: FindChain) -> str | None:
    """What is missing for the labels to name a stage, as sentences; None when nothing is, or there are no labels."""
    if member.values == (None, None):
        return None
    found = position(member, namespace, find)
    return found if isinstance(found, str) else None


def position(member: Membership, namespace: str, find: FindChain) -> Position | str:
    """The stage that the labels name, or what is missing."""
    if member.chain is None or member.stage is None:
        has, lacks = LABELS if member.stage is None else reversed(LABELS)
        return f"Label {has} is set but {lacks} is not; set both, or remove both."
    chain = find(namespace, member.chain)
    where = f"{names.CHAIN_KIND} {namespace}/{member.chain}"
    if chain is None:
        return f"{where}, named by label {names.CHAIN_LABEL}, does not exist; create it, or correct the label."
    if isinstance(chain, InvalidChain):
        return f"{where} is not valid; correct it. {chain}"
    stage = chain.stage(member.stage)
    if stage is None:
        has = ", ".join(stage.name for stage in chain.stages)
        return (
            f"{where} has no stage {shown(member.stage)}, named by label {names.STAGE_LABEL} (its stages: {has}); "
            "add the stage, or correct the label."
        )
    return Position(chain, stage)


# --- pods -------------------------------------------------------------------------------------------------------------


def pod(request: Request, find: FindChain, mode: HookMode, key: bytes) -> Decision:
    """Make the pod a replica of its stage, or say why it cannot be one."""
    obj = request.obj
    metadata = submapping(obj, "metadata", "object")
    member = Membership.of(obj, "object")
    if request.operation != "CREATE" or member.values == (None, None) or _is_mirror(metadata):
        return Decision()
    place = position(member, request.namespace, find)
    if isinstance(place, str):
        return Decision(denied=f"{place} The pod is refused until then; a workload's controller tries again by itself.")
    spec = submapping(obj, "spec", "object")
    if spec.get("hostNetwork") is True:
        return Decision(
            denied="spec.hostNetwork: true: the pod has no network of its own to which a stage's interfaces could be "
            f"added; remove hostNetwork, or the labels {' and '.join(LABELS)}."
        )
    if place.stage.slices and (contradiction := source_ports.contradiction(spec, place.stage)):
        return Decision(denied=contradiction)
    identity = _drain_id(request, metadata, key)
    try:
        changed, warnings = mutate_pod(obj, place, identity, drain_id.sign(key, identity), mode)
    except annotation.AnnotationError as error:
        return Decision(denied=f"{error}.")
    return Decision(obj=changed, warnings=warnings)


def _drain_id(request: Request, metadata: Json, key: bytes) -> str:
    """The id that an earlier pass gave to this very pod, or a new one."""
    annotations = submapping(metadata, "annotations", "object.metadata")
    name = metadata.get("name") or metadata.get("generateName") or ""
    name = text(name, "object.metadata.name", empty=True)
    present = annotations.get(names.DRAIN_ID_ANNOTATION)
    if isinstance(present, str) and drain_id.belongs(key, present, request.namespace, name):
        return present
    return drain_id.make(key, request.uid, request.namespace, name)


def _is_mirror(metadata: Json) -> bool:
    return MIRROR_ANNOTATION in submapping(metadata, "annotations", "object.metadata")

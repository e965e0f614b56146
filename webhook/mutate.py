"""What becomes of workloads and pods with our labels: pure functions over the request and the chains known.

Both are idempotent, so that the order of injectors and a second pass do not matter, and build a new object that shares
every unchanged part with the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sfc import annotation, drain_id, names
from sfc.chain import Chain, Hook
from sfc.validation.checks import InvalidChain
from sfc.validation.problem import shown
from webhook.model import AdmissionRequest, Decision, Json, at, elements, label, submapping, text
from webhook.replica import Position, mutate_pod, stripped, unfit

LABELS = (names.CHAIN_LABEL, names.STAGE_LABEL)
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
TEMPLATES = {"CronJob": ("spec", "jobTemplate", "spec", "template")}
"""Where a workload keeps its pod template, if not in spec.template."""

REFUSED = "The pod is refused until then; a workload's controller tries again by itself."
TOO_LATE = (
    f"the template of a Job that was started cannot change: its pods keep the labels {' and '.join(LABELS)} that they "
    "have; create the Job anew for a change to take effect"
)

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


def workload(request: AdmissionRequest, find: FindChain, auto: Hook) -> Decision:
    """Carry the labels into the pod template, or take them out again; doubts about them become warnings."""
    obj, old = request.obj, request.old
    if request.operation not in ("CREATE", "UPDATE") or _controlled(obj):
        return Decision()
    path = TEMPLATES.get(str(obj.get("kind")), ("spec", "template"))
    now, before = Membership.of(obj, "object"), Membership.of(old, "oldObject")
    if _immutable(request):
        return Decision(warnings=(TOO_LATE,) if now != before else ())
    changed = at(obj, (*path, "metadata", "labels"), lambda labels: carried(labels, now, before))
    template = _template(changed, path, "object")
    news = now != before or template != _template(old, path, "oldObject")
    warnings = (*_overruled(obj, path, now, before), *_foretold(template, request.namespace, find, auto))
    return Decision(obj=changed, warnings=warnings if news else ())


def carried(labels: Json, now: Membership, before: Membership) -> Json:
    """The template's labels; ours are taken out only where they are still as they were carried in."""
    changed = dict(labels)
    for key, value, old in zip(LABELS, now.values, before.values, strict=True):
        if value is not None:
            changed[key] = value
        elif old is not None and changed.get(key) == old:
            del changed[key]
    return changed


def _overruled(obj: Json, path: tuple[str, ...], now: Membership, before: Membership) -> Iterator[str]:
    """Labels that the template has for itself, and has differently."""
    written = Membership.of(_template(obj, path, "object"), ".".join(path))
    for key, value, old, own in zip(LABELS, now.values, before.values, written.values, strict=True):
        if value is not None and own not in (None, value, old):
            yield (
                f"{'.'.join(path)}.metadata.labels[{key}]: {shown(own)} is replaced by {shown(value)}, the label of "
                "the workload itself; remove one of the two"
            )


def _foretold(template: Json, namespace: str, find: FindChain, auto: Hook) -> tuple[str, ...]:
    """What its pods will be told, said where somebody reads it."""
    member = Membership.of(template, "template")
    if member.values == (None, None):
        return ()
    place = position(template, member, namespace, find)
    if isinstance(place, str):
        return (f"{place} Until then its pods are refused.",)
    try:
        return mutate_pod(template, place, "", "", auto)[1]
    except annotation.AnnotationError as error:
        return (f"{error}. Until then its pods are refused.",)


def _template(obj: Json, path: tuple[str, ...], where: str) -> Json:
    for key in path:
        obj, where = submapping(obj, key, where), f"{where}.{key}"
    return obj


def _controlled(obj: Json) -> bool:
    """Its owner writes it; the labels are the owner's affair."""
    owners = elements(submapping(obj, "metadata", "object"), "ownerReferences", "object.metadata")
    return any(owner.get("controller") is True for owner in owners)


def _immutable(request: AdmissionRequest) -> bool:
    """A Job's template can change only before the first start, while the Job is suspended."""
    if request.operation != "UPDATE" or request.obj.get("kind") != "Job":
        return False
    started = submapping(request.old, "status", "oldObject").get("startTime") is not None
    return started or submapping(request.old, "spec", "oldObject").get("suspend") is not True


# --- what a pair of labels means --------------------------------------------------------------------------------------


def position(obj: Json, member: Membership, namespace: str, find: FindChain) -> Position | str:
    """The stage that a pod's labels name, or what is missing, as sentences."""
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
    return unfit(submapping(obj, "spec", "object"), stage) or Position(chain, stage)


# --- pods -------------------------------------------------------------------------------------------------------------


def pod(request: AdmissionRequest, find: FindChain, auto: Hook, key: bytes) -> Decision:
    """Make the pod a replica of its stage, or say why it cannot be one; one without labels is made none."""
    obj = request.obj
    metadata = submapping(obj, "metadata", "object")
    member = Membership.of(obj, "object")
    if request.operation != "CREATE" or _is_mirror(metadata):
        return Decision()
    if member.values == (None, None):
        return Decision(obj=stripped(obj, request.namespace))
    place = position(obj, member, request.namespace, find)
    if isinstance(place, str):
        return Decision(denied=f"{place} {REFUSED}")
    identity = _drain_id(request, metadata, key)
    try:
        changed, warnings = mutate_pod(obj, place, identity, drain_id.sign(key, identity), auto)
    except annotation.AnnotationError as error:
        return Decision(denied=f"{error}. {REFUSED}")
    return Decision(obj=changed, warnings=warnings)


def _drain_id(request: AdmissionRequest, metadata: Json, key: bytes) -> str:
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

"""What becomes of workloads and pods with our labels: pure functions over the request and the chains known.

Both are idempotent, so that the order of injectors and a second pass do not matter, and build a new object that shares
every unchanged part with the old one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from sfc import annotation, drain_id, names
from sfc.chain import Chain, InterfaceRef, Side, Stage
from sfc.problem import shown
from sfc.validation import InvalidChain
from webhook.model import Decision, Json, Malformed, Request, elements, label, mapping, submapping, text

LABELS = (names.CHAIN_LABEL, names.STAGE_LABEL)
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
ENFORCE_LABEL = "pod-security.kubernetes.io/enforce"
TOPOLOGY_KEY = "kubernetes.io/hostname"
DEFAULT_GRACE_SECONDS = 30
"""Kubernetes' own default of terminationGracePeriodSeconds."""
GRACE_MARGIN_SECONDS = 30
"""What a network function has left for its own shutdown when draining took the whole deadline."""
TEMPLATES = {"CronJob": ("spec", "jobTemplate", "spec", "template")}
"""Where a workload keeps its pod template, if not in spec.template."""

FindChain = Callable[[str, str], Chain | InvalidChain | None]
"""(namespace, name) → the chain, what is wrong with it, or None for there is none."""


class HookMode(Enum):
    HTTP_GET = "httpGet"
    """The kubelet asks the node agent, which answers when the replica is drained."""
    SLEEP = "sleep"
    """Termination waits for the deadline; the node agent sees the deletion in its watch."""


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


@dataclass(frozen=True, slots=True)
class Position:
    """A chain, and the stage of it that a pod implements."""

    chain: Chain
    stage: Stage


def hook_for(namespace_labels: Json) -> HookMode:
    """Pod Security `baseline` and `restricted` refuse a host in a hook from Kubernetes 1.34 on, never a sleep."""
    return HookMode.SLEEP if namespace_labels.get(ENFORCE_LABEL) in ("baseline", "restricted") else HookMode.HTTP_GET


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
        obj=_at(obj, (*path, "metadata", "labels"), lambda labels: carried(labels, now, before)),
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


def _at(obj: Json, path: tuple[str, ...], change: Callable[[Json], Json], where: str = "object") -> Json:
    """`obj` with the mapping at `path` changed; a mapping that stays empty is not created."""
    if not path:
        return change(obj)
    inner = submapping(obj, path[0], where)
    changed = _at(inner, path[1:], change, f"{where}.{path[0]}")
    return obj if changed == inner else {**obj, path[0]: changed}


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
    if submapping(obj, "spec", "object").get("hostNetwork") is True:
        return Decision(
            denied="spec.hostNetwork: true: the pod has no network of its own to which a stage's interfaces could be "
            f"added; remove hostNetwork, or the labels {' and '.join(LABELS)}."
        )
    identity = _drain_id(request, metadata, key)
    try:
        changed, warnings = mutate_pod(obj, place, identity, drain_id.sign(key, identity), mode)
    except annotation.AnnotationError as error:
        return Decision(denied=f"{error}.")
    return Decision(obj=changed, warnings=warnings)


def mutate_pod(
    obj: Json, place: Position, identity: str, signature: str, mode: HookMode
) -> tuple[Json, tuple[str, ...]]:
    """The pod as a replica of its stage, and warnings. Raises AnnotationError, Malformed."""
    hook = hook_of(mode, identity, signature, place.stage.drain_deadline_seconds)
    spec = mapping(obj.get("spec"), "object.spec")
    containers, kept = _with_hook(elements(spec, "containers", "object.spec"), hook, lambda _: True)
    sidecars, kept_sidecars = _with_hook(elements(spec, "initContainers", "object.spec"), hook, _is_sidecar)
    changed = spec | {
        "containers": containers,
        "terminationGracePeriodSeconds": _grace(spec, place.stage),
        "readinessGates": _gates(elements(spec, "readinessGates", "object.spec")),
    }
    if sidecars:
        changed["initContainers"] = sidecars
    if affinity := _affinity(submapping(spec, "affinity", "object.spec"), place):
        changed["affinity"] = affinity
    mine = annotation.ours(place.chain, place.stage, identity)
    annotated = _at(
        obj,
        ("metadata", "annotations"),
        lambda present: (
            present
            | {
                names.NETWORKS_ANNOTATION: annotation.merge(
                    present.get(names.NETWORKS_ANNOTATION) or "", mine, place.chain.namespace
                ),
                names.DRAIN_ID_ANNOTATION: identity,
            }
        ),
    )
    return annotated | {"spec": changed}, tuple(map(_own_hook, (*kept, *kept_sidecars)))


def hook_of(mode: HookMode, identity: str, signature: str, deadline: int) -> Json:
    if mode is HookMode.SLEEP:
        return {"sleep": {"seconds": max(1, deadline)}}
    return {
        "httpGet": {
            "host": names.HOOK_HOST,
            "port": names.HOOK_PORT,
            "path": f"{names.HOOK_PATH}{identity}",
            "scheme": "HTTP",
            "httpHeaders": [{"name": names.SIGNATURE_HEADER, "value": signature}],
        }
    }


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


def _is_sidecar(container: Json) -> bool:
    """A native one: an init container that runs as long as the pod (KEP-753)."""
    return container.get("restartPolicy") == "Always"


def _with_hook(containers: list[Json], hook: Json, wanted: Callable[[Json], bool]) -> tuple[list[Json], list[Json]]:
    """The containers with the hook, and those that keep one of their own."""
    changed, kept = [], []
    for container in containers:
        lifecycle = submapping(container, "lifecycle", "container")
        present = submapping(lifecycle, "preStop", "container.lifecycle")
        if not wanted(container):
            changed.append(container)
        elif not present or present == hook or _is_ours(present):
            changed.append({**container, "lifecycle": {**lifecycle, "preStop": hook}})
        else:
            changed.append(container)
            kept.append(container)
    return changed, kept


def _is_ours(hook: Json) -> bool:
    """An earlier pass', or one that a copied pod brought along."""
    get = hook.get("httpGet")
    return (
        isinstance(get, dict)
        and (get.get("host"), get.get("port")) == (names.HOOK_HOST, names.HOOK_PORT)
        and str(get.get("path")).startswith(names.HOOK_PATH)
    )


def _own_hook(container: Json) -> str:
    return (
        f"container {shown(container.get('name'))} keeps its own preStop hook: it does not wait for draining, which "
        "starts when the pod's deletion is seen; remove the hook to have termination wait"
    )


def _grace(spec: Json, stage: Stage) -> int:
    present = spec.get("terminationGracePeriodSeconds")
    if present is None:
        present = DEFAULT_GRACE_SECONDS
    if not isinstance(present, int):
        raise Malformed("object.spec.terminationGracePeriodSeconds", "must be an integer")
    return max(present, stage.drain_deadline_seconds + GRACE_MARGIN_SECONDS)


def _gates(gates: list[Json]) -> list[Json]:
    gate = {"conditionType": names.WIRED_CONDITION}
    return gates if gate in gates else [*gates, gate]


def _affinity(affinity: Json, place: Position) -> Json | None:
    """With a preference for nodes of neighbouring stages, where frames need not leave the node; None for no change.

    A pod that has rules of its own for nodes keeps them alone.
    """
    neighbours = _neighbours(place)
    if not neighbours or _has_rules_for_nodes(affinity):
        return None
    term = {
        "weight": 100,
        "podAffinityTerm": {
            "topologyKey": TOPOLOGY_KEY,
            "labelSelector": {
                "matchLabels": {names.CHAIN_LABEL: place.chain.name},
                "matchExpressions": [{"key": names.STAGE_LABEL, "operator": "In", "values": neighbours}],
            },
        },
    }
    key = "preferredDuringSchedulingIgnoredDuringExecution"
    return _at(affinity, ("podAffinity",), lambda rules: {**rules, key: [*elements(rules, key, "podAffinity"), term]})


def _neighbours(place: Position) -> list[str]:
    """Names of the stages at the other end of the stage's links."""
    refs = [InterfaceRef(place.stage.name, interface.name) for interface in place.stage.interfaces]
    attached = [found for ref in refs if (found := place.chain.attachment(ref))]
    return sorted({connection.end(Side(side).other).stage for connection, side in attached})


def _has_rules_for_nodes(affinity: Json) -> bool:
    return any(
        term.get("topologyKey") == TOPOLOGY_KEY
        for kind in ("podAffinity", "podAntiAffinity")
        for term in _terms(submapping(affinity, kind, "object.spec.affinity"))
    )


def _terms(rules: Json) -> list[Json]:
    where = "object.spec.affinity"
    required = elements(rules, "requiredDuringSchedulingIgnoredDuringExecution", where)
    preferred = elements(rules, "preferredDuringSchedulingIgnoredDuringExecution", where)
    return [*required, *(submapping(term, "podAffinityTerm", where) for term in preferred)]

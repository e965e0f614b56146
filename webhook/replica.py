"""A pod as a replica of its stage: the annotation, the drain hook, the grace period, the gates, the affinity.

Idempotent, so that the order of injectors and a second pass do not matter, and additive: what the pod has stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sfc import annotation, names
from sfc.chain import Chain, Hook, Side, Stage
from sfc.validation.problem import shown
from webhook import source_ports
from webhook.model import Json, Malformed, at, elements, submapping

ENFORCE_LABEL = "pod-security.kubernetes.io/enforce"
TOPOLOGY_KEY = "kubernetes.io/hostname"
DEFAULT_GRACE_SECONDS = 30
"""Kubernetes' own default of terminationGracePeriodSeconds."""
MAX_CONTAINERS = 500
"""Each gets a hook, and a pod that large could not be stored; a bound for the time that an answer takes."""
GRACE_MARGIN_SECONDS = 30
"""What a network function has left for its own shutdown when draining took the whole deadline."""


CONTAINERS = ("containers", "initContainers")
GATE = {"conditionType": names.WIRED_CONDITION}


@dataclass(frozen=True, slots=True)
class Position:
    """A chain, and the stage of it that a pod implements."""

    chain: Chain
    stage: Stage


def hook_for(namespace_labels: Json) -> Hook:
    """Pod Security `baseline` and `restricted` refuse a host in a hook from Kubernetes 1.34 on, never a sleep."""
    return Hook.SLEEP if namespace_labels.get(ENFORCE_LABEL) in ("baseline", "restricted") else Hook.HTTP_GET


def unfit(spec: Json, stage: Stage) -> str | None:
    """Why the pod cannot be a replica of the stage, as sentences."""
    if spec.get("hostNetwork") is True:
        return (
            "spec.hostNetwork: true: the pod has no network of its own to which a stage's interfaces could be added; "
            f"remove hostNetwork, or the labels {names.CHAIN_LABEL} and {names.STAGE_LABEL}."
        )
    containers = sum(len(elements(spec, key, "object.spec")) for key in CONTAINERS)
    if containers > MAX_CONTAINERS:
        return f"The pod has {containers} containers, {MAX_CONTAINERS} are allowed; distribute them over several pods."
    return source_ports.contradiction(spec, stage) if stage.slices else None


def mutate_pod(obj: Json, place: Position, identity: str, signature: str, auto: Hook) -> tuple[Json, tuple[str, ...]]:
    """The pod as a replica of its stage, and warnings; `auto` is the hook where the chain leaves the choice to us.

    Raises AnnotationError, Malformed.
    """
    kind = auto if place.stage.drain_hook is Hook.AUTO else place.stage.drain_hook
    hook = hook_of(kind, identity, signature, place.stage.drain_deadline_seconds)
    spec = submapping(obj, "spec", "object")
    containers, kept = _with_hook(elements(spec, "containers", "object.spec"), hook, lambda _: True)
    sidecars, kept_sidecars = _with_hook(elements(spec, "initContainers", "object.spec"), hook, _is_sidecar)
    changed = spec | {"containers": containers}
    if _annotations(obj).get(names.READINESS_GATE_ANNOTATION) != "disabled":
        changed["readinessGates"] = _gates(elements(spec, "readinessGates", "object.spec"))
    if sidecars:
        changed["initContainers"] = sidecars
    if place.stage.slices:
        changed["schedulingGates"] = source_ports.gated(elements(spec, "schedulingGates", "object.spec"))
    if hook:
        changed["terminationGracePeriodSeconds"] = _grace(spec, place.stage)
    if affinity := _affinity(submapping(spec, "affinity", "object.spec"), place):
        changed["affinity"] = affinity
    annotated = at(obj, ("metadata", "annotations"), lambda present: _annotated(present, place, identity))
    warnings = (*map(_own_hook, (*kept, *kept_sidecars)), *_short_grace(spec, place.stage)) if hook else ()
    return annotated | {"spec": changed}, (*warnings, *source_ports.brought_along(_annotations(obj)))


def _annotations(obj: Json) -> Json:
    return submapping(submapping(obj, "metadata", "object"), "annotations", "object.metadata")


def stripped(obj: Json, namespace: str) -> Json:
    """A pod that is no replica, without what it has of one: a copy for debugging (`kubectl debug --copy-to`) loses its
    labels, and keeps a hook that would drain the original."""
    spec = submapping(obj, "spec", "object")
    containers = {key: elements(spec, key, "object.spec") for key in CONTAINERS if spec.get(key)}
    changed = {key: _with_hook(group, {}, lambda _: True)[0] for key, group in containers.items()}
    gates = elements(spec, "readinessGates", "object.spec")
    if GATE in gates:
        changed["readinessGates"] = [gate for gate in gates if gate != GATE]
    scheduling = elements(spec, "schedulingGates", "object.spec")
    if source_ports.GATE in scheduling:
        changed["schedulingGates"] = [gate for gate in scheduling if gate != source_ports.GATE]
    bare = at(obj, ("spec",), lambda present: present | changed)
    return at(bare, ("metadata", "annotations"), lambda present: _without_ours(present, namespace))


def _without_ours(annotations: Json, namespace: str) -> Json:
    ours = (names.DRAIN_ID_ANNOTATION, names.SOURCE_PORTS)
    kept = {key: value for key, value in annotations.items() if key not in ours}
    networks = kept.pop(names.NETWORKS_ANNOTATION, None)
    try:
        left = annotation.without_ours(networks, namespace)
    except annotation.AnnotationError:
        left = networks
    return kept if left is None else kept | {names.NETWORKS_ANNOTATION: left}


def hook_of(kind: Hook, identity: str, signature: str, deadline: int) -> Json:
    """The preStop hook; empty for none."""
    if kind is Hook.NONE:
        return {}
    if kind is Hook.SLEEP:
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


def _annotated(present: Json, place: Position, identity: str) -> Json:
    mine = annotation.ours(place.chain, place.stage, identity)
    networks = annotation.merge(present.get(names.NETWORKS_ANNOTATION), mine, place.chain.namespace)
    kept = {key: value for key, value in present.items() if key != names.SOURCE_PORTS}
    return kept | {names.NETWORKS_ANNOTATION: networks, names.DRAIN_ID_ANNOTATION: identity}


def _is_sidecar(container: Json) -> bool:
    """A native one: an init container that runs as long as the pod (KEP-753)."""
    return container.get("restartPolicy") == "Always"


def _with_hook(containers: list[Json], hook: Json, wanted: Callable[[Json], bool]) -> tuple[list[Json], list[Json]]:
    """The containers with the hook, and those that keep one of their own."""
    changed, kept = [], []
    for container in containers:
        present = submapping(submapping(container, "lifecycle", "container"), "preStop", "container.lifecycle")
        if not wanted(container):
            changed.append(container)
        elif not present or present == hook or _is_ours(present):
            changed.append(at(container, ("lifecycle", "preStop"), lambda _: hook))
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


def _short_grace(spec: Json, stage: Stage) -> Iterator[str]:
    present, deadline = spec.get("terminationGracePeriodSeconds"), stage.drain_deadline_seconds
    if isinstance(present, int) and present < deadline:
        yield (
            f"terminationGracePeriodSeconds {present} is shorter than the drain deadline of stage "
            f"{shown(stage.name)}, {deadline} s: pods get {deadline + GRACE_MARGIN_SECONDS} s; lower the deadline if "
            "that is too long"
        )


def _gates(gates: list[Json]) -> list[Json]:
    return gates if GATE in gates else [*gates, GATE]


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
    return at(affinity, ("podAffinity",), lambda rules: {**rules, key: [*elements(rules, key, "podAffinity"), term]})


def _neighbours(place: Position) -> list[str]:
    """Names of the stages at the other end of the stage's links."""
    ends = [(place.stage.name, interface.name) for interface in place.stage.interfaces]
    attached = [found for end in ends if (found := place.chain.attachments.get(end))]
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

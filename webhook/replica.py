"""A pod as a replica of its stage: the annotation, the drain hook, the grace period, the gates, the affinity.

Idempotent, so that the order of injectors and a second pass do not matter, and additive: what the pod has stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from sfc import annotation, names
from sfc.chain import Chain, InterfaceRef, Side, Stage
from sfc.problem import shown
from webhook import source_ports
from webhook.model import Json, Malformed, at, elements, mapping, submapping

ENFORCE_LABEL = "pod-security.kubernetes.io/enforce"
TOPOLOGY_KEY = "kubernetes.io/hostname"
DEFAULT_GRACE_SECONDS = 30
"""Kubernetes' own default of terminationGracePeriodSeconds."""
GRACE_MARGIN_SECONDS = 30
"""What a network function has left for its own shutdown when draining took the whole deadline."""


class HookMode(Enum):
    HTTP_GET = "httpGet"
    """The kubelet asks the node agent, which answers when the replica is drained."""
    SLEEP = "sleep"
    """Termination waits for the deadline; the node agent sees the deletion in its watch."""


@dataclass(frozen=True, slots=True)
class Position:
    """A chain, and the stage of it that a pod implements."""

    chain: Chain
    stage: Stage


def hook_for(namespace_labels: Json) -> HookMode:
    """Pod Security `baseline` and `restricted` refuse a host in a hook from Kubernetes 1.34 on, never a sleep."""
    return HookMode.SLEEP if namespace_labels.get(ENFORCE_LABEL) in ("baseline", "restricted") else HookMode.HTTP_GET


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
    if place.stage.slices:
        changed["schedulingGates"] = source_ports.gated(elements(spec, "schedulingGates", "object.spec"))
    if affinity := _affinity(submapping(spec, "affinity", "object.spec"), place):
        changed["affinity"] = affinity
    annotated = at(obj, ("metadata", "annotations"), lambda present: _annotated(present, place, identity))
    warnings = (*map(_own_hook, (*kept, *kept_sidecars)), *source_ports.brought_along(obj))
    return annotated | {"spec": changed}, warnings


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
    return at(affinity, ("podAffinity",), lambda rules: {**rules, key: [*elements(rules, key, "podAffinity"), term]})


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

"""From a pod as it was read to the pod as it should be: networks, drain hook, grace period, gates, affinity.

`replica` (with the same identity) and `stripped` are idempotent, so that the order of injectors and a second pass do
not matter. Everything that the user wrote stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from sfc import annotation, names
from sfc.chain import Hook, Stage
from sfc.statement import Sign
from sfc.validation.problem import shown
from webhook.decide.model import Container, Json, Pod
from webhook.decide.position import Position
from webhook.decide.read import TOPOLOGY_KEY

ENFORCE_LABEL = "pod-security.kubernetes.io/enforce"
DEFAULT_GRACE_SECONDS = 30
"""Kubernetes' own default of terminationGracePeriodSeconds."""
GRACE_MARGIN_SECONDS = 30
"""What a network function has left for its own shutdown when draining took the whole deadline."""

GATE = {"conditionType": names.WIRED_CONDITION}
"""The readiness gate: a pod is not Ready before it is wired."""
SOURCE_PORTS_GATE = {"name": names.SOURCE_PORTS}
OF_CONTROLLER = {names.SOURCE_PORTS: "source ports", names.REPLICA_NUMBER: "a number"}
"""Annotations that nobody else may write, and what they are."""
"""The scheduling gate: no container starts before the cluster controller has given the pod its source ports."""


def hook_for(namespace_labels: Json) -> Hook:
    """The hook in a namespace with these labels, where the chain leaves the choice to the webhook.

    Pod Security `baseline` and `restricted` refuse a host in a hook from Kubernetes 1.34 on, never a sleep.
    """
    return Hook.SLEEP if namespace_labels.get(ENFORCE_LABEL) in ("baseline", "restricted") else Hook.HTTP_GET


def replica(pod: Pod, place: Position, identity: str, auto: Hook, sign: Sign) -> tuple[Pod, tuple[str, ...]]:
    """The pod as a replica of its stage, and warnings.

    `identity` is its drain id; `auto` is the hook where the chain leaves the choice to the webhook; `sign` signs the
    statements. Raises AnnotationError when the pod's networks cannot be combined with the stage's.
    """
    kind = auto if place.stage.drain_hook is Hook.AUTO else place.stage.drain_hook
    hook = _hook(kind, identity, place.stage.drain_deadline_seconds)
    restart = _restart_grace(pod, place.stage) if hook else None
    after = replace(
        pod,
        annotations=_annotated(pod.annotations, place, identity, sign),
        containers=_hooked(pod.containers, hook, restart),
        init_containers=_hooked(pod.init_containers, hook, restart),
        readiness_gates=_readiness_gates(pod),
        scheduling_gates=_scheduling_gates(pod, place.stage),
        grace_seconds=_grace(pod, place.stage) if hook else pod.grace_seconds,
        preferences=_preferences(pod, place),
    )
    return after, tuple(_warnings(pod, place.stage, hook))


def stripped(pod: Pod, namespace: str) -> Pod:
    """A pod that is no replica, without anything that an earlier admission gave it as a replica.

    `kubectl debug --copy-to` makes such a pod: it removes the labels and keeps the rest. With the hook, deleting the
    copy would drain the original.
    """
    return replace(
        pod,
        annotations=_without_ours(pod.annotations, namespace),
        containers=_unhooked(pod.containers),
        init_containers=_unhooked(pod.init_containers),
        readiness_gates=tuple(gate for gate in pod.readiness_gates if gate != GATE),
        scheduling_gates=tuple(gate for gate in pod.scheduling_gates if gate != SOURCE_PORTS_GATE),
    )


# --- annotations ------------------------------------------------------------------------------------------------------


def _annotated(present: Json, place: Position, identity: str, sign: Sign) -> Json:
    mine = annotation.ours(place.chain, place.stage, identity, sign)
    networks = annotation.merge(present.get(names.NETWORKS_ANNOTATION), mine, place.chain.namespace)
    kept = {key: value for key, value in present.items() if key not in OF_CONTROLLER}
    return kept | {names.NETWORKS_ANNOTATION: networks, names.DRAIN_ID_ANNOTATION: identity}


def _without_ours(present: Json, namespace: str) -> Json:
    ours = (names.DRAIN_ID_ANNOTATION, names.NETWORKS_ANNOTATION, *OF_CONTROLLER)
    kept = {key: value for key, value in present.items() if key not in ours}
    networks = present.get(names.NETWORKS_ANNOTATION)
    with suppress(annotation.AnnotationError):  # it stays as it is: in a pod that is no replica it is not our affair
        networks = annotation.without_ours(networks, namespace)
    return kept if networks is None else kept | {names.NETWORKS_ANNOTATION: networks}


# --- draining ---------------------------------------------------------------------------------------------------------


def _hook(kind: Hook, identity: str, deadline: int) -> Json:
    """The preStop hook; empty for none. `deadline` is in seconds."""
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
        }
    }


def _hooked(containers: tuple[Container, ...], hook: Json, restart: int | None) -> tuple[Container, ...]:
    """`restart`: seconds that a container has to end when a probe of it fails; None leaves that alone."""
    limited = (replace(c, probe_grace_seconds=restart) for c in containers)
    return tuple(replace(c, hook=hook) if c.lasting and not _own_hook(c, hook) else c for c in limited)


def _unhooked(containers: tuple[Container, ...]) -> tuple[Container, ...]:
    return tuple(replace(c, hook={}) if _is_ours(c.hook) else c for c in containers)


def _own_hook(container: Container, hook: Json) -> bool:
    """Whether the container has a hook of the user's, other than `hook`."""
    return bool(container.hook) and container.hook != hook and not _is_ours(container.hook)


def _is_ours(hook: Json) -> bool:
    """Whether an earlier pass wrote it; a copied pod may have brought it along."""
    get = hook.get("httpGet")
    return (
        isinstance(get, dict)
        and (get.get("host"), get.get("port")) == (names.HOOK_HOST, names.HOOK_PORT)
        and str(get.get("path")).startswith(names.HOOK_PATH)
    )


def _grace(pod: Pod, stage: Stage) -> int:
    present = DEFAULT_GRACE_SECONDS if pod.grace_seconds is None else pod.grace_seconds
    return max(present, stage.drain_deadline_seconds + GRACE_MARGIN_SECONDS)


def _restart_grace(pod: Pod, stage: Stage) -> int | None:
    """What the function has for its own shutdown after a drain, where the rest of the grace period is for the drain: no
    drain comes before the restart of a container that hangs, so nobody shall wait for one."""
    return GRACE_MARGIN_SECONDS if _grace(pod, stage) == stage.drain_deadline_seconds + GRACE_MARGIN_SECONDS else None


# --- gates and affinity -----------------------------------------------------------------------------------------------


def _readiness_gates(pod: Pod) -> tuple[Json, ...]:
    if pod.annotations.get(names.READINESS_GATE_ANNOTATION) == "disabled":
        return pod.readiness_gates
    return _gated(pod.readiness_gates, GATE)


def _scheduling_gates(pod: Pod, stage: Stage) -> tuple[Json, ...]:
    return _gated(pod.scheduling_gates, SOURCE_PORTS_GATE) if stage.shares else pod.scheduling_gates


def _gated(gates: tuple[Json, ...], gate: Json) -> tuple[Json, ...]:
    return gates if gate in gates else (*gates, gate)


def _preferences(pod: Pod, place: Position) -> tuple[Json, ...]:
    """With one for nodes of neighbouring stages, where frames need not leave the node.

    A pod that has rules of its own for nodes keeps them alone.
    """
    neighbours = _neighbours(place)
    if not neighbours or pod.rules_for_nodes:
        return pod.preferences
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
    return (*pod.preferences, term)


def _neighbours(place: Position) -> list[str]:
    """Names of the stages at the other end of the stage's links."""
    ends = [(place.stage.name, interface.name) for interface in place.stage.interfaces]
    attached = [found for end in ends if (found := place.chain.attachments.get(end))]
    return sorted({connection.far_end(side).stage for connection, side in attached})


# --- warnings ---------------------------------------------------------------------------------------------------------


def _warnings(pod: Pod, stage: Stage, hook: Json) -> Iterator[str]:
    if hook:
        for container in (*pod.containers, *pod.init_containers):
            if container.lasting and _own_hook(container, hook):
                yield (
                    f"container {shown(container.name)} keeps its own preStop hook: it does not wait for draining, "
                    "which starts when the pod's deletion is seen; remove the hook to have termination wait"
                )
        yield from _short_grace(pod, stage)
    for key, what in OF_CONTROLLER.items():
        if key in pod.annotations:  # of a copied manifest, perhaps; they may be another replica's
            yield (
                f"annotation {key}: {shown(pod.annotations[key])} is removed; only the cluster controller gives "
                f"{what} to a pod"
            )


def _short_grace(pod: Pod, stage: Stage) -> Iterator[str]:
    present, deadline = pod.grace_seconds, stage.drain_deadline_seconds
    if present is None or present == DEFAULT_GRACE_SECONDS:  # which the API server writes
        return
    if present < deadline:
        yield (
            f"terminationGracePeriodSeconds {present} is shorter than the drain deadline of stage "
            f"{shown(stage.name)}, {deadline} s: pods get {deadline + GRACE_MARGIN_SECONDS} s; lower the deadline if "
            "that is too long"
        )

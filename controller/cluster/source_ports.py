"""Who gets which slice of source ports: from the pods as they are, pure.

A pod of a stage with slices is created behind a scheduling gate. One patch opens the gate and writes the pod's ports,
so that nothing of the pod ever runs without them. What a pod has been given stands in its annotation and nowhere else;
it is free again when the pod is gone, or over. A slice is free when it overlaps no living replica's ports, so that a
stage may change its number of slices while replicas with slices of the old size still run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from controller.cluster import events
from controller.cluster.changes import Assign, Change, Patch, Record
from controller.node.report.conditions import Condition
from kube import objects
from kube.objects import PODS, Object
from sfc import annotation, names
from sfc.chain import Chain, Stage
from sfc.source_ports import PortRange, every

NO_FREE_SLICE = "NoFreeSourcePorts"
NO_CHAIN = "NoChain"
NO_STAGE = "NoStage"
SCHEDULED_NEXT = "NotScheduled"


def changes(namespace: str, name: str, chain: Chain | None, pods: Sequence[Object], now: datetime) -> Iterator[Change]:
    """`pods`: those of the chain of this name. `chain`: None when it does not exist or is invalid."""
    for stage_name, members in _by_stage(pods).items():
        stage = chain.stage(stage_name) if chain else None
        if stage and any(given(members, stage.slices)):
            yield Assign(namespace, name, stage_name, stage.slices)
        for pod in left_over(members, stage):
            yield from _tell(pod, _why(f"{namespace}/{name}", chain, stage, stage_name), now)
        for pod in filter(_goes_on, members):
            yield from _tell(pod, Condition(False, SCHEDULED_NEXT, "has its source ports; waits for a node"), now)


def given(pods: Sequence[Object], slices: int | None) -> Iterator[tuple[Object, PortRange | None]]:
    """The waiting pods of a stage that can go on, the oldest first, each with its ports.

    Without slices (any more) they go on without. Which free slice a pod gets depends on its UID, so that one that was
    just freed, and whose connections others may still remember, mostly rests.
    """
    left = _free(pods, slices) if slices else []
    for pod in _waiting(pods):
        if slices is None:
            yield pod, None
        elif left:
            digest = hashlib.sha256(pod["metadata"]["uid"].encode()).digest()
            yield pod, left.pop(int.from_bytes(digest[:4], "big") % len(left))


def left_over(pods: Sequence[Object], stage: Stage | None) -> list[Object]:
    """The waiting pods of a stage for which there is nothing."""
    waiting = _waiting(pods)
    return waiting[len(list(given(pods, stage.slices))) :] if stage else waiting


def patch(pod: Object, ports: PortRange | None) -> dict[str, Any]:
    """A merge patch that gives a pod its ports and opens the gate; refused when the pod has changed meanwhile."""
    metadata = pod["metadata"]
    annotations: dict[str, str | None] = {names.SOURCE_PORTS: str(ports) if ports else None}
    networks = (metadata.get("annotations") or {}).get(names.NETWORKS_ANNOTATION)
    with suppress(annotation.AnnotationError):  # Multus cannot read it either, and says so in the pod's events
        annotations[names.NETWORKS_ANNOTATION] = annotation.with_source_ports(networks, metadata["namespace"], ports)
    return {
        "metadata": {
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "annotations": annotations,
        },
        "spec": {"schedulingGates": [gate for gate in _gates(pod) if gate["name"] != names.SOURCE_PORTS]},
    }


def shortage(chain: Chain, pods: Sequence[Object]) -> str | None:
    """What the chain's stages lack; None when every replica has its ports."""
    members = _by_stage(pods)
    sentences = (_shortage(stage, len(left_over(members.get(stage.name, ()), stage))) for stage in chain.stages)
    return "; ".join(filter(None, sentences)) or None


def _shortage(stage: Stage, waiting: int) -> str | None:
    if not waiting:
        return None
    return f"stage {stage.name}: {waiting} pod{'s' if waiting > 1 else ''} without source ports, {_remedy(stage)}"


def _remedy(stage: Stage) -> str:
    fields = ", ".join(f"{stage.name}.{i.name}" for i in stage.interfaces if i.slices)
    return (
        f"as replicas hold all {stage.slices} slices: raise sourcePorts.slices of {fields}, or have fewer replicas "
        "(a rolling update adds some; a slice is free when its replica is gone)"
    )


def _why(path: str, chain: Chain | None, stage: Stage | None, stage_name: str) -> Condition:
    if chain is None:
        return Condition(False, NO_CHAIN, f"{names.CHAIN_KIND} {path} does not exist or is invalid")
    if stage is None:
        return Condition(False, NO_STAGE, f"{names.CHAIN_KIND} {path} has no stage {stage_name}")
    message = f"{names.CHAIN_KIND} {path}, stage {stage.name}: no source ports for this pod, {_remedy(stage)}"
    return Condition(False, NO_FREE_SLICE, message)


def _tell(pod: Object, condition: Condition, now: datetime) -> Iterator[Change]:
    current = objects.condition(pod, names.WIRED_CONDITION)
    if condition.stands_in(current):
        return
    path = PODS.path(objects.namespace(pod), objects.name(pod), "status")
    yield Patch(path, condition.patch(pod["metadata"]["uid"], current, now))
    if condition.reason != SCHEDULED_NEXT:
        event = events.Event(condition.reason, condition.message, warning=True)
        yield Record(events.to_object(event, pod, now))


def _goes_on(pod: Object) -> bool:
    """It was told that it must wait, and does not any more; once it has a node, the node's agent reports."""
    current = objects.condition(pod, names.WIRED_CONDITION) or {}
    ours = (NO_FREE_SLICE, NO_CHAIN, NO_STAGE)
    return not _is_gated(pod) and not (pod.get("spec") or {}).get("nodeName") and current.get("reason") in ours


def _free(pods: Iterable[Object], slices: int) -> list[PortRange]:
    held = [ports for pod in pods if (ports := _held(pod))]
    return [one for one in every(slices) if not any(one.overlaps(ports) for ports in held)]


def _held(pod: Object) -> PortRange | None:
    """A pod behind the gate holds nothing, whatever somebody wrote into its annotation."""
    if _is_gated(pod) or _is_over(pod):
        return None
    return PortRange.parse((pod["metadata"].get("annotations") or {}).get(names.SOURCE_PORTS))


def _waiting(pods: Iterable[Object]) -> list[Object]:
    found = [pod for pod in pods if _is_gated(pod) and not _is_over(pod) and not objects.leaving(pod)]
    return sorted(found, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["uid"]))


def _is_over(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in objects.OVER


def _is_gated(pod: Object) -> bool:
    return any(gate.get("name") == names.SOURCE_PORTS for gate in _gates(pod))


def _gates(pod: Object) -> list[Mapping[str, Any]]:
    return (pod.get("spec") or {}).get("schedulingGates") or []


def _by_stage(pods: Iterable[Object]) -> dict[str, list[Object]]:
    found: dict[str, list[Object]] = {}
    for pod in pods:
        if stage := objects.label(pod, names.STAGE_LABEL):
            found.setdefault(stage, []).append(pod)
    return found

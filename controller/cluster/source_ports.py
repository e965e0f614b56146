"""Which pod gets which number, and slice of source ports, decided from the pods as they are. Pure.

A pod of a stage with slices, or with numbers alone, is created behind a scheduling gate. One patch opens the gate and
writes the pod's share, so that no container of the pod ever runs without it. A pod's share is stored in its annotations
and nowhere else; it is free again when the pod is deleted, or over. A slice is free when it overlaps the ports of no
living replica: so a stage may change its number of slices while replicas with slices of the old size still run. A
number is free when no living replica has it. That of a slice is its index, or if that is not free a larger one: nobody
waits for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import count
from typing import Any

from controller.cluster import events
from controller.cluster.snapshot import Pod, by_stage
from controller.cluster.writes import Assign, Patch, Write
from kube.conditions import Condition
from kube.events import Event
from kube.objects import PODS
from sfc import annotation, missing, names
from sfc.chain import Chain, Stage
from sfc.source_ports import LAST, PortRange, Share, Shares, every

NO_FREE_SLICE = "NoFreeSourcePorts"
SCHEDULED_NEXT = "NotScheduled"


def writes(namespace: str, name: str, chain: Chain | None, pods: Sequence[Pod], now: datetime) -> Iterator[Write]:
    """`pods`: those of the chain of this name. `chain`: None when it does not exist or is not valid."""
    for stage_name, members in by_stage(pods).items():
        stage = chain.stage(stage_name) if chain else None
        if stage and any(given(members, stage.shares)):
            yield Assign(namespace, name, stage_name, stage.shares)
        for pod in left_over(members, stage):
            yield from _report(pod, _why(pod, chain, stage), now)
        for pod in filter(_goes_on, members):
            yield from _report(pod, _wired(SCHEDULED_NEXT, "has its source ports or number; waits for a node"), now)


def path(namespace: str, chain: str, stage: str) -> str:
    """Of the pods of a stage, for logs, and for what is refused."""
    return f"{PODS.path(namespace)}?{names.CHAIN_LABEL}={chain},{names.STAGE_LABEL}={stage}"


def given(pods: Sequence[Pod], shares: Shares | None) -> Iterator[tuple[Pod, Share | None]]:
    """The waiting pods of a stage that can go on, the oldest first, each with its share.

    `shares`: None for a stage that has none (any more); its pods go on without. The UID of a pod decides which of the
    free ones it gets: a slice that was just freed, and whose connections peers may still remember, is then seldom the
    next to be given.
    """
    left = _free(pods, shares) if shares else []
    for pod in waiting(pods):
        if shares is None:
            yield pod, None
        elif left:
            digest = hashlib.sha256(pod.uid.encode()).digest()
            yield pod, left.pop(int.from_bytes(digest[:4], "big") % len(left))


def left_over(pods: Sequence[Pod], stage: Stage | None) -> list[Pod]:
    """The waiting pods of a stage for which nothing is free; all of them without a stage."""
    pending = waiting(pods)
    return pending[len(list(given(pods, stage.shares))) :] if stage else pending


def patch(pod: Pod, share: Share | None) -> dict[str, Any]:
    """A merge patch that gives a pod its share and opens the gate.

    The API server refuses it (409) when the pod has changed meanwhile.
    """
    ports = share.ports if share else None
    annotations: dict[str, str | None] = {
        names.SOURCE_PORTS: str(ports) if ports else None,
        names.REPLICA_NUMBER: str(share.number) if share else None,
    }
    with suppress(annotation.AnnotationError):  # Multus cannot read it either, and reports that in the pod's events
        annotations[names.NETWORKS_ANNOTATION] = annotation.with_source_ports(pod.networks, pod.namespace, ports)
    return {
        "metadata": {
            "uid": pod.uid,
            "resourceVersion": pod.resource_version,
            "annotations": annotations,
        },
        "spec": {"schedulingGates": [gate for gate in pod.gates if gate["name"] != names.SOURCE_PORTS]},
    }


def shortage(chain: Chain, pods: Sequence[Pod]) -> str | None:
    """Which stages lack source ports, or numbers, and the remedy; None when every replica has its share."""
    members = by_stage(pods)
    sentences = (_shortage(stage, len(left_over(members.get(stage.name, ()), stage))) for stage in chain.stages)
    return "; ".join(filter(None, sentences)) or None


def _shortage(stage: Stage, waiting: int) -> str | None:
    if not waiting:
        return None
    return f"stage {stage.name}: {waiting} pod{'s' if waiting > 1 else ''} without {_share(stage)}, {_remedy(stage)}"


def _share(stage: Stage) -> str:
    return "source ports" if stage.slices else "a number"


def _remedy(stage: Stage) -> str:
    if not stage.slices:
        return (
            f"as replicas hold all {stage.replica_numbers} numbers: raise replicaNumbers of stage {stage.name}, or "
            "have fewer replicas (a rolling update adds some; a number is free when its replica is gone)"
        )
    fields = ", ".join(f"{stage.name}.{i.name}" for i in stage.interfaces if i.slices)
    return (
        f"as replicas hold all {stage.slices} slices: raise sourcePorts.slices of {fields}, or have fewer replicas "
        "(a rolling update adds some; a slice is free when its replica is gone)"
    )


def _why(pod: Pod, chain: Chain | None, stage: Stage | None) -> Condition:
    if chain is None:
        return _wired(missing.NO_CHAIN, missing.chain(pod.namespace, pod.chain))
    if stage is None:
        return _wired(missing.NO_STAGE, missing.stage(chain, pod.stage))
    where = f"{names.CHAIN_KIND} {pod.namespace}/{pod.chain}, stage {stage.name}"
    return _wired(NO_FREE_SLICE, f"{where}: no {_share(stage).removeprefix('a ')} for this pod, {_remedy(stage)}")


def _wired(reason: str, message: str) -> Condition:
    return Condition(names.WIRED_CONDITION, False, reason, message)


def _report(pod: Pod, condition: Condition, now: datetime) -> Iterator[Write]:
    if condition.stands_in(pod.condition):
        return
    yield Patch(PODS.path(pod.namespace, pod.name, "status"), condition.patch(pod.uid, pod.condition, now))
    if condition.reason != SCHEDULED_NEXT:
        yield events.record(Event(condition.reason, condition.message, warning=True), pod.reference, now)


def _goes_on(pod: Pod) -> bool:
    """It does not wait any more, but its condition still says so. Once it has a node, the node's agent reports."""
    ours = (NO_FREE_SLICE, missing.NO_CHAIN, missing.NO_STAGE)
    return not pod.gated and not pod.has_node and pod.condition is not None and pod.condition.get("reason") in ours


def _free(pods: Sequence[Pod], shares: Shares) -> list[Share]:
    numbers = {pod.number for pod in pods}
    if not shares.of_ports:
        return [Share(number) for number in range(shares.count) if number not in numbers]
    larger = (number for number in count(shares.count) if number not in numbers)
    free = _free_slices(pods, shares.count)
    return [Share(next(larger) if index in numbers else index, ports) for index, ports in free]


def _free_slices(pods: Iterable[Pod], slices: int) -> list[tuple[int, PortRange]]:
    """With their indices. Each port is marked once it is held: comparing every slice with every pod would let many pods
    delay others."""
    held = bytearray(LAST + 1)
    for ports in {pod.ports for pod in pods if pod.ports}:
        held[ports.first : ports.last + 1] = b"\1" * (ports.last + 1 - ports.first)
    return [(at, one) for at, one in enumerate(every(slices)) if 1 not in held[one.first : one.last + 1]]


def waiting(pods: Iterable[Pod]) -> list[Pod]:
    """The pods that wait for their share, the oldest first."""
    return sorted((pod for pod in pods if pod.waiting), key=lambda pod: (pod.created, pod.uid))

"""A replica: what the node agent needs of a pod, read once from the pod's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from controller.node.plane.model import HostLink
from sfc import annotation, names


@dataclass(frozen=True, slots=True)
class Replica:
    """One pod of a stage."""

    namespace: str
    name: str
    uid: str
    chain: str
    """What its links were made for, as is the stage; what its labels say, while it has no links."""
    stage: str
    ready: bool
    """The pod's condition ContainersReady. The condition Ready would not do: it depends on our own readiness gate, and
    stays true while the pod terminates."""
    stopped: bool
    """A container that had started does not run any more, or the pod has ended. Init containers that run as long as the
    pod (native sidecars, KEP-753) count; those that end before it starts do not."""
    terminating: bool
    """The pod is being deleted."""
    condition: Mapping[str, Any] | None
    """The pod's present condition `sfc.dev/wired`, as JSON."""
    interfaces: frozenset[str] = frozenset()
    """Names of the interfaces that the webhook asked Multus for."""
    relabelled: str | None = None
    """What its labels say now, when that is not what its links were made for; for a person."""

    @property
    def path(self) -> str:
        """namespace/name"""
        return f"{self.namespace}/{self.name}"

    def made_for(self, chain: str, stage: str) -> Replica:
        """The replica as one of this stage, which its labels do not say (any more)."""
        return replace(self, chain=chain, stage=stage, relabelled=f"stage {self.stage} of chain {self.chain}")


def replica_of(pod: Mapping[str, Any]) -> Replica | None:
    """The replica that a pod (as JSON) is; None without the labels of a chain and a stage."""
    chain, stage = _labels(pod)
    return None if chain is None or stage is None else _read(pod, chain, stage)


def former_replica(pod: Mapping[str, Any], link: HostLink) -> Replica:
    """The replica that a pod (as JSON) was before it lost a label. `link`: one of its links, which says what it was."""
    chain, _ = _labels(pod)
    said = "no chain" if chain is None else f"no stage of chain {chain}"
    return replace(_read(pod, link.chain, link.stage), relabelled=said)


def _labels(pod: Mapping[str, Any]) -> tuple[str | None, str | None]:
    labels = pod["metadata"].get("labels") or {}
    return labels.get(names.CHAIN_LABEL), labels.get(names.STAGE_LABEL)


def _read(pod: Mapping[str, Any], chain: str, stage: str) -> Replica:
    metadata = pod["metadata"]
    status = pod.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    return Replica(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        chain=chain,
        stage=stage,
        ready=conditions.get("ContainersReady", {}).get("status") == "True",
        stopped=status.get("phase") in ("Succeeded", "Failed") or any(_stopped(c) for c in _lasting(pod)),
        terminating="deletionTimestamp" in metadata,
        condition=conditions.get(names.WIRED_CONDITION),
        interfaces=_interfaces(metadata),
    )


def _interfaces(metadata: Mapping[str, Any]) -> frozenset[str]:
    """Empty when the annotation cannot be read: Multus could not have wired such a pod either."""
    networks = (metadata.get("annotations") or {}).get(names.NETWORKS_ANNOTATION)
    try:
        return annotation.interfaces(networks, metadata["namespace"])
    except annotation.AnnotationError:
        return frozenset()


def _lasting(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The statuses of the containers that run as long as the pod."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    init_containers = spec.get("initContainers") or []
    sidecars = {each["name"] for each in init_containers if each.get("restartPolicy") == "Always"}
    yield from status.get("containerStatuses") or []
    yield from (each for each in status.get("initContainerStatuses") or [] if each.get("name") in sidecars)


def _stopped(container: Mapping[str, Any]) -> bool:
    state = container.get("state") or {}
    return "terminated" in state or ("waiting" in state and container.get("restartCount", 0) > 0)

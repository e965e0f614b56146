"""A replica: what the node agent needs of a pod, read once from the pod's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sfc import annotation, names


@dataclass(frozen=True, slots=True)
class Replica:
    """One pod of a stage."""

    namespace: str
    name: str
    uid: str
    chain: str
    stage: str
    ready: bool
    """The pod's condition ContainersReady. The condition Ready would not do: it depends on our own readiness gate, and
    stays true while the pod terminates."""
    stopped: bool
    """A container that had started does not run any more, or the pod has ended."""
    terminating: bool
    """The pod is being deleted."""
    condition: Mapping[str, Any] | None
    """The pod's present condition `sfc.dev/wired`, as JSON."""
    interfaces: frozenset[str] = frozenset()
    """Names of the interfaces that the webhook asked Multus for."""

    @property
    def path(self) -> str:
        """namespace/name"""
        return f"{self.namespace}/{self.name}"


def replica_of(pod: Mapping[str, Any]) -> Replica | None:
    """The replica that a pod (as JSON) is; None without the labels of a chain and a stage."""
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    if names.CHAIN_LABEL not in labels or names.STAGE_LABEL not in labels:
        return None
    status = pod.get("status") or {}
    containers = status.get("containerStatuses") or []
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    return Replica(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        chain=labels[names.CHAIN_LABEL],
        stage=labels[names.STAGE_LABEL],
        ready=conditions.get("ContainersReady", {}).get("status") == "True",
        stopped=status.get("phase") in ("Succeeded", "Failed") or any(_stopped(c) for c in containers),
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


def _stopped(container: Mapping[str, Any]) -> bool:
    state = container.get("state") or {}
    return "terminated" in state or ("waiting" in state and container.get("restartCount", 0) > 0)

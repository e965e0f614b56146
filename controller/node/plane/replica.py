"""What the node agent needs to know of a pod, read from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sfc import annotation, names


@dataclass(frozen=True, slots=True)
class Replica:
    namespace: str
    name: str
    uid: str
    chain: str
    stage: str
    ready: bool
    """ContainersReady. Not Ready: our own gate is part of that, and it stays true while terminating."""
    stopped: bool
    """A container that had started does not run any more, or the pod is over."""
    terminating: bool
    incarnation: str
    """The containers' ids; another value after any restart."""
    condition: Mapping[str, Any] | None
    """The `sfc.dev/wired` condition as it stands."""
    interfaces: frozenset[str] = frozenset()
    """Those that the webhook asked Multus for."""

    @property
    def path(self) -> str:
        return f"{self.namespace}/{self.name}"


def replica_of(pod: Mapping[str, Any]) -> Replica | None:
    """None for a pod that is no replica of any stage."""
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
        incarnation=" ".join(sorted(c.get("containerID", "") for c in containers)),
        condition=conditions.get(names.WIRED_CONDITION),
        interfaces=_interfaces(metadata),
    )


def _interfaces(metadata: Mapping[str, Any]) -> frozenset[str]:
    """None of an annotation that cannot be read: nobody could have wired that pod."""
    networks = (metadata.get("annotations") or {}).get(names.NETWORKS_ANNOTATION)
    try:
        return annotation.interfaces(networks, metadata["namespace"])
    except annotation.AnnotationError:
        return frozenset()


def _stopped(container: Mapping[str, Any]) -> bool:
    state = container.get("state") or {}
    return "terminated" in state or ("waiting" in state and container.get("restartCount", 0) > 0)

"""A replica: what the node agent needs of a pod, read once from the pod's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sfc import annotation, names
from sfc.source_ports import PortRange


@dataclass(frozen=True, slots=True)
class Replica:
    """One pod of a stage, or a pod without the labels of one: only its links can say whether it was a replica."""

    namespace: str
    name: str
    uid: str
    chain: str
    """What its links were made for, as is the stage; what its labels say, while it has no links. Empty without."""
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
    running: bool = False
    """All its containers run, ready or not, and so do its native sidecars."""
    relabelled: str | None = None
    """What its labels say now, when that is not what its links were made for; for a person."""
    finished: bool = False
    """Its containers that stopped had done their work, as those of a Job do, and nobody starts them again."""
    ports: PortRange | None = None
    """The source ports that it holds."""

    @property
    def labelled(self) -> bool:
        """It has the labels of a chain and a stage, or links that were made for them."""
        return bool(self.chain and self.stage)

    @property
    def path(self) -> str:
        """namespace/name"""
        return f"{self.namespace}/{self.name}"

    def made_for(self, chain: str, stage: str) -> Replica:
        """The replica as one of this stage, which its labels do not say (any more)."""
        stage_said = f"stage {self.stage}" if self.stage else "no stage"
        said = f"{stage_said} of chain {self.chain}" if self.chain else "no chain"
        return replace(self, chain=chain, stage=stage, relabelled=said)


def replica_of(pod: Mapping[str, Any]) -> Replica:
    """What is needed of a pod (as JSON), whether it has the labels of a chain and a stage or not."""
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    status = pod.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    return Replica(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        chain=labels.get(names.CHAIN_LABEL) or "",
        stage=labels.get(names.STAGE_LABEL) or "",
        ready=conditions.get("ContainersReady", {}).get("status") == "True",
        stopped=status.get("phase") in ("Succeeded", "Failed") or any(_stopped(c) for c in _lasting(pod)),
        terminating="deletionTimestamp" in metadata,
        condition=conditions.get(names.WIRED_CONDITION),
        interfaces=_interfaces(metadata),
        finished=_finished(pod),
        running=_running(pod),
        ports=PortRange.parse((metadata.get("annotations") or {}).get(names.SOURCE_PORTS)),
    )


def _interfaces(metadata: Mapping[str, Any]) -> frozenset[str]:
    """Empty when the annotation cannot be read: Multus could not have wired such a pod either."""
    networks = (metadata.get("annotations") or {}).get(names.NETWORKS_ANNOTATION)
    try:
        return annotation.interfaces(networks, metadata["namespace"])
    except annotation.AnnotationError:
        return frozenset()


def _running(pod: Mapping[str, Any]) -> bool:
    started = (pod.get("status") or {}).get("containerStatuses")
    return bool(started) and all("running" in (each.get("state") or {}) for each in _lasting(pod))


def _lasting(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The statuses of the containers that run as long as the pod."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    init_containers = spec.get("initContainers") or []
    sidecars = {each["name"] for each in init_containers if each.get("restartPolicy") == "Always"}
    yield from status.get("containerStatuses") or []
    yield from (each for each in status.get("initContainerStatuses") or [] if each.get("name") in sidecars)


def _finished(pod: Mapping[str, Any]) -> bool:
    """What sidecars end with is no matter: they are ended by the kubelet."""
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    codes = [ended.get("exitCode") for c in containers if (ended := (c.get("state") or {}).get("terminated"))]
    return bool(codes) and not any(codes) and (pod.get("spec") or {}).get("restartPolicy", "Always") != "Always"


def _stopped(container: Mapping[str, Any]) -> bool:
    state = container.get("state") or {}
    return "terminated" in state or ("waiting" in state and container.get("restartCount", 0) > 0)

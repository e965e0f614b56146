"""What a stage with slices of source ports means for its pods: they are held back from scheduling until the cluster
controller has given them one, so that no container ever starts without."""

from __future__ import annotations

from collections.abc import Iterator

from sfc import names
from sfc.chain import Stage
from sfc.validation.problem import shown
from webhook.model import Json, elements, submapping

SYSCTL = "net.ipv4.ip_local_port_range"


GATE = {"name": names.SOURCE_PORTS}


def gated(gates: list[Json]) -> list[Json]:
    return gates if GATE in gates else [*gates, GATE]


def contradiction(spec: Json, stage: Stage) -> str | None:
    """Why a pod cannot have source ports of its own, and what to do; None when it can."""
    if node := spec.get("nodeName"):
        return (
            f"spec.nodeName: {shown(node)}: replicas of stage {shown(stage.name)} are given their source ports before "
            "they are scheduled, which a pod that names its node is not; remove nodeName and choose the node by "
            "spec.nodeSelector (kubernetes.io/hostname)."
        )
    sysctls = elements(submapping(spec, "securityContext", "object.spec"), "sysctls", "object.spec.securityContext")
    if any(sysctl.get("name") == SYSCTL for sysctl in sysctls):
        return (
            f"spec.securityContext.sysctls: {SYSCTL}: replicas of stage {shown(stage.name)} are given their source "
            "ports, which this would replace; remove the sysctl, or sourcePorts from the stage's interfaces."
        )
    return None


def brought_along(annotations: Json) -> Iterator[str]:
    """A warning about ports that somebody else wrote, such as a copied manifest: they may be another replica's."""
    if names.SOURCE_PORTS in annotations:
        yield (
            f"annotation {names.SOURCE_PORTS}: {shown(annotations[names.SOURCE_PORTS])} is removed; only the cluster "
            "controller gives source ports to a pod"
        )

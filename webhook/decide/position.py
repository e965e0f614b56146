"""What a pair of labels means: a stage of a chain, or what stands in the way, as sentences for users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sfc import missing, names
from sfc.chain import Chain, Stage
from sfc.source_ports import FIRST
from sfc.validation.checks import InvalidChain
from sfc.validation.problem import shown
from webhook.decide.model import Pod
from webhook.decide.read import LABELS

MAX_CONTAINERS = 500
"""Each gets a hook, and a pod that large could not be stored; a bound for the time that an answer takes."""
PRIVILEGED_PORTS = "net.ipv4.ip_unprivileged_port_start"
PORT_SYSCTLS = {
    "net.ipv4.ip_local_port_range": "would replace",
    "net.ipv4.ip_local_reserved_ports": "may take away",
    PRIVILEGED_PORTS: "forbids in part",
}
"""What a pod's own setting does to its source ports. IPv6 goes by the same ones."""

FindChain = Callable[[str, str], Chain | InvalidChain | None]
"""(namespace, name) → the chain, what is wrong with it, or None when it does not exist."""


@dataclass(frozen=True, slots=True)
class Position:
    """A chain, and the stage of it that a pod implements."""

    chain: Chain
    stage: Stage


def position(pod: Pod, namespace: str, find: FindChain) -> Position | str:
    """The stage that the pod's labels name, or why the pod cannot be a replica of one, in sentences."""
    labels = pod.labels
    if labels.chain is None or labels.stage is None:
        has, lacks = LABELS if labels.stage is None else reversed(LABELS)
        return f"Label {has} is set but {lacks} is not; set both, or remove both."
    chain = find(namespace, labels.chain)
    if chain is None:
        return f"{missing.chain(namespace, labels.chain)}."
    if isinstance(chain, InvalidChain):
        return f"{names.CHAIN_KIND} {namespace}/{labels.chain} is not valid; correct it. {chain}"
    stage = chain.stage(labels.stage)
    if stage is None:
        return f"{missing.stage(chain, labels.stage)}."
    return _unfit(pod, stage) or Position(chain, stage)


def _unfit(pod: Pod, stage: Stage) -> str | None:
    if pod.host_network:
        return (
            "spec.hostNetwork: true: the pod has no network of its own to which a stage's interfaces could be added; "
            f"remove hostNetwork, or the labels {names.CHAIN_LABEL} and {names.STAGE_LABEL}."
        )
    containers = len(pod.containers) + len(pod.init_containers)
    if containers > MAX_CONTAINERS:
        return f"The pod has {containers} containers, {MAX_CONTAINERS} are allowed; distribute them over several pods."
    return _without_share(pod, stage) if stage.shares else None


def _without_share(pod: Pod, stage: Stage) -> str | None:
    """Why the pod cannot have source ports, or a number, of its own."""
    if pod.node_name:
        share = "source ports" if stage.slices else "number"
        return (
            f"spec.nodeName: {shown(pod.node_name)}: replicas of stage {shown(stage.name)} are given their {share} "
            "before they are scheduled, which a pod that names its node is not; remove nodeName and choose the "
            "node by spec.nodeSelector (kubernetes.io/hostname)."
        )
    for sysctl, effect in PORT_SYSCTLS.items() if stage.slices else ():
        if sysctl in pod.sysctls and not _harmless(sysctl, pod.sysctls[sysctl]):
            return (
                f"spec.securityContext.sysctls: {sysctl}: {shown(pod.sysctls[sysctl])}: replicas of stage "
                f"{shown(stage.name)} are given their source ports, which this {effect}; remove the sysctl, or "
                "sourcePorts from the stage's interfaces."
            )
    return None


def _harmless(sysctl: str, value: object) -> bool:
    """Whether the setting leaves all ports that are divided: many pods set 0, to listen below 1024 without root."""
    return sysctl == PRIVILEGED_PORTS and isinstance(value, str) and value.isdecimal() and int(value[:9]) <= FIRST

"""The objects that the cluster controller decides by, each read once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from kube import lean, objects
from kube.objects import PODS, Key, Object
from sfc import names
from sfc.chain import Chain
from sfc.source_ports import PortRange, number_of
from sfc.validation import bounds
from sfc.validation.checks import InvalidChain, parse
from sfc.validation.problem import listing


@dataclass(frozen=True, slots=True)
class ChainObject:
    """A ServiceFunctionChain: the raw object without its spec, and what the spec says."""

    obj: Object
    chain: Chain | None
    """None for an object that is not valid."""
    problems: str = ""
    """Why it is not valid."""
    excesses: str = ""
    """What it has more of than admission allows today; empty when it is within all bounds."""
    version: bytes = b""
    """A digest of UID and spec."""

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return objects.key(self.obj)

    @property
    def reference(self) -> dict[str, Any]:
        """As `involvedObject` of an Event."""
        return objects.CHAINS.reference(*self.key, self.obj["metadata"]["uid"])


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod with the chain label."""

    namespace: str
    name: str
    uid: str
    resource_version: str = field(compare=False)
    """Left out when pods are compared: most versions of a pod differ in nothing that is read here."""
    created: str
    """As the API server writes it; text order is time order."""
    chain: str
    """The label, empty without one; `stage` likewise."""
    stage: str
    leaving: bool
    """Its deletion was requested."""
    over: bool
    """Its containers have all ended for good."""
    finished: bool
    """It is over, and without an error."""
    node: str
    """Name of its node; empty until it is scheduled."""
    gates: tuple[Object, ...]
    """`spec.schedulingGates`."""
    gated: bool
    """It waits for its source ports or number: our gate is one of `gates`."""
    ports: PortRange | None
    """The source ports that it holds. None behind the gate, whatever its annotation says, and when it is over."""
    number: int | None
    """The number that it has among the replicas of its stage; None as for `ports`."""
    networks: str | None
    """Multus' annotation."""
    condition: Object | None
    """`sfc.dev/wired` as it stands."""

    @property
    def waiting(self) -> bool:
        """Whether it will run once it has source ports or a number."""
        return self.gated and not self.over and not self.leaving

    @property
    def has_node(self) -> bool:
        """Whether it is scheduled."""
        return bool(self.node)

    @property
    def serving(self) -> bool:
        """Whether its node agent reports that new sessions pass through it."""
        return self.condition is not None and self.condition.get("status") == "True"

    @property
    def hop_open(self) -> bool:
        """Whether its node agent reports that they would, if a replica served on the other side of each of its hops."""
        return self.condition is not None and self.condition.get("reason") == names.HOP_OPEN

    @property
    def reference(self) -> dict[str, Any]:
        """As `involvedObject` of an Event."""
        return PODS.reference(self.namespace, self.name, self.uid)


def chain_object(obj: Object, before: ChainObject | None = None) -> ChainObject:
    """Reads a ServiceFunctionChain, a valid one or not. The spec is read only when it differs from `before`."""
    spec = lean.written(obj.get("spec"))
    version = hashlib.sha256(obj["metadata"].get("uid", "").encode() + spec).digest()
    rest = {key: value for key, value in obj.items() if key != "spec"}
    if before and before.version == version:
        return replace(before, obj=rest)
    whole = {**rest, "spec": lean.decoded(spec)}
    excesses = listing(found) if (found := bounds.excesses(whole)) else ""
    try:
        return ChainObject(rest, parse(whole), "", excesses, version)
    except InvalidChain as error:
        return ChainObject(rest, None, str(error), excesses, version)


def pod_of(obj: Object) -> Pod:
    """Reads a pod. Raises KeyError for an object that the API server has not stored (without a UID, say)."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    gates = tuple(spec.get("schedulingGates") or ())
    gated = any(gate.get("name") == names.SOURCE_PORTS for gate in gates)
    phase = (obj.get("status") or {}).get("phase")
    over = phase in objects.OVER
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        created=metadata.get("creationTimestamp", ""),
        chain=objects.label(obj, names.CHAIN_LABEL) or "",
        stage=objects.label(obj, names.STAGE_LABEL) or "",
        leaving=objects.leaving(obj),
        over=over,
        finished=phase == "Succeeded",
        node=spec.get("nodeName") or "",
        gates=gates,
        gated=gated,
        ports=None if gated or over else PortRange.parse(annotations.get(names.SOURCE_PORTS)),
        number=None if gated or over else number_of(annotations.get(names.REPLICA_NUMBER)),
        networks=annotations.get(names.NETWORKS_ANNOTATION),
        condition=objects.condition(obj, names.WIRED_CONDITION),
    )


def by_stage(pods: Iterable[Pod]) -> dict[str, list[Pod]]:
    """Pods of one chain by the name of their stage; those without a stage label are left out."""
    found: dict[str, list[Pod]] = {}
    for pod in pods:
        if pod.stage:
            found.setdefault(pod.stage, []).append(pod)
    return found

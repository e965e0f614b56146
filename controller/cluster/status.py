"""What the statuses of chains and cross-connections say, from the pods and from what the node agents report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kube import objects
from kube.objects import Object
from sfc import names
from sfc.chain import Chain, InterfaceRef, Side

READY = "Ready"
SOURCE_PORTS_ASSIGNED = "SourcePortsAssigned"
"""Of a chain with slices: whether every pod has its source ports. A condition of its own, as a chain serves without
the pods that wait."""

ALL_STAGES_SERVE = "AllStagesServe"
STAGE_EMPTY = "StageEmpty"
CROSS_CONNECTIONS_MISSING = "CrossConnectionsMissing"
INVALID = "Invalid"
NETWORK_CONFLICT = "NetworkConflict"
BOTH_SIDES_SERVE = "BothSidesServe"
SIDE_EMPTY = "SideEmpty"
SLICES_SUFFICE = "SlicesSuffice"
NO_FREE_SOURCE_PORTS = "NoFreeSourcePorts"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition's content."""

    ready: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class StageCount:
    name: str
    replicas: int
    """Pods that are not on their way out."""
    serving: int
    """Of these, those that receive new sessions."""
    draining: int
    """Pods on their way out."""

    @property
    def json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "replicas": self.replicas,
            "serving": self.serving,
            "draining": self.draining,
        }


def stage_counts(chain: Chain, pods: Sequence[Object]) -> tuple[StageCount, ...]:
    """`pods`: those of the chain."""
    of_stage = {s.name: [p for p in pods if objects.label(p, names.STAGE_LABEL) == s.name] for s in chain.stages}
    return tuple(_count(name, members) for name, members in of_stage.items())


def _count(stage: str, pods: Iterable[Object]) -> StageCount:
    running = [pod for pod in pods if (pod.get("status") or {}).get("phase") not in objects.OVER]
    staying = [pod for pod in running if not objects.leaving(pod)]
    return StageCount(
        name=stage,
        replicas=len(staying),
        serving=sum(map(_wired, staying)),
        draining=len(running) - len(staying),
    )


def _wired(pod: Object) -> bool:
    found = objects.condition(pod, names.WIRED_CONDITION)
    return found is not None and found.get("status") == "True"


def chain_verdict(chain: Chain, counts: Iterable[StageCount], missing: Sequence[str], conflict: str | None) -> Verdict:
    """`missing`: cross-connections that do not exist yet. `conflict`: what is wrong with the network, if so."""
    if conflict:
        return Verdict(False, NETWORK_CONFLICT, conflict)
    if missing:
        return Verdict(False, CROSS_CONNECTIONS_MISSING, f"not made yet: {', '.join(missing)}")
    empty = [count for count in counts if not count.serving]
    if empty:
        return Verdict(False, STAGE_EMPTY, "; ".join(_emptiness(chain, empty)))
    return Verdict(True, ALL_STAGES_SERVE, "every stage has a replica that serves")


def _emptiness(chain: Chain, empty: Sequence[StageCount]) -> Iterator[str]:
    labels = f"{names.CHAIN_LABEL}={chain.name},{names.STAGE_LABEL}"
    if without := [count.name for count in empty if not count.replicas]:
        yield f"no pod for {', '.join(without)}: label a workload {labels}={'|'.join(without)}"
    if idle := [count.name for count in empty if count.replicas]:
        yield f"no replica serves of {', '.join(idle)}: see kubectl describe pods -l '{labels} in ({','.join(idle)})'"


def ports_verdict(chain: Chain, shortage: str | None) -> Verdict | None:
    """None for a chain whose stages have no slices."""
    if shortage:
        return Verdict(False, NO_FREE_SOURCE_PORTS, shortage)
    if any(stage.slices for stage in chain.stages):
        return Verdict(True, SLICES_SUFFICE, "no pod waits for source ports")
    return None


def chain_status(
    obj: Object, verdict: Verdict, counts: Sequence[StageCount], now: datetime, ports: Verdict | None = None
) -> dict[str, Any]:
    return {
        "observedGeneration": obj["metadata"].get("generation", 0),
        "summary": ", ".join(f"{count.name} {count.serving}/{count.replicas}" for count in counts),
        "stages": [count.json for count in counts],
        "conditions": [
            _condition(obj, READY, verdict, now),
            *([_condition(obj, SOURCE_PORTS_ASSIGNED, ports, now)] if ports else ()),
        ],
    }


def connection_status(
    obj: Object, ends: Mapping[Side, InterfaceRef], pods: Iterable[Object], now: datetime
) -> dict[str, Any]:
    """`pods`: those of the chain. What a node agent said of a pod that is gone since counts no more."""
    present = {objects.name(pod) for pod in pods}
    nodes = (obj.get("status") or {}).get("nodes") or ()
    sides = {side: _side_status(nodes, side, ends[side], present) for side in Side}
    empty = [str(ends[side]) for side in Side if not sides[side]["serving"]]
    verdict = (
        Verdict(False, SIDE_EMPTY, f"no replica of {' and none of '.join(empty)} serves")
        if empty
        else Verdict(True, BOTH_SIDES_SERVE, "both sides have a replica that serves")
    )
    return {
        "observedGeneration": obj["metadata"].get("generation", 0),
        **{_field(side): sides[side] for side in Side},
        "conditions": [_condition(obj, READY, verdict, now)],
    }


def _side_status(nodes: Iterable[Object], side: Side, end: InterfaceRef, present: set[str]) -> dict[str, Any]:
    states = [
        replica["state"] for node in nodes for replica in node.get(_field(side)) or () if replica["pod"] in present
    ]
    return {"end": str(end), "serving": states.count("serving"), "draining": states.count("draining")}


def _field(side: Side) -> str:
    return side.name.lower()


def _condition(obj: Object, kind: str, verdict: Verdict, now: datetime) -> dict[str, Any]:
    status = "True" if verdict.ready else "False"
    before = objects.condition(obj, kind)
    since = before["lastTransitionTime"] if before and before["status"] == status else objects.timestamp(now)
    return {
        "type": kind,
        "status": status,
        "observedGeneration": obj["metadata"].get("generation", 0),
        "lastTransitionTime": since,
        "reason": verdict.reason,
        "message": verdict.message,
    }

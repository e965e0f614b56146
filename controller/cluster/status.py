"""The statuses of chains and cross-connections, from the pods and from the node agents' reports. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controller.cluster.snapshot import Pod, by_stage
from controller.cluster.workloads import Workload, strangers, why_empty
from kube.conditions import Condition
from kube.objects import Key, Object
from sfc import names
from sfc.chain import Chain, CrossConnection, InterfaceRef, Side

READY = "Ready"
SOURCE_PORTS_ASSIGNED = "SourcePortsAssigned"
"""Of a chain with slices: whether every pod has its source ports. It is a condition of its own because a chain serves
without the pods that wait."""

WITHIN_BOUNDS = "WithinBounds"
"""Only of a chain that is larger than admission allows today."""

ALL_STAGES_SERVE = "AllStagesServe"
STAGE_EMPTY = "StageEmpty"
CROSS_CONNECTIONS_MISSING = "CrossConnectionsMissing"
OBJECTS_REFUSED = "ObjectsRefused"
INVALID = "Invalid"
NETWORK_CONFLICT = "NetworkConflict"
DEGRADED = "Degraded"
"""Of a CrossConnection that a node agent can not give all that the chain asks for. Absent otherwise."""
NODE_TROUBLE = "NodeTrouble"
BOTH_SIDES_SERVE = "BothSidesServe"
SIDE_EMPTY = "SideEmpty"
SLICES_SUFFICE = "SlicesSuffice"
NO_FREE_SOURCE_PORTS = "NoFreeSourcePorts"
SOURCE_PORTS_REFUSED = "SourcePortsRefused"
TOO_LARGE = "TooLarge"


@dataclass(frozen=True, slots=True)
class StageCount:
    """The pods of one stage that are not over."""

    name: str
    replicas: int
    """Those that are not being deleted."""
    serving: int
    """Of the replicas, those through which new sessions pass."""
    draining: int
    """Those that are being deleted."""
    hop_open: int
    """Of the replicas, those that would serve if a hop of theirs were not open."""
    serving_on: frozenset[str]
    """Names of the nodes with a serving replica."""
    hindrance: str = ""
    """Why a stage is empty, as far as its workloads and pods show, and what to do; also without any that is."""

    @property
    def json(self) -> dict[str, Any]:
        """An element of `status.stages`."""
        return {
            "name": self.name,
            "replicas": self.replicas,
            "serving": self.serving,
            "draining": self.draining,
        }


def stage_counts(chain: Chain, pods: Iterable[Pod], workloads: Sequence[Workload] = ()) -> tuple[StageCount, ...]:
    """In the order of the chain's stages. `pods` and `workloads`: those of the chain."""
    members = by_stage(pods)
    return tuple(_count(stage.name, members.get(stage.name, ()), workloads) for stage in chain.stages)


def _count(stage: str, pods: Iterable[Pod], workloads: Sequence[Workload]) -> StageCount:
    running = [pod for pod in pods if not pod.over]
    staying = [pod for pod in running if not pod.leaving]
    hindrance = strangers(stage, staying) if staying else why_empty(stage, workloads)
    return StageCount(
        name=stage,
        replicas=len(staying),
        serving=sum(pod.serving for pod in staying),
        draining=len(running) - len(staying),
        hop_open=sum(pod.hop_open for pod in staying),
        serving_on=frozenset(pod.node for pod in staying if pod.serving),
        hindrance=hindrance,
    )


@dataclass(frozen=True, slots=True)
class Hop:
    """A cross-connection as the node agents report it."""

    connection: CrossConnection
    nodes: Mapping[Side, frozenset[str]]
    """Names of the nodes that have a target on this side."""
    tunnelled: frozenset[str] = frozenset()
    """Names of the nodes that reach each other."""

    @property
    def closed(self) -> bool:
        """Whether traffic passes, on a node or between nodes."""
        return bool(self.closed_on) or all(self.nodes[side] & self.tunnelled for side in Side)

    @property
    def closed_on(self) -> frozenset[str]:
        """The nodes that have targets on both sides."""
        return self.nodes[Side.UPSTREAM] & self.nodes[Side.DOWNSTREAM]

    def lacking(self, node: str) -> list[InterfaceRef]:
        """The ends that have no target on the node."""
        return [self.connection.end(side) for side in Side if node not in self.nodes[side]]


def hop(connection: CrossConnection, obj: Object, alive: Collection[str]) -> Hop:
    """`obj`: the CrossConnection. `alive`: as for `connection_status`."""
    nodes = reporting(obj)

    def serving(node: Object, side: Side) -> bool:
        return any(_serves(replica, alive) for replica in node.get(_field(side)) or ())

    targets = {side: frozenset(node["name"] for node in nodes if serving(node, side)) for side in Side}
    return Hop(connection, targets, frozenset(node["name"] for node in nodes if "address" in node))


def reporting(obj: Object) -> list[Object]:
    """The entries of the nodes of a CrossConnection, without those that have vanished: their neighbours do not reach
    them, and they report nobody themselves. One that lives, and has lost the way to another one, reports that one."""
    nodes = (obj.get("status") or {}).get("nodes") or ()
    told = Counter(silent for node in nodes for silent in node.get("unreachable") or ())
    enough = min(names.TELLERS, len(nodes) - 1)
    return [node for node in nodes if node.get("unreachable") or not told[node["name"]] >= enough > 0]


def _serves(replica: Object, alive: Collection[str]) -> bool:
    return bool(replica["state"] == "serving" and _is_of(replica, alive))


def invalid(problems: str) -> Condition:
    """Ready, of a chain that is not valid."""
    return Condition(READY, False, INVALID, problems)


def chain_ready(
    chain: Chain, counts: Sequence[StageCount], hops: Sequence[Hop], missing: Sequence[str], conflict: str | None
) -> Condition:
    """`missing`: names of cross-connections that do not exist yet. `conflict`: what is wrong with the network."""
    if conflict:
        return Condition(READY, False, NETWORK_CONFLICT, conflict)
    if missing:
        return Condition(READY, False, CROSS_CONNECTIONS_MISSING, f"not made yet: {', '.join(missing)}")
    empty = [count for count in counts if not count.serving and not count.hop_open]
    if empty:
        return Condition(READY, False, STAGE_EMPTY, "; ".join(_emptiness(chain, empty)))
    tunnelled = frozenset[str]().union(*(hop.tunnelled for hop in hops))
    if not all(count.serving_on & tunnelled for count in counts) and not frozenset.intersection(
        *(count.serving_on for count in counts)
    ):
        return Condition(READY, False, names.HOP_OPEN, _openness(hops))
    return Condition(READY, True, ALL_STAGES_SERVE, "every stage has a replica that serves")


def objects_refused(refusals: Mapping[str, str]) -> Condition | None:
    """Ready, of a chain that lacks objects because the API server refuses them. `refusals`: its words, by object."""
    if not refusals:
        return None
    message = f"the API server refuses {_first(refusals)}; change what refuses it (a quota or a policy, for example)"
    return Condition(READY, False, OBJECTS_REFUSED, f"{message}: it is tried again, at least every 30 s")


def ports_refused(refusals: Mapping[str, str]) -> Condition | None:
    """As `objects_refused`, for pods that get no source ports. `refusals`: words by stage."""
    if not refusals:
        return None
    message = f"the API server refuses the source ports of a pod of stage {_first(refusals)}; correct or delete the pod"
    return Condition(SOURCE_PORTS_ASSIGNED, False, SOURCE_PORTS_REFUSED, message)


def _first(refusals: Mapping[str, str]) -> str:
    """One stands for all: mostly they have the same cause."""
    (what, words), more = next(iter(refusals.items())), len(refusals) - 1
    return f"{what}{f' and {more} more' if more else ''}: {words}"


def _emptiness(chain: Chain, empty: Sequence[StageCount]) -> Iterator[str]:
    labels = f"{names.CHAIN_LABEL}={chain.name},{names.STAGE_LABEL}"
    yield from (count.hindrance for count in empty if count.hindrance)
    unknown = [count for count in empty if not count.hindrance]
    if without := [count.name for count in unknown if not count.replicas]:
        yield (
            f"no pod for {', '.join(without)}: label a workload {labels}={'|'.join(without)}, or scale up one that has "
            "these labels in its pod template"
        )
    if idle := [count.name for count in unknown if count.replicas]:
        yield f"no serving replica of {', '.join(idle)}: see kubectl describe pods -l '{labels} in ({','.join(idle)})'"


def _openness(hops: Sequence[Hop]) -> str:
    """Names the hops that are open, on the node where most of them are closed."""
    nodes = sorted(frozenset[str]().union(*(hop.nodes[side] for hop in hops for side in Side)))
    closed = Counter(node for hop in hops for node in hop.closed_on)
    best = max(nodes, key=lambda node: closed[node], default="")
    found = "".join(f"; on {best}, {_open_hop(hop, best)}" for hop in hops if nodes and best not in hop.closed_on)
    return (
        f"no node has a serving replica of every stage, and not all nodes with one have a tunnel to the others{found}: "
        "see the logs of the node agents for what their tunnels lack, or schedule the stages together"
    )


def _open_hop(hop: Hop, node: str) -> str:
    lacking = ", ".join(end.stage for end in hop.lacking(node))
    return f"the hop {hop.connection.upstream} → {hop.connection.downstream} is open (none of {lacking} there)"


def ports_assigned(chain: Chain, shortage: str | None) -> Condition | None:
    """None for a chain whose stages have neither slices nor numbers. `shortage`: which stages lack them, if any do."""
    if shortage:
        return Condition(SOURCE_PORTS_ASSIGNED, False, NO_FREE_SOURCE_PORTS, shortage)
    if any(stage.shares for stage in chain.stages):
        return Condition(SOURCE_PORTS_ASSIGNED, True, SLICES_SUFFICE, "no pod waits for source ports or a number")
    return None


def bounds_exceeded(excesses: str) -> Condition | None:
    """For a chain that an earlier version let in; None for one within the bounds. `excesses`: what is too much."""
    if not excesses:
        return None
    message = f"followed as it is, but its next change must keep it within the bounds: {excesses}"
    return Condition(WITHIN_BOUNDS, False, TOO_LARGE, message)


def chain_status(
    obj: Object, conditions: Iterable[Condition], counts: Sequence[StageCount], now: datetime
) -> dict[str, Any]:
    """The whole status of the chain that `obj` is."""
    return {
        "observedGeneration": obj["metadata"].get("generation", 0),
        "summary": ", ".join(f"{count.name} {count.serving}/{count.replicas}" for count in counts),
        "stages": [count.json for count in counts],
        "conditions": [condition.of(obj, now) for condition in conditions],
    }


def connection_status(obj: Object, its: Hop, alive: Collection[str], now: datetime) -> dict[str, Any]:
    """The status of the CrossConnection that `obj` is, without `nodes`, which belong to the node agents.

    `alive`: UIDs of the chain's pods. Reports about pods that do not exist any more are left out, also when another pod
    has the name. It has their names, too, because node agents of the version before report no UIDs.
    """
    nodes = reporting(obj)
    sides = {side: _side_status(nodes, side, its.connection.end(side), alive) for side in Side}
    return {
        "observedGeneration": obj["metadata"].get("generation", 0),
        "nodeCount": sum(
            any(_is_of(replica, alive) for side in Side for replica in node.get(_field(side)) or ()) for node in nodes
        ),
        **{_field(side): sides[side] for side in Side},
        "conditions": [each.of(obj, now) for each in (_connection_ready(its), *_degraded(nodes))],
    }


def _connection_ready(its: Hop) -> Condition:
    if empty := [str(its.connection.end(side)) for side in Side if not its.nodes[side]]:
        return Condition(READY, False, SIDE_EMPTY, f"no replica of {' and none of '.join(empty)} serves")
    if not its.closed:
        where = "; ".join(f"{its.connection.end(side)}: {', '.join(sorted(its.nodes[side]))}" for side in Side)
        message = (
            f"no node has serving replicas of both sides, and there is no tunnel between those that have ({where})"
        )
        return Condition(READY, False, names.HOP_OPEN, message)
    return Condition(READY, True, BOTH_SIDES_SERVE, "both sides have a replica that serves")


def left_behind(obj: Object, alive: Collection[str], nodes: Collection[Key]) -> Iterator[str]:
    """The nodes of the CrossConnection `obj` that do not exist any more, by name: nobody else withdraws their entries.

    An entry stays while one of its pods exists, so that it does not contradict the status of the chain, which counts
    pods.
    """
    for node in (obj.get("status") or {}).get("nodes") or ():
        pods = (replica for side in Side for replica in node.get(_field(side)) or ())
        if ("", node["name"]) not in nodes and not any(_is_of(replica, alive) for replica in pods):
            yield node["name"]


def _is_of(replica: Object, alive: Collection[str]) -> bool:
    return replica.get("uid", replica["pod"]) in alive


def _degraded(nodes: Iterable[Object]) -> Iterator[Condition]:
    if troubles := [f"node {node['name']}: {node['trouble']}" for node in nodes if node.get("trouble")]:
        yield Condition(DEGRADED, True, NODE_TROUBLE, "; ".join(troubles))


def _side_status(nodes: Iterable[Object], side: Side, end: InterfaceRef, alive: Collection[str]) -> dict[str, Any]:
    reports = [replica for node in nodes for replica in node.get(_field(side)) or () if _is_of(replica, alive)]
    states = [replica["state"] for replica in reports]
    return {"end": str(end), "serving": states.count("serving"), "draining": states.count("draining")}


def _field(side: Side) -> str:
    return side.name.lower()

"""The plan: the data plane as it should be, in one part a chain.

A part follows from its chain, the chain's replicas, their links and drains, and the numbers that its cross-connections
have for as long as they have links. It stays the same object until one of these changes. So two plans are compared by
identity, part by part, and an event costs as much as its chain, not as much as the node.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from controller.node.plane.cluster import ChainKey, Cluster
from controller.node.plane.drain import Drain
from controller.node.plane.far import FarSides
from controller.node.plane.model import DataPlane, HostLink, LinkEntry, LinksByPod, LinkState, SideKey
from controller.node.plane.numbers import Numbers
from controller.node.plane.replica import Replica
from sfc.chain import Chain

Members = list[tuple[str, int]]
"""(pod UID, slot or index of a far link) of each target of a side, sorted: what maglev.table makes the table of."""
Place = tuple[HostLink, LinkEntry]
"""A link, and its entry in the data path."""
NOT_PLANNED = "NotPlanned"
"""Reason of the trouble with a chain whose part could not be computed."""
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Given:
    """What a part follows from, apart from the replicas' links."""

    chain: Chain | None
    """None when the replicas name a chain that does not exist."""
    replicas: tuple[Replica, ...]
    drains: Mapping[str, Drain]
    """By pod UID."""
    far: FarSides = field(default_factory=dict)
    """The serving replicas of other nodes."""
    members: frozenset[int] = frozenset()
    """Numbers of the other nodes that have links in the chain."""
    mtu: int | None = None
    """Cluster.mtu, for a chain that is on other nodes, too."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a node can not do for a chain. All other chains go on."""

    reason: str
    """One word in CamelCase, for an event."""
    message: str
    """For a person: what is wrong, where, and the remedy."""
    connection: str | None = None
    """The CrossConnection that it is about; None for the whole chain."""


@dataclass(frozen=True, slots=True)
class Part:
    """One chain's share of the node's data plane."""

    plane: DataPlane
    serving: Mapping[SideKey, Members]
    """The members of each side that the lookup tables were made of."""
    connections: frozenset[int]
    """Numbers of the cross-connections that have a link on this node, whatever its state."""
    pods: int
    """How many pods of the chain have links."""
    given: Given | None = None
    """None for links whose pod is not known, for all links until the API server has been heard, and for a part that the
    kernel refused: it is planned again by the next pass."""
    troubles: tuple[Trouble, ...] = ()

    @property
    def unplanned(self) -> bool:
        """The chain could not be planned; the part is what was there before."""
        return any(trouble.reason == NOT_PLANNED for trouble in self.troubles)


@dataclass(frozen=True)
class Plan:
    """The data plane as it should be, in parts."""

    links: LinksByPod = field(default_factory=dict)
    """The links that the plan was made for."""
    parts: Mapping[ChainKey | None, Part] = field(default_factory=dict)
    """By chain. The part under None has the links whose pod is not known."""
    numbers: Numbers = field(default_factory=Numbers)
    """Of the cross-connections that have a link on this node."""

    @cached_property
    def plane(self) -> DataPlane:
        """All parts merged. Its cost grows with the node, so a pass for one pod's event does without it."""
        return merge(self.parts.values())

    @cached_property
    def connections(self) -> frozenset[int]:
        """Numbers of the cross-connections that have a link on this node, whatever its state."""
        return connections_of(self.parts.values())


@dataclass(frozen=True, slots=True)
class Refusal:
    """The kernel refused a change of a chain's part. The rest of the part's changes were left out."""

    message: str
    since: float
    """When it was first refused, on the monotonic clock."""


@dataclass(frozen=True, slots=True)
class State:
    """What a pass left behind. Times are seconds on the monotonic clock."""

    cluster: Cluster | None = None
    """None until the API server has been heard."""
    plan: Plan = field(default_factory=Plan)
    """The plan that was carried out: what is in the data path now."""
    drains: Mapping[str, Drain] = field(default_factory=dict)
    """By pod UID, ended ones included."""
    refused: Mapping[ChainKey | None, Refusal] = field(default_factory=dict)
    """By chain, for those whose part is not in the data path as it was planned."""
    woken_at: float = 0.0
    """When the first event came that the pass was for."""
    written_at: float = 0.0
    """When the last map was written."""

    @property
    def links(self) -> LinksByPod:
        """The node's links, as the pass saw them."""
        return self.plan.links

    @property
    def links_by_namespace(self) -> Mapping[str, int]:
        """How many links each namespace has; pods that the API server has not shown are in none."""
        found: Counter[str] = Counter()
        for replica in self.cluster.replicas.values() if self.cluster else ():
            found[replica.namespace] += len(self.plan.links.get(replica.uid, ()))
        return found

    @property
    def plane(self) -> DataPlane:
        """The whole data plane; see Plan.plane for its cost."""
        return self.plan.plane


def differing(before: Plan, after: Plan) -> tuple[list[Part], list[Part]]:
    """The parts that only `before` has, and those that only `after` has."""
    return _missing(before, after), _missing(after, before)


def merge(parts: Iterable[Part]) -> DataPlane:
    """The parts as one data plane. No two parts of a plan set the same entry to different values."""
    planes = [part.plane for part in parts]
    return DataPlane(
        filters=_union(plane.filters for plane in planes),
        links=_union(plane.links for plane in planes),
        targets=_union(plane.targets for plane in planes),
        neighbours=_union(plane.neighbours for plane in planes),
        numbers=_union(plane.numbers for plane in planes),
        patience=_union(plane.patience for plane in planes),
        session_keys=_union(plane.session_keys for plane in planes),
        far=_union(plane.far for plane in planes),
        members=_union(plane.members for plane in planes),
    )


def connections_of(parts: Iterable[Part]) -> frozenset[int]:
    """Numbers of the cross-connections of the parts."""
    return frozenset[int]().union(*(part.connections for part in parts))


def on_sides(placed: Iterable[Place], state: LinkState) -> dict[SideKey, Members]:
    """The links in this state, by side. Sorted, so that equal members are equal lists."""
    found: dict[SideKey, Members] = defaultdict(list)
    for link, entry in placed:
        if entry.state == state:
            found[entry.connection, entry.side].append((link.pod_uid, link.slot))
    return {side: sorted(members) for side, members in found.items()}


def _missing(plan: Plan, other: Plan) -> list[Part]:
    return [part for key, part in plan.parts.items() if other.parts.get(key) is not part]


def _union(mappings: Iterable[Mapping[K, V]]) -> dict[K, V]:
    found: dict[K, V] = {}
    for mapping in mappings:
        found.update(mapping)
    return found

"""The plan: the data plane as it should be, in one part a chain.

A part follows from its chain, the chain's replicas, and their links and drains, and from nothing else. It stays the
same object until one of these changes. So two plans are compared by identity, part by part, and an event costs as much
as its chain, not as much as the node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from controller.node.plane.cluster import ChainKey, Cluster
from controller.node.plane.drain import Drain
from controller.node.plane.model import DataPlane, LinksByPod, SideKey
from controller.node.plane.replica import Replica
from sfc.chain import Chain

Members = list[tuple[str, int]]
"""(pod UID, slot) of each target of a side, sorted: what maglev.table makes the side's lookup table of."""
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
    """None for links whose pod is not known, and for all links until the API server has been heard."""


@dataclass(frozen=True)
class Plan:
    """The data plane as it should be, in parts."""

    links: LinksByPod = field(default_factory=dict)
    """The links that the plan was made for."""
    parts: Mapping[ChainKey | None, Part] = field(default_factory=dict)
    """By chain. The part under None has the links whose pod is not known."""

    @cached_property
    def plane(self) -> DataPlane:
        """All parts merged. Its cost grows with the node, so a pass for one pod's event does without it."""
        return merge(self.parts.values())

    @property
    def connections(self) -> frozenset[int]:
        """Numbers of the cross-connections that have a link on this node, whatever its state."""
        return frozenset[int]().union(*(part.connections for part in self.parts.values()))


@dataclass(frozen=True, slots=True)
class State:
    """What a pass left behind. Times are seconds on the monotonic clock."""

    cluster: Cluster | None = None
    """None until the API server has been heard."""
    plan: Plan = field(default_factory=Plan)
    """The plan that was carried out: what is in the data path now."""
    drains: Mapping[str, Drain] = field(default_factory=dict)
    """By pod UID, ended ones included."""
    woken_at: float = 0.0
    """When the first event came that the pass was for."""
    written_at: float = 0.0
    """When the last map was written."""

    @property
    def links(self) -> LinksByPod:
        """The node's links, as the pass saw them."""
        return self.plan.links

    @property
    def plane(self) -> DataPlane:
        """The whole data plane; see Plan.plane for its cost."""
        return self.plan.plane


def differing(before: Plan, after: Plan) -> tuple[list[Part], list[Part]]:
    """The parts that only `before` has, and those that only `after` has."""
    return _missing(before, after), _missing(after, before)


def merge(parts: Iterable[Part]) -> DataPlane:
    """The parts as one data plane. No two parts of a plan set the same entry."""
    planes = [part.plane for part in parts]
    return DataPlane(
        filters=_union(plane.filters for plane in planes),
        links=_union(plane.links for plane in planes),
        targets=_union(plane.targets for plane in planes),
        neighbours=_union(plane.neighbours for plane in planes),
    )


def _missing(plan: Plan, other: Plan) -> list[Part]:
    return [part for key, part in plan.parts.items() if other.parts.get(key) is not part]


def _union(mappings: Iterable[Mapping[K, V]]) -> dict[K, V]:
    found: dict[K, V] = {}
    for mapping in mappings:
        found.update(mapping)
    return found

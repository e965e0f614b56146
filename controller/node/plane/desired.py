"""From what the cluster asks for to an ordered list of changes. No I/O, no clock.

desired(cluster, links, drains, actual, before) → Plan
changes(actual, plan) → make before break

A plan has a part for each chain, which follows from that chain, its replicas, their links and drains, and from nothing
else. So a part lasts until one of these changes, and an event costs what its chain costs, not what the node does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain as joined
from typing import TypeVar

from controller.node.plane import maglev
from controller.node.plane.drain import Drain
from controller.node.plane.model import DataPlane, HostLink, LinkEntry, LinkState
from controller.node.plane.replica import Replica
from sfc.chain import Chain, Side

ChainKey = tuple[str, str]
"""(namespace, name)"""
SideKey = tuple[int, Side]
"""Connection number, side."""
Replicas = list[tuple[str, int]]
"""(identity, slot)"""
Links = Mapping[str, tuple[HostLink, ...]]
"""The links of each pod, by its UID."""
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the API server says: chains by (namespace, name), this node's replicas by pod UID."""

    chains: Mapping[ChainKey, Chain]
    replicas: Mapping[str, Replica]
    members: Mapping[ChainKey, tuple[Replica, ...]] = field(init=False, compare=False, repr=False)
    """The replicas of each chain, which itself may be missing."""
    terminating: tuple[Replica, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Grouped once: the passes that follow ask for it."""
        members: dict[ChainKey, list[Replica]] = defaultdict(list)
        for replica in self.replicas.values():
            members[replica.namespace, replica.chain].append(replica)
        object.__setattr__(self, "members", {key: tuple(found) for key, found in members.items()})
        object.__setattr__(self, "terminating", tuple(r for r in self.replicas.values() if r.terminating))

    def chain_of(self, replica: Replica) -> Chain | None:
        return self.chains.get((replica.namespace, replica.chain))

    def connection_names(self) -> dict[int, str]:
        """namespace/name of each cross-connection, by its number."""
        return {
            connection.number: f"{chain.namespace}/{connection.name}"
            for chain in self.chains.values()
            for connection in chain.cross_connections
        }


@dataclass(frozen=True, slots=True)
class Given:
    """What a part follows from, beside the replicas' links."""

    chain: Chain | None
    replicas: tuple[Replica, ...]
    drains: Mapping[str, Drain]


@dataclass(frozen=True, slots=True)
class Part:
    """What one chain asks of the node's data path."""

    plane: DataPlane
    serving: Mapping[SideKey, Replicas]
    """What the tables were made of."""
    connections: frozenset[int]
    """Numbers of the cross-connections that have a link here, in whatever state."""
    pods: int
    """That have links."""
    given: Given | None = None


@dataclass(frozen=True)
class Plan:
    """The data plane as it should be, in parts."""

    links: Links = field(default_factory=dict)
    """That it was made for."""
    parts: Mapping[ChainKey | None, Part] = field(default_factory=dict)
    """By chain; under None what is kept of links whose pod is not known."""

    @cached_property
    def plane(self) -> DataPlane:
        """All parts together. It costs what the node has: a pass for the news of one pod does without."""
        return together(self.parts.values())

    @property
    def connections(self) -> frozenset[int]:
        return frozenset[int]().union(*(part.connections for part in self.parts.values()))


@dataclass(frozen=True, slots=True)
class State:
    """What a pass over the data path left behind. Times are seconds on the monotonic clock."""

    cluster: Cluster | None = None
    plan: Plan = field(default_factory=Plan)
    drains: Mapping[str, Drain] = field(default_factory=dict)
    woken_at: float = 0.0
    """When the news came that made the pass."""
    written_at: float = 0.0
    """When the data path was as the news asked for."""

    @property
    def links(self) -> Links:
        return self.plan.links

    @property
    def plane(self) -> DataPlane:
        return self.plan.plane


@dataclass(frozen=True, slots=True)
class AttachFilter:
    ifindex: int
    slot: int


@dataclass(frozen=True, slots=True)
class DetachFilter:
    ifindex: int


@dataclass(frozen=True, slots=True)
class SetLink:
    slot: int
    entry: LinkEntry


@dataclass(frozen=True, slots=True)
class ClearLink:
    slot: int


@dataclass(frozen=True, slots=True)
class SetTargets:
    connection: int
    side: Side
    table: bytes


@dataclass(frozen=True, slots=True)
class ClearTargets:
    connection: int
    side: Side


@dataclass(frozen=True, slots=True)
class SetNeighbour:
    connection: int
    side: Side
    address: str
    mac: str


@dataclass(frozen=True, slots=True)
class ClearNeighbour:
    connection: int
    side: Side
    address: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The sessions and counts of a cross-connection that has no link on this node any more."""

    connection: int


FORESEEN = 16
"""Replicas of a side up to which the tables after the next event are made ahead of it."""

MOST_FORESEEN = 512
"""Replicas of all sides up to which that is done: with more, one table would drive the other out of the cache before it
is asked for, and the next event is hardly the one foreseen."""

Change = (
    AttachFilter
    | DetachFilter
    | SetLink
    | ClearLink
    | SetTargets
    | ClearTargets
    | SetNeighbour
    | ClearNeighbour
    | Forget
)


def by_pod(links: Iterable[HostLink]) -> Links:
    found: dict[str, list[HostLink]] = defaultdict(list)
    for link in links:
        found[link.pod_uid].append(link)
    return {uid: tuple(of_pod) for uid, of_pod in found.items()}


def desired(
    cluster: Cluster | None,
    links: Links,
    drains: Mapping[str, Drain],
    actual: DataPlane | Plan,
    before: Plan,
) -> Plan:
    """The data plane as it should be. `actual`: what was observed, or the plan that was carried out last. `before` only
    saves work: a chain for which all is the same keeps its part, and a side with the same targets its table.

    `cluster` is None while the API server has not been heard since the agent's start: then every link keeps the place
    it has, and only what this node knows by itself counts (links that vanished, drains that the kubelet asked for).
    """
    if cluster is None:
        return Plan(links, {None: _remembered(links, drains, _plane(actual), [*before.parts.values()])})
    draining = _drains_by_chain(cluster, drains)
    parts: dict[ChainKey | None, Part] = {
        key: _part(key, Given(cluster.chains.get(key), replicas, draining.get(key, {})), links, before)
        for key, replicas in cluster.members.items()
    }
    if sum(part.pods for part in parts.values()) < len(links):
        parts[None] = _gone({uid: links[uid] for uid in links if uid not in cluster.replicas}, _plane(actual))
    return Plan(links, parts)


def differing(before: Plan, after: Plan) -> tuple[list[Part], list[Part]]:
    """The parts that the one plan has and the other has not."""
    return _missing(before, after), _missing(after, before)


def link_state(replica: Replica, drain: Drain | None, passes: bool) -> LinkState:
    """A replica's place in the data path, from its containers, its drain, and whether frames can pass through it."""
    if drain:
        return _drained_state(drain) if passes and not replica.stopped else LinkState.GONE
    if replica.ready:
        return LinkState.SERVING if passes else LinkState.GONE
    return LinkState.GONE if replica.stopped else LinkState.WIRED


def changes(actual: DataPlane | Plan, wanted: Plan) -> Iterator[Change]:
    """Additions before what refers to them, removals after. `actual`: what was observed, or the plan that was carried
    out last; of that, only the parts that differ are compared.

    No packet meets a target without a link, or a target that is marked gone already. A filter whose program is replaced
    may get other maps with it: it comes after all that it needs to find in them.
    """
    if isinstance(actual, Plan):
        old, new = map(together, differing(actual, wanted))
        had = actual.connections
    else:
        old, new = actual, wanted.plane
        had = frozenset(entry.connection for entry in actual.links.values())
    yield from _in_order(old, new)
    yield from (Forget(number) for number in had - wanted.connections)


def _in_order(actual: DataPlane, wanted: DataPlane) -> Iterator[Change]:
    links = dict(_differing(actual.links, wanted.links))
    filters = dict(_differing(actual.filters, wanted.filters))
    gone = {slot: entry for slot, entry in links.items() if entry.state == LinkState.GONE}
    yield from (SetLink(slot, entry) for slot, entry in links.items() if slot not in gone)
    yield from (AttachFilter(ifindex, slot) for ifindex, slot in filters.items() if ifindex not in actual.filters)
    yield from (SetNeighbour(*key, mac) for key, mac in _differing(actual.neighbours, wanted.neighbours))

    yield from (SetTargets(*key, table) for key, table in _differing(actual.targets, wanted.targets))
    yield from (ClearTargets(*key) for key in actual.targets.keys() - wanted.targets.keys())
    yield from (AttachFilter(ifindex, slot) for ifindex, slot in filters.items() if ifindex in actual.filters)

    yield from (SetLink(slot, entry) for slot, entry in gone.items())
    yield from (ClearLink(slot) for slot in actual.links.keys() - wanted.links.keys())
    yield from (DetachFilter(ifindex) for ifindex in actual.filters.keys() - wanted.filters.keys())
    yield from (ClearNeighbour(*key) for key in actual.neighbours.keys() - wanted.neighbours.keys())


def _differing(before: Mapping[K, V], after: Mapping[K, V]) -> Iterator[tuple[K, V]]:
    for key, value in after.items():
        was = before.get(key)
        if was is not value and was != value:
            yield key, value


def _missing(plan: Plan, other: Plan) -> list[Part]:
    return [part for key, part in plan.parts.items() if other.parts.get(key) is not part]


def together(parts: Iterable[Part]) -> DataPlane:
    planes = [part.plane for part in parts]
    return DataPlane(
        filters=_union(plane.filters for plane in planes),
        links=_union(plane.links for plane in planes),
        targets=_union(plane.targets for plane in planes),
        neighbours=_union(plane.neighbours for plane in planes),
    )


def _union(mappings: Iterable[Mapping[K, V]]) -> dict[K, V]:
    found: dict[K, V] = {}
    for mapping in mappings:
        found.update(mapping)
    return found


def _drains_by_chain(cluster: Cluster, drains: Mapping[str, Drain]) -> dict[ChainKey, dict[str, Drain]]:
    found: dict[ChainKey, dict[str, Drain]] = defaultdict(dict)
    for uid, drain in drains.items():
        if replica := cluster.replicas.get(uid):
            found[replica.namespace, replica.chain][uid] = drain
    return found


def _plane(actual: DataPlane | Plan) -> DataPlane:
    return actual.plane if isinstance(actual, Plan) else actual


def _part(key: ChainKey, given: Given, links: Links, before: Plan) -> Part:
    part = before.parts.get(key)
    if part and part.given == given and _same_links(given.replicas, before.links, links):
        return part
    return _planned(given, links, [each for each in (part, before.parts.get(None)) if each])


def _same_links(replicas: Iterable[Replica], before: Links, after: Links) -> bool:
    return after is before or all(after.get(replica.uid) == before.get(replica.uid) for replica in replicas)


def _planned(given: Given, links: Links, before: Sequence[Part]) -> Part:
    chain, pods = given.chain, sum(replica.uid in links for replica in given.replicas)
    if chain is None:
        return Part(DataPlane(), {}, frozenset(), pods, given)
    placed = [
        place
        for replica in given.replicas
        for place in _places(chain, replica, given.drains.get(replica.uid), links.get(replica.uid, ()))
    ]
    connections = frozenset(entry.connection for _, entry in placed)
    serving = _on_sides(placed, LinkState.SERVING)
    plane = DataPlane(
        filters=_filters(placed),
        links={link.slot: entry for link, entry in placed},
        targets=_targets(serving, before),
        neighbours=_neighbours(chain, connections),
    )
    return Part(plane, serving, connections, pods, given)


Place = tuple[HostLink, LinkEntry]


def _places(chain: Chain, replica: Replica, drain: Drain | None, links: Sequence[HostLink]) -> Iterator[Place]:
    newest = {link.interface: link for link in sorted(links, key=lambda link: link.ifindex)}
    state = link_state(replica, drain, _passes(replica, newest))
    for link in links:
        if attached := chain.attachments.get((replica.stage, link.interface)):
            connection, side = attached
            its_state = state if link is newest[link.interface] else LinkState.GONE
            yield link, LinkEntry(link.ifindex, connection.number, side, its_state, link.paired)


def _passes(replica: Replica, links: Mapping[str, HostLink]) -> bool:
    """No interface of the replica is missing or down: what comes in on one could not go out on another."""
    return replica.interfaces <= links.keys() and all(link.up for link in links.values())


def _drained_state(drain: Drain) -> LinkState:
    return LinkState.GONE if drain.ended else LinkState.DRAINING


def _remembered(links: Links, drains: Mapping[str, Drain], actual: DataPlane, before: Sequence[Part]) -> Part:
    def state(link: HostLink, entry: LinkEntry) -> LinkState:
        drain = drains.get(link.pod_uid)
        return LinkState.GONE if not link.up else _drained_state(drain) if drain else entry.state

    part = _kept(links, actual, state)
    targets = _targets(part.serving, before)
    return replace(part, plane=replace(part.plane, targets=targets, neighbours=actual.neighbours))


def _gone(links: Links, actual: DataPlane) -> Part:
    """The pod was deleted and its link is about to follow, or the link is so new that the pod was not heard of."""
    return _kept(links, actual, lambda *_: LinkState.GONE)


def _kept(of_pods: Links, actual: DataPlane, state: Callable[[HostLink, LinkEntry], LinkState]) -> Part:
    """A link keeps its filter: without an entry in the map it passes nothing, and it is not for us to decide that it is
    unwired."""
    links = list(joined.from_iterable(of_pods.values()))
    placed = [
        (link, replace(entry, state=state(link, entry)))
        for link in links
        if (entry := actual.links.get(link.slot)) and entry.ifindex == link.ifindex
    ]
    filters = {link.ifindex: link.slot for link in links if link.filter_slot is not None}
    return Part(
        DataPlane(filters=filters | _filters(placed), links={link.slot: entry for link, entry in placed}),
        _on_sides(placed, LinkState.SERVING),
        frozenset(entry.connection for _, entry in placed),
        len(of_pods),
    )


def _filters(placed: Iterable[Place]) -> dict[int, int]:
    """Every wired link has the filter. One that is gone gets none: the kernel takes the filters of a link away some
    time before the link, and the pass must not fail over that."""
    return {
        link.ifindex: link.slot
        for link, entry in placed
        if entry.state != LinkState.GONE or link.filter_slot is not None
    }


def _targets(serving: Mapping[SideKey, Replicas], before: Sequence[Part]) -> dict[SideKey, bytes]:
    return {side: _made(side, replicas, before) or maglev.table(replicas) for side, replicas in serving.items()}


def _made(side: SideKey, replicas: Replicas, before: Sequence[Part]) -> bytes | None:
    """The table that one of the parts had for these targets."""
    return next((part.plane.targets[side] for part in before if part.serving.get(side) == replicas), None)


def _on_sides(placed: Iterable[Place], state: LinkState) -> dict[SideKey, Replicas]:
    """Of the links in this state, by cross-connection and side; in order, so that the same are equal."""
    found: dict[SideKey, Replicas] = defaultdict(list)
    for link, entry in placed:
        if entry.state == state:
            found[entry.connection, entry.side].append((link.pod_uid, link.slot))
    return {side: sorted(replicas) for side, replicas in found.items()}


def _neighbours(chain: Chain, connections: frozenset[int]) -> dict[tuple[int, Side, str], str]:
    return {
        (connection.number, side, address): mac
        for connection in chain.cross_connections
        if connection.number in connections
        for side in Side
        for address, mac in chain.neighbours(connection.end(side)).items()
    }


def likely_targets(plan: Plan) -> Sequence[tuple[tuple[str, int], ...]]:
    """The replicas of each side after the next event, if that concerns one replica: one leaves, or one joins. None when
    that could be more than are worth making ahead."""
    serving = _union(part.serving for part in plan.parts.values())
    if sum(map(len, serving.values())) > MOST_FORESEEN:
        return ()
    entries = plan.plane.links
    placed = ((link, entries[link.slot]) for of_pod in plan.links.values() for link in of_pod if link.slot in entries)
    return tuple(_after_the_next_event(serving, _on_sides(placed, LinkState.WIRED)))


def _after_the_next_event(
    serving: Mapping[SideKey, Replicas], wired: Mapping[SideKey, Replicas]
) -> Iterator[tuple[tuple[str, int], ...]]:
    for key, replicas in serving.items():
        if len(replicas) <= FORESEEN:
            yield from ((*replicas, one) for one in wired.get(key, ()))
            yield from (tuple(other for other in replicas if other != one) for one in replicas if len(replicas) > 1)

"""From what the cluster asks for to an ordered list of changes. No I/O, no clock.

desired(cluster, links, drains, actual, before) → DataPlane
changes(actual, desired) → make before break
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from controller import maglev
from controller.drain import Drain
from controller.model import DataPlane, HostLink, LinkEntry, LinkState
from controller.replica import Replica
from sfc.chain import Chain, Side


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the API server says: chains by (namespace, name), this node's replicas by pod UID."""

    chains: Mapping[tuple[str, str], Chain]
    replicas: Mapping[str, Replica]

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
class State:
    """What a pass over the data path left behind. Times are seconds on the monotonic clock."""

    cluster: Cluster | None = None
    links: tuple[HostLink, ...] = ()
    plane: DataPlane = field(default_factory=DataPlane)
    drains: Mapping[str, Drain] = field(default_factory=dict)
    woken_at: float = 0.0
    """When the news came that made the pass."""
    written_at: float = 0.0
    """When the data path was as the news asked for."""


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

SideKey = tuple[int, Side]
"""Connection number, side."""
Replicas = list[tuple[str, int]]
"""(identity, slot)"""
K = TypeVar("K")
V = TypeVar("V")

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


def desired(
    cluster: Cluster | None,
    links: Sequence[HostLink],
    drains: Mapping[str, Drain],
    actual: DataPlane,
    before: State = State(),
) -> DataPlane:
    """The data plane as it should be. `before` only saves work: a side that has the same targets keeps its
    table, chains that are the same keep their neighbours.

    `cluster` is None while the API server has not been heard since the agent's start: then every link keeps the place
    it has, and only what this node knows by itself counts (links that vanished, drains that the kubelet asked for).
    """
    if cluster is None:
        entries = _remembered(links, drains, actual)
        neighbours = actual.neighbours
    else:
        entries = _entries(cluster, links, drains, actual)
        neighbours = _neighbours(cluster, entries, before)
    return DataPlane(
        filters=_filters(cluster, links, entries, actual),
        links=entries,
        targets=_targets(_serving(entries, links), before),
        neighbours=neighbours,
    )


def link_state(replica: Replica, drain: Drain | None, passes: bool) -> LinkState:
    """A replica's place in the data path, from its containers, its drain, and whether frames can pass through it."""
    if drain:
        return _drained_state(drain) if passes and not replica.stopped else LinkState.GONE
    if replica.ready:
        return LinkState.SERVING if passes else LinkState.GONE
    return LinkState.GONE if replica.stopped else LinkState.WIRED


def changes(actual: DataPlane, wanted: DataPlane) -> Iterator[Change]:
    """Additions before what refers to them, removals after.

    No packet meets a target without a link, or a target that is marked gone already. A filter whose program is replaced
    may get other maps with it: it comes after all that it needs to find in them.
    """
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
    yield from (Forget(number) for number in _connections(actual) - _connections(wanted))


def _connections(plane: DataPlane) -> set[int]:
    return {entry.connection for entry in plane.links.values()}


def _differing(before: Mapping[K, V], after: Mapping[K, V]) -> Iterator[tuple[K, V]]:
    return ((key, value) for key, value in after.items() if before.get(key) != value)


def _remembered(links: Sequence[HostLink], drains: Mapping[str, Drain], actual: DataPlane) -> dict[int, LinkEntry]:
    entries = {}
    for link in links:
        entry = actual.links.get(link.slot)
        if entry and entry.ifindex == link.ifindex:
            drain = drains.get(link.pod_uid)
            state = _drained_state(drain) if drain else entry.state
            entries[link.slot] = replace(entry, state=state if link.up else LinkState.GONE)
    return entries


def _entries(
    cluster: Cluster, links: Sequence[HostLink], drains: Mapping[str, Drain], actual: DataPlane
) -> dict[int, LinkEntry]:
    newest = {(link.pod_uid, link.interface): link for link in sorted(links, key=lambda link: link.ifindex)}
    current = {link.ifindex for link in newest.values()}
    states = _states(cluster, newest.values(), drains)
    entries = {}
    for link in links:
        replica = cluster.replicas.get(link.pod_uid)
        if replica:
            chain = cluster.chain_of(replica)
            attached = chain.attachments.get((replica.stage, link.interface)) if chain else None
            state = states[replica.uid] if link.ifindex in current else LinkState.GONE
            if attached:
                connection, side = attached
                entries[link.slot] = LinkEntry(link.ifindex, connection.number, side, state, link.paired)
        else:
            # The pod was deleted and its link is about to follow, or the link is so new that the pod was not heard of.
            before = actual.links.get(link.slot)
            if before and before.ifindex == link.ifindex:
                entries[link.slot] = replace(before, state=LinkState.GONE)
    return entries


def _states(cluster: Cluster, links: Iterable[HostLink], drains: Mapping[str, Drain]) -> dict[str, LinkState]:
    of_pod: dict[str, list[HostLink]] = defaultdict(list)
    for link in links:
        of_pod[link.pod_uid].append(link)
    return {
        uid: link_state(replica, drains.get(uid), _passes(replica, of_pod[uid]))
        for uid, replica in cluster.replicas.items()
    }


def _passes(replica: Replica, links: Sequence[HostLink]) -> bool:
    """No interface of the replica is missing or down: what comes in on one could not go out on another."""
    return replica.interfaces <= {link.interface for link in links} and all(link.up for link in links)


def _drained_state(drain: Drain) -> LinkState:
    return LinkState.GONE if drain.ended else LinkState.DRAINING


def _filters(
    cluster: Cluster | None, links: Sequence[HostLink], entries: Mapping[int, LinkEntry], actual: DataPlane
) -> dict[int, int]:
    """Every wired link has the filter. One whose pod is not known (yet) keeps what it has: without an entry in the map
    it passes nothing, and it is not for us to decide that it is unwired. One that is gone gets none: the kernel takes
    the filters of a link away some time before the link, and the pass must not fail over that."""
    filters = {
        entry.ifindex: slot
        for slot, entry in entries.items()
        if entry.state != LinkState.GONE or entry.ifindex in actual.filters
    }
    for link in links:
        known = cluster is not None and link.pod_uid in cluster.replicas
        if link.filter_slot is not None and not known:
            filters.setdefault(link.ifindex, link.slot)
    return filters


def _targets(serving: Mapping[SideKey, Replicas], before: State) -> dict[SideKey, bytes]:
    earlier = _serving(before.plane.links, before.links)
    tables = before.plane.targets
    return {
        key: tables[key] if key in tables and earlier.get(key) == replicas else maglev.table(replicas)
        for key, replicas in serving.items()
    }


def _serving(entries: Mapping[int, LinkEntry], links: Iterable[HostLink]) -> dict[SideKey, Replicas]:
    return _on_sides(entries, {link.slot: link.pod_uid for link in links}, LinkState.SERVING)


def likely_targets(state: State) -> Sequence[tuple[tuple[str, int], ...]]:
    """The replicas of each side after the next event, if that concerns one replica: one leaves, or one joins. None when
    that could be more than are worth making ahead."""
    identities = {link.slot: link.pod_uid for link in state.links}
    serving = _on_sides(state.plane.links, identities, LinkState.SERVING)
    if sum(map(len, serving.values())) > MOST_FORESEEN:
        return ()
    wired = _on_sides(state.plane.links, identities, LinkState.WIRED)
    return tuple(_after_the_next_event(serving, wired))


def _after_the_next_event(
    serving: Mapping[SideKey, Replicas], wired: Mapping[SideKey, Replicas]
) -> Iterator[tuple[tuple[str, int], ...]]:
    for key, replicas in serving.items():
        if len(replicas) <= FORESEEN:
            yield from ((*replicas, one) for one in wired.get(key, ()))
            yield from (tuple(other for other in replicas if other != one) for one in replicas if len(replicas) > 1)


def _on_sides(
    entries: Mapping[int, LinkEntry], identities: Mapping[int, str], state: LinkState
) -> dict[SideKey, Replicas]:
    """(identity, slot) of the links in this state, by cross-connection and side."""
    found: dict[SideKey, Replicas] = defaultdict(list)
    for slot, entry in entries.items():
        if entry.state == state and slot in identities:
            found[entry.connection, entry.side].append((identities[slot], slot))
    return found


def _neighbours(
    cluster: Cluster, entries: Mapping[int, LinkEntry], before: State
) -> Mapping[tuple[int, Side, str], str]:
    numbers = {entry.connection for entry in entries.values()}
    known = before.cluster is not None and before.cluster.chains is cluster.chains
    if known and numbers == _connections(before.plane):
        return before.plane.neighbours
    return {
        (connection.number, side, address): mac
        for chain in cluster.chains.values()
        for connection in chain.cross_connections
        if connection.number in numbers
        for side in Side
        for address, mac in chain.neighbours(connection.end(side)).items()
    }

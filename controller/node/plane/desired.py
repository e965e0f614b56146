"""From what the cluster asks for to the data plane that a node should have.

A replica's place in the data path follows from its containers, its drain, and whether frames can pass through it. The
side's targets are the replicas that serve, and a side's lookup table follows from its targets (maglev).

Links of pods that the API server has not shown are left alone: they keep their filter, and receive nothing. Until the
API server has been heard at all, every link keeps the place that it has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain as joined

from controller.node.plane import maglev
from controller.node.plane.cluster import ChainKey, Cluster
from controller.node.plane.drain import Drain
from controller.node.plane.model import DataPlane, HostLink, LinkEntry, LinksByPod, LinkState, SideKey
from controller.node.plane.plan import Given, Members, Part, Plan
from controller.node.plane.replica import Replica
from sfc.chain import Chain, Side

Place = tuple[HostLink, LinkEntry]
"""A link, and its entry in the data path."""

FORESEEN = 16
"""A side with more replicas gets no tables ahead of the next event."""

MOST_FORESEEN = 512
"""With more replicas on all sides together, no tables are made ahead: they would drive each other out of the cache, and
the next event is hardly one that was foreseen."""


def desired(
    cluster: Cluster | None,
    links: LinksByPod,
    drains: Mapping[str, Drain],
    actual: DataPlane | Plan,
    before: Plan,
) -> Plan:
    """The data plane as it should be.

    `cluster` is None until the API server has been heard for the first time since the agent's start. Until then every
    link keeps its place, apart from what the node knows by itself: a link that vanished or is down, and a drain that
    the kubelet asked for.

    `drains` are by pod UID. `actual` is the data plane that was observed, or the plan that was carried out last.
    `before` only saves work: a chain keeps its part if nothing has changed for it, and a side with the same targets
    keeps its lookup table.
    """
    if cluster is None:
        return Plan(links, {None: _remembered(links, drains, _plane(actual), [*before.parts.values()])})
    draining = _drains_by_chain(cluster, drains)
    parts: dict[ChainKey | None, Part] = {
        key: _part(key, Given(cluster.chains.get(key), replicas, draining.get(key, {})), links, before)
        for key, replicas in cluster.by_chain.items()
    }
    if sum(part.pods for part in parts.values()) < len(links):
        parts[None] = _gone({uid: links[uid] for uid in links if uid not in cluster.replicas}, _plane(actual))
    return Plan(links, parts)


def _link_state(replica: Replica, drain: Drain | None, forwarding: bool) -> LinkState:
    """A replica's place in the data path. `forwarding`: a frame that comes in on one of its interfaces can go out on
    another."""
    if drain:
        return _drained_state(drain) if forwarding and not replica.stopped else LinkState.GONE
    if replica.ready:
        return LinkState.SERVING if forwarding else LinkState.GONE
    return LinkState.GONE if replica.stopped else LinkState.WIRED


def _drains_by_chain(cluster: Cluster, drains: Mapping[str, Drain]) -> dict[ChainKey, dict[str, Drain]]:
    found: dict[ChainKey, dict[str, Drain]] = defaultdict(dict)
    for uid, drain in drains.items():
        if replica := cluster.replicas.get(uid):
            found[replica.namespace, replica.chain][uid] = drain
    return found


def _plane(actual: DataPlane | Plan) -> DataPlane:
    return actual.plane if isinstance(actual, Plan) else actual


def _part(key: ChainKey, given: Given, links: LinksByPod, before: Plan) -> Part:
    part = before.parts.get(key)
    if part and part.given == given and _same_links(given.replicas, before.links, links):
        return part
    return _planned(given, links, [each for each in (part, before.parts.get(None)) if each])


def _same_links(replicas: Iterable[Replica], before: LinksByPod, after: LinksByPod) -> bool:
    return after is before or all(after.get(replica.uid) == before.get(replica.uid) for replica in replicas)


def _planned(given: Given, links: LinksByPod, before: Sequence[Part]) -> Part:
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


def _places(chain: Chain, replica: Replica, drain: Drain | None, links: Sequence[HostLink]) -> Iterator[Place]:
    newest = {link.interface: link for link in sorted(links, key=lambda link: link.ifindex)}
    state = _link_state(replica, drain, _forwarding(replica, newest))
    for link in links:
        if attached := chain.attachments.get((replica.stage, link.interface)):
            connection, side = attached
            its_state = state if link is newest[link.interface] else LinkState.GONE
            yield link, LinkEntry(link.ifindex, connection.number, side, its_state, link.paired)


def _forwarding(replica: Replica, links: Mapping[str, HostLink]) -> bool:
    """No interface of the replica is missing or down. `links` are by interface name."""
    return replica.interfaces <= links.keys() and all(link.up for link in links.values())


def _drained_state(drain: Drain) -> LinkState:
    return LinkState.GONE if drain.ended else LinkState.DRAINING


def _remembered(links: LinksByPod, drains: Mapping[str, Drain], actual: DataPlane, before: Sequence[Part]) -> Part:
    """For all links, until the API server has been heard."""

    def state(link: HostLink, entry: LinkEntry) -> LinkState:
        drain = drains.get(link.pod_uid)
        return LinkState.GONE if not link.up else _drained_state(drain) if drain else entry.state

    part = _kept(links, actual, state)
    targets = _targets(part.serving, before)
    return replace(part, plane=replace(part.plane, targets=targets, neighbours=actual.neighbours))


def _gone(links: LinksByPod, actual: DataPlane) -> Part:
    """For links of unknown pods: the pod was deleted and its link will follow, or the pod is too new to be known."""
    return _kept(links, actual, lambda *_: LinkState.GONE)


def _kept(of_pods: LinksByPod, actual: DataPlane, state: Callable[[HostLink, LinkEntry], LinkState]) -> Part:
    """The links that have an entry keep it, with the state that `state` gives. Every link keeps its filter: without an
    entry in the map it carries nothing, and only a CNI DEL may decide that it is not wired any more."""
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
    """Every link in the data path has the filter, but a link that is gone gets no new one: the kernel removes a link's
    filters shortly before the link itself, and a pass must not fail because of that."""
    return {
        link.ifindex: link.slot
        for link, entry in placed
        if entry.state != LinkState.GONE or link.filter_slot is not None
    }


def _targets(serving: Mapping[SideKey, Members], before: Sequence[Part]) -> dict[SideKey, bytes]:
    return {side: _made(side, members, before) or maglev.table(members) for side, members in serving.items()}


def _made(side: SideKey, members: Members, before: Sequence[Part]) -> bytes | None:
    """The side's lookup table from one of the parts, if it was made of the same members."""
    return next((part.plane.targets[side] for part in before if part.serving.get(side) == members), None)


def _on_sides(placed: Iterable[Place], state: LinkState) -> dict[SideKey, Members]:
    """The links in this state, by side. Sorted, so that equal members are equal lists."""
    found: dict[SideKey, Members] = defaultdict(list)
    for link, entry in placed:
        if entry.state == state:
            found[entry.connection, entry.side].append((link.pod_uid, link.slot))
    return {side: sorted(members) for side, members in found.items()}


def _neighbours(chain: Chain, connections: frozenset[int]) -> dict[tuple[int, Side, str], str]:
    return {
        (connection.number, side, address): mac
        for connection in chain.cross_connections
        if connection.number in connections
        for side in Side
        for address, mac in chain.neighbours(connection.end(side)).items()
    }


def likely_targets(plan: Plan) -> Sequence[tuple[tuple[str, int], ...]]:
    """The members of each side after the next event, if one replica joins or leaves. Empty when there are so many that
    making their tables ahead would not pay."""
    serving = {side: members for part in plan.parts.values() for side, members in part.serving.items()}
    if sum(map(len, serving.values())) > MOST_FORESEEN:
        return ()
    entries = plan.plane.links
    placed = ((link, entries[link.slot]) for of_pod in plan.links.values() for link in of_pod if link.slot in entries)
    return tuple(_after_the_next_event(serving, _on_sides(placed, LinkState.WIRED)))


def _after_the_next_event(
    serving: Mapping[SideKey, Members], wired: Mapping[SideKey, Members]
) -> Iterator[tuple[tuple[str, int], ...]]:
    for key, members in serving.items():
        if len(members) <= FORESEEN:
            yield from ((*members, one) for one in wired.get(key, ()))
            yield from (tuple(other for other in members if other != one) for one in members if len(members) > 1)

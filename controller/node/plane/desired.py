"""From what the cluster asks for to the data plane that a node should have.

A replica's place in the data path is its standing (standing), which follows from what its links were made for
(Cluster.as_made), its containers, its drain, and whether frames can pass through it. A replica whose labels say
something else than its links keeps its sessions, and gets no new ones. A replica that is not ready, and not being
deleted, may hang: it loses its sessions at once if another one can take them. The side's targets are the replicas that
serve, and a side's lookup table follows from its targets (maglev).

Links of pods that the API server has not shown are left alone: they keep their filter, and receive nothing. Until the
API server has been heard at all, every link keeps the place that it has.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import astuple, replace
from itertools import chain as joined
from types import MappingProxyType

from controller.node.plane import holders, maglev
from controller.node.plane.cluster import ChainKey, Cluster
from controller.node.plane.drain import Drain
from controller.node.plane.far import FarSides
from controller.node.plane.model import DataPlane, FarLink, HostLink, LinkEntry, LinksByPod, LinkState, SideKey
from controller.node.plane.neighbours import answered
from controller.node.plane.numbers import NUMBERS, Allocation, numbered
from controller.node.plane.plan import (
    NOT_PLANNED,
    Given,
    Members,
    Part,
    Place,
    Plan,
    Trouble,
    connections_of,
    merge,
    on_sides,
)
from controller.node.plane.replica import Replica
from controller.node.plane.standing import newest_links, standing
from sfc.chain import Chain, CrossConnection, Patience, SessionKey, Side
from sfc.source_ports import PortRange


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
    `before` knows the numbers, and saves work: a chain keeps its part if nothing has changed for it, and a side with
    the same targets keeps its lookup table.
    """
    plane = actual if isinstance(actual, DataPlane) else DataPlane()
    allocation = Allocation(before.numbers, plane.numbers, [entry.connection for entry in plane.links.values()])
    if cluster is None:
        part = _remembered(links, drains, _plane(actual), [*before.parts.values()])
        return Plan(links, {None: part}, allocation.numbers(part.connections))

    def retry(part: Part) -> bool:
        """What planning failed for may have passed. A pass for one event does not try: it must not be slow."""
        return part.unplanned and isinstance(actual, DataPlane)

    draining = _drains_by_chain(cluster, drains)
    parts: dict[ChainKey | None, Part] = {}
    for key in _in_turn(cluster, allocation):
        members = cluster.members.get(key, frozenset())
        across = cluster.far.get(key, {}), members, cluster.mtu if members else None
        given = Given(cluster.chains.get(key), cluster.by_chain[key], draining.get(key, {}), *across)
        former = before.parts.get(key)
        if former and former.given == given and _same_links(given.replicas, before.links, links) and not retry(former):
            parts[key] = former
        else:
            known = [each for each in (former, before.parts.get(None)) if each]
            parts[key] = _part(given, links, known, actual, allocation)
    if sum(part.pods for part in parts.values()) < len(links):
        unknown = {uid: links[uid] for uid in links if uid not in cluster.replicas}
        parts[None] = _gone(unknown, _plane(actual), connections_of(parts.values()))
    return Plan(links, parts, allocation.numbers(connections_of(parts.values())))


def _in_turn(cluster: Cluster, allocation: Allocation) -> Iterable[ChainKey]:
    """The chains with replicas; the older ones first if a number of an earlier version may have two claimants."""

    def age(key: ChainKey) -> tuple[bool, str, str]:
        chain = cluster.chains.get(key)
        return (False, chain.created, chain.uid) if chain else (True, "", "")

    return sorted(cluster.by_chain, key=age) if allocation.adopts else cluster.by_chain


def _drains_by_chain(cluster: Cluster, drains: Mapping[str, Drain]) -> dict[ChainKey, dict[str, Drain]]:
    found: dict[ChainKey, dict[str, Drain]] = defaultdict(dict)
    for uid, drain in drains.items():
        if replica := cluster.replicas.get(uid):
            found[replica.namespace, replica.chain][uid] = drain
    return found


def _plane(actual: DataPlane | Plan) -> DataPlane:
    return actual.plane if isinstance(actual, Plan) else actual


def _part(
    given: Given, links: LinksByPod, before: Sequence[Part], actual: DataPlane | Plan, allocation: Allocation
) -> Part:
    """What goes wrong in planning a chain stays in it: its links keep their places, and all other chains go on."""
    try:
        return _planned(given, links, before, allocation)
    except Exception as error:  # noqa: BLE001  # whatever it is: no other chain may stand still for it
        return _unplanned(given, links, merge(before) if isinstance(actual, Plan) else actual, error)


def _same_links(replicas: Iterable[Replica], before: LinksByPod, after: LinksByPod) -> bool:
    return after is before or all(after.get(replica.uid) == before.get(replica.uid) for replica in replicas)


def _planned(given: Given, links: LinksByPod, before: Sequence[Part], allocation: Allocation) -> Part:
    chain, pods = given.chain, sum(replica.uid in links for replica in given.replicas)
    if chain is None:
        return Part(DataPlane(), {}, frozenset(), pods, given)
    numbers = _Numbering(chain, allocation)
    placed = [
        place
        for replica in given.replicas
        for place in _places(numbers, replica, given.drains.get(replica.uid), links.get(replica.uid, ()))
    ]
    far = _far_links(numbers, given.far)
    serving = _joined(on_sides(placed, LinkState.SERVING), far, local_first=chain.prefers_same_node)
    placed = [_keeping(place, serving) for place in placed]
    answers = answered(numbers.connections, Counter(entry.connection for _, entry in placed), chain)
    plane = DataPlane(
        filters=_filters(placed),
        links={link.slot: entry for link, entry in placed},
        targets=_targets(serving, before, _held(numbers, given, placed, far)),
        neighbours=answers.neighbours,
        numbers={number: numbered(chain, connection) for number, connection in numbers.connections.items()},
        patience=_patience(chain, numbers.connections),
        session_keys=_session_keys(numbers.connections),
        far={index: link for _, index, link in far},
        members=dict.fromkeys(numbers.connections, given.members) if given.members else {},
    )
    troubles = (*numbers.troubles(), *answers.troubles, *_too_large(chain, given.mtu))
    return Part(plane, serving, frozenset(plane.numbers), pods, given, troubles)


def _too_large(chain: Chain, mtu: int | None) -> Iterator[Trouble]:
    """Of interfaces whose packets do not fit through the tunnel."""
    if mtu and (beyond := [f"{ref} ({each.mtu})" for ref, each in chain.interfaces() if (each.mtu or 0) > mtu]):
        yield Trouble(
            "MTUTooLarge",
            f"the chain has replicas on other nodes, and packets of at most {mtu} bytes fit through the tunnel between "
            f"the nodes, but these interfaces have a larger mtu: {', '.join(beyond)}; larger packets between the nodes "
            "are lost: lower it in spec.stages, or leave it out, and restart the stages",
        )


def _keeping(place: Place, serving: Mapping[SideKey, Members]) -> Place:
    """Where nobody serves the side, a link that would lose its sessions keeps them: no other one could take them."""
    link, entry = place
    alone = entry.state == LinkState.WIRED and (entry.connection, entry.side) not in serving
    return (link, replace(entry, state=LinkState.DRAINING)) if alone else place


def _far_links(numbers: _Numbering, far: FarSides) -> list[tuple[str, int, FarLink]]:
    """(pod UID, index, link) of each replica of another node, in the cross-connections that have links here."""
    known = {connection.name: number for number, connection in numbers.connections.items()}
    return [
        (replica.uid, replica.index, FarLink(replica.identity, known[name], side))
        for (name, side), replicas in far.items()
        if name in known
        for replica in replicas
    ]


def _joined(
    serving: dict[SideKey, Members], far: Iterable[tuple[str, int, FarLink]], *, local_first: bool
) -> dict[SideKey, Members]:
    """The members of each side, on this node and on others; with `local_first`, the latter only where this node has
    none."""
    found: dict[SideKey, Members] = defaultdict(list, {side: [*members] for side, members in serving.items()})
    for uid, index, link in far:
        side = link.connection, link.side
        if not (local_first and side in serving):
            found[side].append((uid, index))
    return {side: sorted(members) for side, members in found.items()}


def _patience(chain: Chain, numbers: Iterable[int]) -> dict[int, Patience]:
    """By number. Those of an earlier version have no place in the map."""
    return {number: chain.patience for number in numbers if number < NUMBERS} if any(astuple(chain.patience)) else {}


def _session_keys(connections: Mapping[int, CrossConnection]) -> dict[int, SessionKey]:
    """By number. A cross-connection with a number of an earlier version goes by flow."""
    return {
        number: connection.session_key
        for number, connection in connections.items()
        if number < NUMBERS and connection.session_key != SessionKey.FLOW
    }


class _Numbering:
    """The numbers of a chain's cross-connections, each asked for once."""

    def __init__(self, chain: Chain, allocation: Allocation) -> None:
        self.chain = chain
        self.connections: dict[int, CrossConnection] = {}
        self._allocation = allocation
        self._numbers: dict[str, int] = {}

    def number(self, connection: CrossConnection) -> int:
        number = self._numbers.get(connection.name)
        if number is None:
            number = self._numbers[connection.name] = self._allocation.number(self.chain, connection)
            self.connections[number] = connection
        return number

    def troubles(self) -> Iterator[Trouble]:
        for connection in self.connections.values():
            if owner := self._allocation.owner_of_former(self.chain, connection):
                yield Trouble(
                    "NumberTaken",
                    f"CrossConnection {connection.name} had the same number in the data path as CrossConnection "
                    f"{owner.path} of an older chain, which keeps it: this one has a new number, and its sessions "
                    "begin anew",
                    connection.name,
                )


def _unplanned(given: Given, links: LinksByPod, actual: DataPlane, error: Exception) -> Part:
    """The part of a chain that could not be planned: what is there stays, apart from what the node knows by itself."""
    own = {replica.uid: links[replica.uid] for replica in given.replicas if replica.uid in links}
    part = _kept(own, actual, _by_itself(given.drains))
    plane = replace(
        part.plane,
        targets={side: table for side, table in actual.targets.items() if side[0] in part.connections},
        neighbours={asked: mac for asked, mac in actual.neighbours.items() if asked[0] in part.connections},
    )
    trouble = Trouble(
        NOT_PLANNED,
        f"its links keep their places and no replica joins, because what they should be can not be computed: "
        f"{type(error).__name__}: {error}; change the chain, or report this as a bug",
    )
    return replace(part, plane=plane, given=given, troubles=(trouble,))


def _places(numbers: _Numbering, replica: Replica, drain: Drain | None, links: Sequence[HostLink]) -> Iterator[Place]:
    newest, state = newest_links(links), standing(replica, drain, links, numbers.chain).state
    for link in links:
        if attached := numbers.chain.attachments.get((replica.stage, link.interface)):
            connection, side = attached
            its_state = state if link is newest[link.interface] else LinkState.GONE
            interface = numbers.chain.interface(connection.end(side))
            straight = link.paired and not (interface and interface.raw_frames)
            yield link, LinkEntry(link.ifindex, numbers.number(connection), side, its_state, straight)


def _drained_state(drain: Drain) -> LinkState:
    return LinkState.GONE if drain.ended else LinkState.DRAINING


def _remembered(links: LinksByPod, drains: Mapping[str, Drain], actual: DataPlane, before: Sequence[Part]) -> Part:
    """For all links, until the API server has been heard."""
    part = _kept(links, actual, _by_itself(drains))
    across = {(link.connection, link.side) for link in part.plane.far.values()}
    held = {side: tail for side, table in actual.targets.items() if (tail := table[2 * maglev.LENGTH :])}
    targets = _targets({side: members for side, members in part.serving.items() if side not in across}, before, held)
    for side in across & actual.targets.keys():
        targets[side] = _narrowed(actual.targets[side], part, side)
    return replace(part, plane=replace(part.plane, targets=targets, neighbours=actual.neighbours))


def _narrowed(table: bytes, part: Part, side: SideKey) -> bytes:
    """The table of a side whose members on other nodes are not known by name yet: without links that have left."""
    far = (index for index, link in part.plane.far.items() if (link.connection, link.side) == side)
    return maglev.narrowed(table, {*far, *(slot for _, slot in part.serving.get(side, ()))})


def _by_itself(drains: Mapping[str, Drain]) -> Callable[[HostLink, LinkEntry], LinkState]:
    """The state that a link has by what the node knows without the API server: whether it is up, and its drain."""

    def state(link: HostLink, entry: LinkEntry) -> LinkState:
        drain = drains.get(link.pod_uid)
        return LinkState.GONE if not link.up else _drained_state(drain) if drain else entry.state

    return state


def _gone(links: LinksByPod, actual: DataPlane, of_chains: Set[int]) -> Part:
    """For links of unknown pods: the pod was deleted and its link will follow, or the pod is too new to be known.

    What belongs to the numbers `of_chains` is in the parts of their chains. No two parts have the same entry: when one
    of them loses it, it is cleared.
    """
    part = _kept(links, actual, lambda *_: LinkState.GONE)
    plane = replace(
        part.plane,
        patience={number: each for number, each in part.plane.patience.items() if number not in of_chains},
        session_keys={number: each for number, each in part.plane.session_keys.items() if number not in of_chains},
        far={index: link for index, link in part.plane.far.items() if link.connection not in of_chains},
        members={number: each for number, each in part.plane.members.items() if number not in of_chains},
    )
    return replace(part, plane=plane)


def _kept(of_pods: LinksByPod, actual: DataPlane, state: Callable[[HostLink, LinkEntry], LinkState]) -> Part:
    """The links that have an entry keep it, with the state that `state` gives. Every link keeps its filter: without an
    entry in the map it carries nothing, and only a CNI DEL may decide that it is not wired any more."""
    links = list(joined.from_iterable(of_pods.values()))
    placed = [
        (link, replace(entry, state=state(link, entry)))
        for link in links
        if (entry := actual.links.get(link.slot)) and entry.ifindex == link.ifindex
    ]
    connections = frozenset(entry.connection for _, entry in placed)
    plane = DataPlane(
        filters={link.ifindex: link.slot for link in links if link.filter_slot is not None} | _filters(placed),
        links={link.slot: entry for link, entry in placed},
        numbers={number: actual.numbers[number] for number in connections if number in actual.numbers},
        patience={number: actual.patience[number] for number in connections if number in actual.patience},
        session_keys={number: each for number, each in actual.session_keys.items() if number in connections},
        far={index: link for index, link in actual.far.items() if link.connection in connections},
        members={number: actual.members[number] for number in connections if number in actual.members},
    )
    return Part(plane, on_sides(placed, LinkState.SERVING), connections, len(of_pods))


def _filters(placed: Iterable[Place]) -> dict[int, int]:
    """Every link in the data path has the filter, but a link that is gone gets no new one: the kernel removes a link's
    filters shortly before the link itself, and a pass must not fail because of that."""
    return {
        link.ifindex: link.slot
        for link, entry in placed
        if entry.state != LinkState.GONE or link.filter_slot is not None
    }


def _targets(
    serving: Mapping[SideKey, Members], before: Sequence[Part], held: Mapping[SideKey, bytes] = MappingProxyType({})
) -> dict[SideKey, bytes]:
    tables = {side: _made(side, members, before) or maglev.table(members) for side, members in serving.items()}
    return {side: _alone(table) + held[side] if side in held else _alone(table) for side, table in tables.items()}


def _alone(table: bytes) -> bytes:
    """The table without what follows it; the same object if nothing does."""
    return table if len(table) == 2 * maglev.LENGTH else table[: 2 * maglev.LENGTH]


def _held(
    numbers: _Numbering, given: Given, placed: Iterable[Place], far: Iterable[tuple[str, int, FarLink]]
) -> dict[SideKey, bytes]:
    """Who holds which slice of source ports, of the sides that have slices."""
    ends = ((number, side, each.end(side)) for number, each in numbers.connections.items() for side in Side)
    slices = {
        (number, side): interface.slices
        for number, side, end in ends
        if (interface := numbers.chain.interface(end)) and interface.slices
    }
    if not slices:
        return {}
    ports = {each.uid: each.ports for each in given.replicas}
    ports |= {each.uid: each.ports for of_side in given.far.values() for each in of_side}
    found: dict[SideKey, dict[int, PortRange | None]] = {side: {} for side in slices}
    for uid, index, far_link in far:
        if (side := (far_link.connection, far_link.side)) in found:
            found[side][index] = ports[uid]
    for link, entry in placed:
        if (side := (entry.connection, entry.side)) in found and entry.state in (LinkState.SERVING, LinkState.DRAINING):
            found[side][link.slot] = ports[link.pod_uid]
    return {side: holders.packed(slices[side], held) for side, held in found.items()}


def _made(side: SideKey, members: Members, before: Sequence[Part]) -> bytes | None:
    """The side's lookup table from one of the parts, if it was made of the same members."""
    return next((part.plane.targets[side] for part in before if part.serving.get(side) == members), None)

"""What other nodes publish of their replicas, with the numbers by which this node's data path names them.

Numbers and indexes are this node's own. They are given in turn, so that one rests as long as possible before it stands
for something else: a session may still name what has left. For the same reason a node keeps its number for a while
after its last link has left.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from controller.node.plane.cluster import ChainKey, Cluster
from controller.node.plane.far import FAR_LINKS, PEERS, FarReplica, FarSides, identity
from controller.node.plane.model import SLOTS, DataPlane
from kube.objects import Key, Object, name, namespace
from sfc.chain import Chain, Side
from sfc.source_ports import PortRange

log = logging.getLogger(__name__)

REST_SECONDS = 60.0
"""How long a node keeps its number when it has no link any more in the chains of this node."""

Of = tuple[int, ChainKey, str, Side]
"""What an index stands for: identity of the link, chain, name of the CrossConnection, side."""


@dataclass(frozen=True, slots=True)
class Published:
    """A link on another node, as that node says."""

    chain: ChainKey
    connection: str
    """Name of the CrossConnection, in the chain's namespace."""
    side: Side
    address: str
    """Of the node."""
    uid: str
    """Of the pod."""
    slot: int
    generation: int
    """plane/far.py"""
    serves: bool = True
    """It receives new sessions."""
    mtu: int | None = None
    """Of interfaces whose frames fit through the node's end of the tunnel."""
    ports: PortRange | None = None
    """The source ports that the replica holds."""


def published(connection: Object, here: str) -> Iterator[Published]:
    """The links in the status of a CrossConnection, but those of the node `here`. A node without an address has no
    tunnel: its links cannot be reached."""
    chain = namespace(connection), connection["spec"]["chain"]
    for node in (connection.get("status") or {}).get("nodes") or ():
        if node["name"] == here or "address" not in node:
            continue
        for side in Side:
            for link in node.get(side.name.lower()) or ():
                if "slot" in link:
                    of, serves = (link["uid"], link["slot"], link["generation"]), link["state"] == "serving"
                    ports = PortRange.parse(link.get("sourcePorts"))
                    yield Published(chain, name(connection), side, node["address"], *of, serves, node.get("mtu"), ports)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was made of the links of one CrossConnection. It stays until they change: in a large cluster a node has ten
    thousand of them, and an event changes one."""

    links: Sequence[Published]
    nodes: frozenset[str]
    """Addresses."""
    mtu: int | None
    """The smallest of the nodes."""
    indexes: Mapping[Of, int]
    sides: FarSides
    complete: bool
    """Nothing was left out for lack of room."""


class PeerNumbers(Protocol):
    """The numbers of other nodes in the program's maps."""

    def set(self, number: int, address: str) -> None:
        """Gives a node a number."""

    def clear(self, number: int) -> None:
        """The number stands for no node any more."""

    def known(self) -> Mapping[str, int]:
        """The number of each node, by address."""


class FarLinks:
    """Gives numbers to nodes, and indexes to their links. While an agent leads, it alone gives them."""

    def __init__(self, peers: PeerNumbers, there: DataPlane, clock: Callable[[], float] = time.monotonic) -> None:
        """`there`: what the maps have already. Its far links keep their places. `clock`: seconds."""
        self._peers = peers
        self._clock = clock
        self._numbers = dict(peers.known())
        self._last_number = max(self._numbers.values(), default=0)
        self._without: dict[str, float] = {}
        """Since when each node that has a number has had no link in the chains of this node, by address."""
        self._of: dict[Of, int] = {}
        self._reserved = {link.identity: index for index, link in there.far.items()}
        """Indexes that an earlier agent gave, by identity, until the first look."""
        self._last_index = max(there.far, default=SLOTS - 1)
        self._seen: dict[Hashable, _Seen] = {}
        """By CrossConnection."""
        self._members: dict[str, set[int]] = defaultdict(set)
        """The nodes that have had links in each chain, by its UID. They leave with their number: a session may still
        name a link that has left, and the frame that comes back has to be let in."""
        for number, of_connection in there.members.items():
            if number in there.numbers:
                self._members[there.numbers[number].chain_uid] |= of_connection
        self.mtu: int | None = None
        """The smallest that other nodes have published in the chains of this node (Published.mtu)."""
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._latest: tuple[Cluster, Mapping[Key, Sequence[Published]], int | None, Cluster] | None = None

    def joined(
        self, cluster: Cluster | None, links: Mapping[Key, Sequence[Published]], mtu: int | None = None
    ) -> Cluster | None:
        """The cluster with the far links of its chains, from those of each CrossConnection. `mtu`: of interfaces
        whose frames fit through this node's end of the tunnel.

        The same value again for the same ones. Any thread may call it.
        """
        if cluster is None:
            return None
        with self._lock:
            latest = self._latest
            if not latest or latest[0] is not cluster or latest[1] is not links or latest[2] != mtu:
                own = {key: found for key, found in links.items() if found and found[0].chain in cluster.chains}
                far = self._far(own)
                self.mtu = min((seen.mtu for seen in self._seen.values() if seen.mtu), default=None)
                smallest = min((each for each in (mtu, self.mtu) if each), default=None)
                members = self._joined_by(cluster.chains)
                latest = cluster, links, mtu, replace(cluster, far=far, members=members, mtu=smallest)
                self._latest = latest
            return latest[3]

    def _joined_by(self, chains: Mapping[ChainKey, Chain]) -> dict[ChainKey, frozenset[int]]:
        """The numbers of the nodes in each chain."""
        for seen in self._seen.values():
            numbers = {self._numbers[address] for address in seen.nodes if address in self._numbers}
            self._members[chains[seen.links[0].chain].uid] |= numbers
        known = {*self._numbers.values()}
        here = {key: self._members[chain.uid] & known for key, chain in chains.items() if chain.uid in self._members}
        self._members = defaultdict(set, {chains[key].uid: members for key, members in here.items()})
        return {key: frozenset(members) for key, members in here.items()}

    def seen(self, links: Iterable[Published]) -> dict[ChainKey, FarSides]:
        """The far links of each chain. Those that the maps have no room for are left out, and the log says so."""
        found: dict[Hashable, list[Published]] = defaultdict(list)
        for link in links:
            found[link.chain, link.connection].append(link)
        return self._far(found)

    def _far(self, links: Mapping[Any, Sequence[Published]]) -> dict[ChainKey, FarSides]:
        """As `seen`, of the links of each CrossConnection."""
        now, before = self._clock(), self._seen
        same = {key: seen for key, seen in before.items() if seen.complete and _equal(links.get(key), seen.links)}
        changed = {key: found for key, found in links.items() if key not in same}
        if changed or len(same) < len(before):
            taken = {*self._of.values(), *self._reserved.values()}
            made = {key: self._made(found, taken) for key, found in changed.items()}
            self._seen = same | made
            left = {of for key, seen in before.items() if key not in same for of in seen.indexes}
            self._of = {of: index for of, index in self._of.items() if of not in left}
            for seen in made.values():
                self._of.update(seen.indexes)
            self._reserved = {}
        present = frozenset[str]().union(*(seen.nodes for seen in self._seen.values()))
        self._part_with(self._numbers.keys() - present, now)
        far: dict[ChainKey, dict[tuple[str, Side], tuple[FarReplica, ...]]] = defaultdict(dict)
        for seen in self._seen.values():
            if seen.sides:
                far[seen.links[0].chain].update(seen.sides)
        return dict(far)

    def _made(self, links: Sequence[Published], taken: set[int]) -> _Seen:
        """Of the links of one CrossConnection. `taken`: the indexes in use; gets those that are given."""
        indexes: dict[Of, int] = {}
        sides: dict[tuple[str, Side], list[FarReplica]] = defaultdict(list)
        complete = True
        for link in links:
            peer = self._number(link.address)
            if not peer:
                complete = False
            elif link.serves:
                number = identity(peer, link.slot, link.generation)
                of = number, link.chain, link.connection, link.side
                index = self._of.get(of) or self._reserved.get(number) or self._free(taken)
                if index:
                    indexes[of] = index
                    taken.add(index)
                    sides[link.connection, link.side].append(FarReplica(link.uid, number, index, link.ports))
                else:
                    complete = False
                    self._tell(f"other nodes have more than {FAR_LINKS} links in the chains of this node")
        sorted_sides = {side: tuple(sorted(found, key=lambda each: each.uid)) for side, found in sides.items()}
        mtu = min((link.mtu for link in links if link.mtu), default=None)
        return _Seen(links, frozenset(link.address for link in links), mtu, indexes, sorted_sides, complete)

    def _part_with(self, absent: Iterable[str], now: float) -> None:
        """Takes the numbers back of nodes that have had no link here for long. Between two looks nothing has changed,
        so a node that is missing for the first time has left just now, however long ago the look before was."""
        self._without = {address: self._without.get(address, now) for address in absent}
        for address, since in [*self._without.items()]:
            if now - since > REST_SECONDS:
                del self._without[address]
                self._peers.clear(self._numbers.pop(address))

    def _number(self, address: str) -> int | None:
        number = self._numbers.get(address)
        if number is None:
            number = self._next_number()
            if number is None:
                self._tell(f"all {PEERS - 1} numbers of other nodes are in use")
                return None
            self._numbers[address] = self._last_number = number
            self._peers.set(number, address)
        return number

    def _tell(self, problem: str) -> None:
        if problem not in self._told:
            self._told.add(problem)
            log.error("replicas of other nodes left out", extra={"error": problem})

    def _next_number(self) -> int | None:
        taken = {*self._numbers.values()}
        for step in range(PEERS):
            number = (self._last_number + step) % (PEERS - 1) + 1
            if number not in taken:
                return number
        return None

    def _free(self, taken: Collection[int]) -> int | None:
        for _ in range(FAR_LINKS if len(taken) < FAR_LINKS else 0):
            self._last_index = SLOTS + (self._last_index - SLOTS + 1) % FAR_LINKS
            if self._last_index not in taken:
                return self._last_index
        return None


def _equal(some: Sequence[Published] | None, others: Sequence[Published]) -> bool:
    return some is others or some == others

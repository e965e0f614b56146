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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from controller.node.plane.cluster import ChainKey, Cluster
from controller.node.plane.far import FAR_LINKS, PEERS, FarReplica, FarSides, identity
from controller.node.plane.model import SLOTS, FarLink
from kube.objects import Key, Object, name, namespace
from sfc.chain import Side

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
                    yield Published(chain, name(connection), side, node["address"], *of, serves)


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

    def __init__(
        self, peers: PeerNumbers, there: Mapping[int, FarLink], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`there`: the links that the maps have already, by index. They keep their places. `clock`: seconds."""
        self._peers = peers
        self._clock = clock
        self._numbers = dict(peers.known())
        self._last_number = max(self._numbers.values(), default=0)
        self._without: dict[str, float] = {}
        """Since when each node that has a number has had no link in the chains of this node, by address."""
        self._of: dict[Of, int] = {}
        self._reserved = {link.identity: index for index, link in there.items()}
        """Indexes that an earlier agent gave, by identity, until the first look."""
        self._last_index = max(there, default=SLOTS - 1)
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._latest: tuple[Cluster, Mapping[Key, Sequence[Published]], Cluster] | None = None

    def joined(self, cluster: Cluster | None, links: Mapping[Key, Sequence[Published]]) -> Cluster | None:
        """The cluster with the far links of its chains, from those of each CrossConnection.

        The same value again for the same ones. Any thread may call it.
        """
        if cluster is None:
            return None
        with self._lock:
            if not self._latest or self._latest[0] is not cluster or self._latest[1] is not links:
                own = (link for found in links.values() for link in found if link.chain in cluster.chains)
                self._latest = cluster, links, replace(cluster, far=self.seen(own))
            return self._latest[2]

    def seen(self, links: Iterable[Published]) -> dict[ChainKey, FarSides]:
        """The far links of each chain. Those that the maps have no room for are left out, and the log says so."""
        now = self._clock()
        serving: list[tuple[Of, str]] = []
        present: set[str] = set()
        for link in links:
            present.add(link.address)
            peer = self._number(link.address)
            if link.serves and peer:
                number = identity(peer, link.slot, link.generation)
                serving.append(((number, link.chain, link.connection, link.side), link.uid))
        kept = {of: index for of, _ in serving if (index := self._of.get(of) or self._reserved.get(of[0]))}
        taken = {*kept.values(), *self._of.values()}
        found: dict[ChainKey, dict[tuple[str, Side], list[FarReplica]]] = defaultdict(lambda: defaultdict(list))
        for of, uid in serving:
            if of not in kept:
                if not (free := self._free(taken)):
                    self._tell(f"other nodes have more than {FAR_LINKS} links in the chains of this node")
                    continue
                kept[of] = free
                taken.add(free)
            _, chain, connection, side = of
            found[chain][connection, side].append(FarReplica(uid, of[0], kept[of]))
        self._of, self._reserved = kept, {}
        self._part_with(self._numbers.keys() - present, now)
        return {
            chain: {side: tuple(sorted(replicas, key=lambda each: each.uid)) for side, replicas in sides.items()}
            for chain, sides in found.items()
        }

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

"""What other nodes publish of their replicas, with the numbers by which this node's data path names them.

Numbers and indexes are this node's own. They are given in turn, so that one rests as long as possible before it stands
for something else: a session may still name what has left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from controller.node.plane.cluster import ChainKey
from controller.node.plane.far import FAR_LINKS, PEERS, FarReplica, FarSides, identity
from controller.node.plane.model import SLOTS, FarLink
from sfc.chain import Side


@dataclass(frozen=True, slots=True)
class Published:
    """A link that serves on another node, as that node says."""

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


class PeerNumbers(Protocol):
    """The numbers of other nodes in the program's maps."""

    def set(self, number: int, address: str) -> None:
        """Gives a node a number."""

    def known(self) -> Mapping[str, int]:
        """The number of each node, by address."""


class FarLinks:
    """Gives numbers to nodes, and indexes to their links. For one thread at a time."""

    def __init__(self, peers: PeerNumbers, there: Mapping[int, FarLink]) -> None:
        """`there`: the links that the maps have already, by index. They keep their places."""
        self._peers = peers
        self._numbers = dict(peers.known())
        self._last_number = max(self._numbers.values(), default=0)
        self._of: dict[tuple[int, ChainKey, str, Side], int] = {}
        self._reserved = {link.identity: index for index, link in there.items()}
        """Indexes that an earlier agent gave, by identity, until the first look."""
        self._last_index = max(there, default=SLOTS - 1)

    def seen(self, links: Iterable[Published]) -> dict[ChainKey, FarSides]:
        """The far links of each chain. Raises FarLinksExhaustedError."""
        found: dict[ChainKey, dict[tuple[str, Side], list[FarReplica]]] = defaultdict(lambda: defaultdict(list))
        kept: dict[tuple[int, ChainKey, str, Side], int] = {}
        waiting: list[tuple[tuple[int, ChainKey, str, Side], Published]] = []
        for link in links:
            key = (
                identity(self._number(link.address), link.slot, link.generation),
                link.chain,
                link.connection,
                link.side,
            )
            waiting.append((key, link))
            if index := self._of.get(key) or self._reserved.get(key[0]):
                kept[key] = index
        taken = {*kept.values(), *self._of.values()}
        for key, link in waiting:
            if key not in kept:
                kept[key] = self._free(taken)
                taken.add(kept[key])
            found[link.chain][link.connection, link.side].append(FarReplica(link.uid, key[0], kept[key]))
        self._of, self._reserved = kept, {}
        return {
            chain: {side: tuple(sorted(replicas, key=lambda each: each.uid)) for side, replicas in sides.items()}
            for chain, sides in found.items()
        }

    def _number(self, address: str) -> int:
        number = self._numbers.get(address)
        if number is None:
            number = self._numbers[address] = self._last_number = self._next_number()
            self._peers.set(number, address)
        return number

    def _next_number(self) -> int:
        taken = {*self._numbers.values()}
        for step in range(PEERS):
            number = (self._last_number + step) % (PEERS - 1) + 1
            if number not in taken:
                return number
        raise FarLinksExhaustedError(f"all {PEERS - 1} numbers of other nodes are in use")

    def _free(self, taken: Collection[int]) -> int:
        for _ in range(FAR_LINKS):
            self._last_index = SLOTS + (self._last_index - SLOTS + 1) % FAR_LINKS
            if self._last_index not in taken:
                return self._last_index
        raise FarLinksExhaustedError(f"other nodes have more than {FAR_LINKS} links in the chains of this node")


class FarLinksExhaustedError(Exception):
    """There are more nodes, or links of other nodes, than the maps of this node have room for."""

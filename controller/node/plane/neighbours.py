"""The neighbours that a node answers for: those of each chain's cross-connections, within the chain's share of the map.

Every link on the node brings its cross-connection room for NEIGHBOURS_PER_LINK addresses, and the map has as much room
for each slot. So no chain takes another's room, whoever comes first. What does not fit is no error: a request for such
an address is forwarded and its answer learned, as for an address that is not in the chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.node.plane.plan import Trouble
from sfc.chain import Chain, CrossConnection, Side

NEIGHBOURS_PER_LINK = 64
"""Addresses that a cross-connection may have in the map for each of its links on the node, both sides together. The
BPF program's map has room for SLOTS times as many."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the data path answers for a chain's addresses."""

    neighbours: Mapping[tuple[int, Side, str], str]
    """As in DataPlane."""
    troubles: tuple[Trouble, ...]


def answered(connections: Mapping[int, CrossConnection], links: Mapping[int, int], chain: Chain) -> Answers:
    """The answers for the chain's `connections`, by number. `links`: how many each has on the node, by number."""
    found: dict[tuple[int, Side, str], str] = {}
    troubles: list[Trouble] = []
    for number, connection in connections.items():
        room = NEIGHBOURS_PER_LINK * links[number]
        sides = {side: chain.neighbours(connection.end(side), room + 1) for side in Side}
        shares = _shares([len(sides[side]) for side in Side], room)
        for side, share in zip(Side, shares, strict=True):
            for (address, mac), _ in zip(sides[side].items(), range(share), strict=False):
                found[number, side, address] = mac
        if sum(shares) < sum(map(len, sides.values())):
            troubles.append(Trouble("NeighboursFull", _fullness(connection, links[number], room), connection.name))
    return Answers(found, tuple(troubles))


def _shares(wanted: list[int], room: int) -> list[int]:
    """How many of what each side wants it gets: half of the room, and what the other side leaves of its half."""
    first, second = wanted
    given = min(first, max(room // 2, room - second))
    return [given, min(second, room - given)]


def _fullness(connection: CrossConnection, links: int, room: int) -> str:
    return (
        f"CrossConnection {connection.name} has more neighbours than the {room} that this node answers for "
        f"(links here: {links}): requests for the others reach a replica instead of being answered at once; give the "
        "chain fewer addresses, or divide the segment by a stage with addresses; each new replica raises the limit"
    )

"""Which of the other nodes answer, as this node's heartbeat saw it last; and which of them it reports.

When a node dies, all others notice at once. Few of them report it, in an order that all know, and each of the others
sees in time that it need not (docs/decisions/0037).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sfc.names import TELLERS

LASTING_SECONDS = 10.0
"""A node that is silent for a shorter time is not reported."""
TURN_SECONDS, MOST_TURNS = 10.0, 6
"""How much longer those wait whose turn comes later, for each turn, and how many turns there are."""


@dataclass(frozen=True, slots=True)
class Silent:
    """Why a node gets no frames."""

    since: float
    """Its last answer, or when it was asked first: seconds on CLOCK_MONOTONIC."""
    version: int | None = None
    """Of the wire, if it sends in another one than this node."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """After a beat; empty while this agent does not lead."""

    peers: Collection[str] = ()
    """Addresses of all nodes with links in the chains of this node."""
    silent: Mapping[str, Silent] = field(default_factory=dict)
    """Those that do not answer, by address."""
    cut_off: bool = False
    """Most of several are silent at once: this node holds still."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Another node's entry in the status of a CrossConnection."""

    node: str
    """Its name."""
    address: str | None
    unreachable: frozenset[str]
    """Names of the nodes that it reports."""


def unreachable(
    node: str, others: Sequence[Entry], hearing: Hearing, said: Collection[str], now: float
) -> tuple[str, ...]:
    """Names of the nodes that `node` reports in the status of a CrossConnection, in order.

    `others`: the entries there of other nodes. `said`: the names that its own entry has. `now`: seconds on
    CLOCK_MONOTONIC.
    """
    found = []
    for other in others:
        silent = hearing.silent.get(other.address or "")
        if silent and (other.node in said or _due(node, other.node, others, now - silent.since)):
            found.append(other.node)
    return tuple(sorted(found))


def _due(node: str, silent: str, others: Sequence[Entry], seconds: float) -> bool:
    """Whether the node is to report one that has been silent for so long."""
    if seconds < LASTING_SECONDS or sum(silent in other.unreachable for other in others) >= TELLERS:
        return False
    order = sorted((node, *(other.node for other in others if other.node != silent)), key=lambda n: _hash(n, silent))
    turn = order.index(node) // TELLERS
    return seconds >= LASTING_SECONDS + TURN_SECONDS * min(turn, MOST_TURNS - 1)


def _hash(node: str, silent: str) -> bytes:
    return hashlib.sha256(f"{node}/{silent}".encode()).digest()

"""What each replica of a stage has for itself: a number, and with it perhaps source ports.

Replicas share their addresses. If each gets a slice of the source ports, no two of them produce the same 5-tuple. The
index of a slice and the number of slices determine its ports, so every component computes the same ones. The index is
the replica's number. A stage may have numbers without ports: for address pools, router ids and the like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FIRST, LAST = 1024, 65535
"""The ports that are divided: all that an unprivileged process may use (RFC 6335: above the system ports)."""

MAX_SLICES = 256
"""Each of so many still has 252 ports."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,2}")
_RANGE = re.compile(r"([1-9][0-9]{0,4})-([1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True)
class PortRange:
    """Consecutive ports. Its text is `first-last`, as in annotations and in the CNI arguments."""

    first: int
    last: int
    """Included."""

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def overlaps(self, other: PortRange) -> bool:
        """True when the two ranges have a port in common."""
        return self.first <= other.last and other.first <= self.last

    @classmethod
    def parse(cls, text: object) -> PortRange | None:
        """The range of a text such as `1024-5055`; None for anything else, also for ports outside FIRST … LAST."""
        match = _RANGE.fullmatch(text) if isinstance(text, str) else None
        found = cls(int(match[1]), int(match[2])) if match else None
        return found if found and FIRST <= found.first <= found.last <= LAST else None


@dataclass(frozen=True, slots=True)
class Shares:
    """What is divided among the replicas of a stage."""

    count: int
    """The numbers are 0 … count-1. A slice may come with a larger one, while replicas with slices of another size live.
    """
    of_ports: bool = True
    """Each number brings its slice of the source ports."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one replica has."""

    number: int
    ports: PortRange | None = None


def number_of(text: object) -> int | None:
    """The number that an annotation says; None for anything else."""
    return int(text) if isinstance(text, str) and _NUMBER.fullmatch(text) else None


def nth(index: int, slices: int) -> PortRange:
    """The slice with this index, 0 … slices-1. Together the slices cover all ports; their sizes differ by at most 1."""
    ports = LAST + 1 - FIRST
    return PortRange(FIRST + index * ports // slices, FIRST + (index + 1) * ports // slices - 1)


def index_of(ports: PortRange, slices: int) -> int | None:
    """The index of a slice; None for ports that are no slice among so many."""
    index = ((ports.first - FIRST + 1) * slices - 1) // (LAST + 1 - FIRST)
    return index if nth(index, slices) == ports else None


def every(slices: int) -> tuple[PortRange, ...]:
    """All slices, in the order of their indices."""
    return tuple(nth(index, slices) for index in range(slices))

"""Source ports for replicas that share their addresses: to each a slice of its own, so that no two ever produce the
same 5-tuple.

A slice follows from its index and the number of slices alone, so that everybody reads the same ports out of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FIRST, LAST = 1024, 65535
"""What is divided: every port that needs no privilege."""

_RANGE = re.compile(r"([1-9][0-9]{0,4})-([1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    first: int
    last: int
    """Included."""

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def overlaps(self, other: PortRange) -> bool:
        return self.first <= other.last and other.first <= self.last

    @classmethod
    def parse(cls, text: object) -> PortRange | None:
        """`1024-5055`, as annotations have it; None for anything that is not a range of ports that can be given out."""
        match = _RANGE.fullmatch(text) if isinstance(text, str) else None
        found = cls(int(match[1]), int(match[2])) if match else None
        return found if found and FIRST <= found.first <= found.last <= LAST else None


def nth(index: int, slices: int) -> PortRange:
    """The slice with this index, 0 … slices-1. All slices together are all ports; they differ by one port at most."""
    ports = LAST + 1 - FIRST
    return PortRange(FIRST + index * ports // slices, FIRST + (index + 1) * ports // slices - 1)


def every(slices: int) -> tuple[PortRange, ...]:
    return tuple(nth(index, slices) for index in range(slices))

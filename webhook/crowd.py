"""Callers that have not proved themselves, by address. Pure: it decides who has to go when there are too many.

The address with the most callers loses its oldest one. That one had the most time to prove itself, so it is idle or
slow, and an address with few callers loses none to one with many.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")

REMEMBERED = 4096
"""Addresses whose turns are counted."""


class Crowd(Generic[T]):
    """At most `most` callers. One thread at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        # Callers in the order of their arrival.
        self._by_address: dict[str, dict[T, None]] = {}
        self._turns: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    def add(self, address: str, caller: T) -> T | None:
        """Returns the caller that has to go, which may be this one. It is not in the crowd any more."""
        self._by_address.setdefault(address, {})[caller] = None
        self._count += 1
        if self._count <= self._most:
            return None
        greediest = max(self._by_address, key=lambda a: len(self._by_address[a]))
        oldest = next(iter(self._by_address[greediest]))
        self.discard(greediest, oldest)
        return oldest

    def discard(self, address: str, caller: T) -> bool:
        """Take the caller out. Returns whether it was there."""
        callers = self._by_address.get(address, {})
        if caller not in callers:
            return False
        del callers[caller]
        self._count -= 1
        if not callers:
            del self._by_address[address]
        return True

    def next(self) -> tuple[str, T] | None:
        """Take out the caller whose turn it is; None when nobody is there.

        The address that had the fewest turns comes first. So one that calls for the first time does not wait for those
        that call again and again.
        """
        if not self._by_address:
            return None
        address = min(self._by_address, key=lambda a: self._turns.get(a, 0))
        self._turns[address] = self._turns.pop(address, 0) + 1
        if len(self._turns) > REMEMBERED:
            self._turns.popitem(last=False)
        caller = next(iter(self._by_address[address]))
        self.discard(address, caller)
        return address, caller

    def of(self, address: str) -> list[T]:
        """Take out all callers of one address, the oldest first."""
        callers = self._by_address.pop(address, {})
        self._count -= len(callers)
        return list(callers)

    def all(self) -> list[T]:
        """Take out everybody."""
        return [caller for address in list(self._by_address) for caller in self.of(address)]

"""How many connections each source address may open: a few at once, and then a few a second."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

SOURCES = 1024
"""Source addresses that are remembered; the one that called longest ago is forgotten."""
BURST, PER_SECOND = 20.0, 5.0
"""Connections that one source address may open at once, and after that in each second."""


class Sources:
    """How many connections each source address may still open. Not thread-safe."""

    def __init__(self) -> None:
        self._left: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        """By address: connections left, and when that was so."""

    def admits(self, address: str, now: float) -> bool:
        """Whether this address may open one more; `now` in seconds. Of IPv6, one network of 64 bits is one source."""
        parsed = ipaddress.ip_address(address.partition("%")[0])
        source = (getattr(parsed, "ipv4_mapped", None) or parsed).packed[:8]
        left, at = self._left.pop(source, (BURST, now))
        left = min(BURST, left + (now - at) * PER_SECOND)
        self._left[source] = max(left - 1, 0.0), now
        if len(self._left) > SOURCES:
            self._left.popitem(last=False)
        return left >= 1

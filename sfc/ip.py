"""IP addresses as text, read once: the checks of a chain, its warnings and its neighbours ask for the same ones.

Every function raises ValueError for text that is not what it reads. The memory holds the last MOST_KEPT texts of each
kind, whoever wrote them, so nobody can make it grow.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_KEPT = 4096
LONGEST = 64
"""Characters. The longest address with prefix length has 49 (RFC 4291 with an embedded IPv4 address); only a zone,
which no chain may have, would make it longer."""


@lru_cache(MOST_KEPT)
def _address(text: str) -> Address:
    return ipaddress.ip_address(text)


@lru_cache(MOST_KEPT)
def _interface(text: str) -> Interface:
    return ipaddress.ip_interface(text)


@lru_cache(MOST_KEPT)
def _network(text: str) -> Network:
    return ipaddress.ip_network(text, strict=False)


def address(text: str) -> Address:
    """An address without prefix length."""
    return _address(_short(text))


def interface(text: str) -> Interface:
    """An address with the prefix length of its network; without one, a network of its own."""
    return _interface(_short(text))


def network(text: str) -> Network:
    """The network of an address with prefix length; bits beyond the prefix are ignored."""
    return _network(_short(text))


def _short(text: str) -> str:
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters are no IP address")
    return text

"""MAC addresses: the only place that knows how they are written."""

from __future__ import annotations

import re

_WRITTEN = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_READ_BY_GO = re.compile(r"([0-9a-f]{2}[:-]){5,19}[0-9a-f]{2}|([0-9a-f]{4}\.){2,9}[0-9a-f]{4}", re.IGNORECASE)


def octets(written: object) -> bytes | None:
    """The six octets of a text such as `02:00:5e:10:00:01`, in upper or lower case; None for any other value."""
    if not isinstance(written, str) or not _WRITTEN.fullmatch(written):
        return None
    return bytes.fromhex(written.replace(":", ""))


def text(packed: bytes) -> str:
    """Octets as lower-case hex, separated by colons: how this project writes every MAC."""
    return packed.hex(":")


def is_unicast(packed: bytes) -> bool:
    """False for a group address, whose first octet has its lowest bit set (IEEE 802, 8.2.2)."""
    return not packed[0] & 1


def go_reads(written: str) -> bool:
    """True when Multus can read the text. Go's net.ParseMAC also allows longer addresses, hyphens and dots."""
    return bool(_READ_BY_GO.fullmatch(written))

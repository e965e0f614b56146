"""MAC addresses: the one place that knows how they are written."""

from __future__ import annotations

import re

_WRITTEN = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_READ_BY_GO = re.compile(r"([0-9a-f]{2}[:-]){5,19}[0-9a-f]{2}|([0-9a-f]{4}\.){2,9}[0-9a-f]{4}", re.IGNORECASE)


def octets(written: object) -> bytes | None:
    """The six octets of `02:00:5e:10:00:01`, in either case; None for anything else."""
    if not isinstance(written, str) or not _WRITTEN.fullmatch(written):
        return None
    return bytes.fromhex(written.replace(":", ""))


def text(packed: bytes) -> str:
    """Lower case, colon-separated: the way this project writes every MAC."""
    return packed.hex(":")


def is_unicast(packed: bytes) -> bool:
    """False for a group address: the lowest bit of the first octet is set (IEEE 802, 8.2.2)."""
    return not packed[0] & 1


def go_reads(written: str) -> bool:
    """Whether Multus can read it: Go's net.ParseMAC knows longer addresses, hyphens and dots, too."""
    return bool(_READ_BY_GO.fullmatch(written))

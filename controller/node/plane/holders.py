"""Who holds which slice of the source ports of a side, as a tail of the side's lookup table.

A new session whose destination port is in a slice goes to the replica that holds the slice: that replica's function has
opened the port, or expects something there. Replicas with slices of another size, from before a change of the chain,
are left out: their sessions go by the hash, as all others.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from sfc.source_ports import PortRange, index_of


def packed(slices: int, ports: Mapping[int, PortRange | None]) -> bytes:
    """struct holders of the program, without the end. `ports`: by slot, or index of a far link."""
    slots = [0] * slices
    for slot, own in ports.items():
        index = index_of(own, slices) if own else None
        if index is not None:
            slots[index] = slot
    return struct.pack(f"<{1 + slices}H", slices, *slots)


def stripped(packed: bytes) -> bytes:
    """What `packed` gave, without the zeros that the map has behind it."""
    return packed[: 2 + 2 * int.from_bytes(packed[:2], "little")] if packed else b""

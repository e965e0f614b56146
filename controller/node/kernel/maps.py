"""BPF maps by their file descriptors: layouts, single elements, and whole maps in batches.

Keys and values are tuples here; the layouts below give the fields and their order as the C side declares them
(bpf/cross_connect.c, bpf/session.h). `program.load` compares the sizes.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bcc.libbcc import lib

from controller.node.kernel.errors import DatapathError
from controller.node.plane import maglev
from controller.node.plane.far import PEERS
from controller.node.plane.model import SLOTS
from sfc.source_ports import MAX_SLICES

Fields = tuple[Any, ...]
"""The fields of a key or a value, in the order of its layout."""

_BATCH_BYTES, _LEAST_BATCH = 1 << 16, 16
"""Values read at once. Much larger buffers would take longer to clear than most maps to read; the least must hold the
elements of one bucket."""
_NOEXIST = 1
_MAP_INFO = struct.Struct("<6I16s")
"""The beginning of struct bpf_map_info: type, id, key_size, value_size, max_entries, map_flags, name."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the C side lays out a map's keys and values."""

    key: struct.Struct
    value: struct.Struct
    per_cpu: bool = False
    shown: int | None = None
    """An array of whose elements only so many are gone through: what follows is of another kind."""


_U32 = struct.Struct("<I")
HOLDERS_BYTES = 2 * (1 + MAX_SLICES)
"""Of struct holders."""

LAYOUTS = {
    "links": Layout(_U32, struct.Struct("<IIBBBxI"), shown=SLOTS),
    "session_table": Layout(_U32, struct.Struct("<1072s")),
    "wide_table": Layout(_U32, struct.Struct("<1456s")),
    "holdings": Layout(_U32, struct.Struct("<QQ")),
    "activity": Layout(_U32, struct.Struct("<Q")),
    "hash_key_note": Layout(_U32, struct.Struct("<Q")),
    "patience": Layout(_U32, struct.Struct("<4I")),
    "session_keys": Layout(_U32, _U32),
    "numbers": Layout(_U32, struct.Struct("<40s64s224s")),
    "fragments": Layout(struct.Struct("<II"), struct.Struct("<16s16sQQQII")),
    "targets": Layout(struct.Struct("<II"), struct.Struct(f"<{2 * maglev.LENGTH}s")),
    "holders": Layout(struct.Struct("<II"), struct.Struct(f"<{HOLDERS_BYTES}s")),
    "neighbours": Layout(struct.Struct("<II16s"), struct.Struct("<6s2x")),
    "learned": Layout(struct.Struct("<II"), struct.Struct("<II16s6s2xQ")),
    "far_links": Layout(_U32, _U32),
    "peers": Layout(_U32, struct.Struct("<16sI")),
    "peer_numbers": Layout(struct.Struct("<16s"), _U32),
    "members": Layout(_U32, struct.Struct(f"<{PEERS // 8}s")),
    "heard": Layout(_U32, struct.Struct("<Q")),
    "tunnel_entry": Layout(_U32, _U32),
    "refusal_entry": Layout(_U32, _U32),
    "underlay": Layout(_U32, struct.Struct("<4s2s2xI")),
    "contests": Layout(_U32, struct.Struct("<QQ")),
    "traffic": Layout(_U32, struct.Struct("<6Q"), per_cpu=True),
    "drops": Layout(struct.Struct("<II"), struct.Struct("<Q"), per_cpu=True),
}
"""By the map's name in the program."""
NUMBERED_SIZES = (40, 64, 224)
"""Bytes of the three texts in `numbers`."""
LEARNED_PLACES, FRAGMENT_PLACES = 64, 256 + 64
"""Elements of a cross-connection in `learned`, and of a link in `fragments`; as in bpf/cross_connect.c."""


class Map:
    """A map of the program, open; every method raises DatapathError.

    A per-CPU value reads as the sum over the CPUs, field by field, and is written to each.
    """

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self._called = f"map {name}"
        self._key = LAYOUTS[name].key
        self.key_size = self._key.size
        self._value = LAYOUTS[name].value
        self._cpus = _possible_cpus() if LAYOUTS[name].per_cpu else 1

    def get(self, key: Fields) -> Fields:
        """The value of a key that exists: an array's always does."""
        value = ctypes.create_string_buffer(self._value.size * self._cpus)
        self._expect(lib.bpf_lookup_elem(self.fd, self._key.pack(*key), value), "read")
        return next(self._values_in(value.raw))

    def put(self, key: Fields, value: Fields) -> None:
        """Writes the element, whether it exists or not."""
        self._expect(
            lib.bpf_update_elem(self.fd, self._key.pack(*key), self._value.pack(*value) * self._cpus, 0), "written"
        )

    def delete(self, key: Fields) -> None:
        """Succeeds when there is no such element."""
        self._expect(lib.bpf_delete_elem(self.fd, self._key.pack(*key)), "deleted", or_error=errno.ENOENT)

    def values(self) -> Iterator[Fields]:
        """All values; of an array, those that were never written, too."""
        return (value for _, value in self.items())

    def items(self) -> Iterator[tuple[Fields, Fields]]:
        """(key, value) of each element."""
        for keys, values in self.batches():
            yield from zip(self._key.iter_unpack(keys), self._values_in(values), strict=True)

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """The packed keys and values, many elements at a time. Changes made meanwhile may be missing."""
        return batches(self.fd, self._key.size, self._value.size * self._cpus, self.name, LAYOUTS[self.name].shown)

    def _values_in(self, packed: bytes) -> Iterator[Fields]:
        unpacked = self._value.iter_unpack(packed)
        if self._cpus == 1:
            return unpacked
        return (tuple(map(sum, zip(*each, strict=True))) for each in zip(*[unpacked] * self._cpus, strict=True))

    def _expect(self, failed: int, done: str, or_error: int = 0) -> None:
        expect(self._called, failed, done, or_error)


def expect(what: str, failed: int, done: str, or_error: int = 0) -> None:
    """Raises DatapathError for a call of libbpf that failed, unless with the error number `or_error`."""
    if failed and (reason := ctypes.get_errno()) != or_error:
        raise DatapathError(
            f"BPF {what} can not be {done}: {os.strerror(reason)}; "
            "see that the agent has its capabilities (deploy/node.yaml), and restart it"
        )


def batches(
    fd: int, key_size: int, value_size: int, name: str, first: int | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """The packed keys and values of any map, many elements at a time; of an array, the `first` so many if given.

    `name` is for errors (DatapathError).
    """
    most = max(_BATCH_BYTES // value_size, _LEAST_BATCH)
    left = first
    keys, values = (ctypes.create_string_buffer(most * size) for size in (key_size, value_size))
    position, count = ctypes.c_uint32(), ctypes.c_uint32()
    called = f"map {name}"
    begin, more = None, True
    while more:
        count.value = most if left is None else min(most, left)
        failed = lib.bpf_lookup_batch(fd, begin, ctypes.byref(position), keys, values, ctypes.byref(count))
        expect(called, failed, "read", or_error=errno.ENOENT)
        yield ctypes.string_at(keys, count.value * key_size), ctypes.string_at(values, count.value * value_size)
        begin, more = ctypes.byref(position), not failed
        if left is not None:
            left -= count.value
            more = more and left > 0


@dataclass(frozen=True, slots=True)
class MapInfo:
    """A map as the kernel describes it; it may be of an earlier or a later version."""

    fd: int
    """Through which it was asked; the caller's to close."""
    id: int
    name: str
    """Cut off after 15 bytes."""
    key_size: int
    value_size: int
    """Bytes; of a per-CPU map, for one CPU."""
    max_entries: int


def map_info(fd: int) -> MapInfo:
    """Raises DatapathError."""
    packed = ctypes.create_string_buffer(_MAP_INFO.size)
    expect("map", lib.bpf_obj_get_info(fd, packed, ctypes.byref(ctypes.c_uint32(len(packed)))), "inspected")
    _, number, key_size, value_size, max_entries, _, name = _MAP_INFO.unpack(packed.raw)
    return MapInfo(fd, number, name.rstrip(b"\0").decode(), key_size, value_size, max_entries)


def packed_text(text: str, size: int) -> bytes:
    """Text that ends with a zero, as `numbers` holds it. Raises ValueError for one that is longer."""
    packed = text.encode()
    if len(packed) >= size:
        raise ValueError(f"{text!r} has {len(packed)} bytes, and a map holds {size - 1}; give it a shorter name")
    return packed


def text_of(packed: bytes) -> str:
    """The other way round."""
    return packed.partition(b"\0")[0].decode(errors="replace")


def packed_address(written: str) -> bytes:
    """16 bytes, as maps hold every address; IPv4 as ::ffff:a.b.c.d."""
    address = ipaddress.ip_address(written)
    return (bytes(10) + b"\xff\xff" if address.version == 4 else b"") + address.packed


@lru_cache(maxsize=1 << 13)
def address_text(packed: bytes) -> str:
    """The other way round. Those of other nodes are asked for five times a second."""
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


def _possible_cpus() -> int:
    """Per-CPU values have a copy for each CPU the kernel may ever see, not only for those online."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")
    return 1 + int(ranges[-1].split("-")[-1])

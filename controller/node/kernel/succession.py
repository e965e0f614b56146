"""Taking over the sessions of programs that this one replaces: another version may have tables of its own.

A version that changes the layout of a session's value adds to its end, so each version can read the others' values.
"""

from __future__ import annotations

import ctypes
import logging
import os
import struct
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from bcc.libbcc import lib

from controller.node.kernel.counters import Counters
from controller.node.kernel.maps import Map, MapInfo, batches, expect, map_info
from controller.node.plane.sessions import CLOSED_NS

log = logging.getLogger(__name__)

_PROGRAM_INFO = struct.Struct("<52xIQ")
"""The beginning of struct bpf_prog_info, with only two fields: how many maps it has, and where their numbers go."""
_MOST_MAPS = 64


@contextmanager
def sessions_taken_over(programs: Collection[int], tables: Sequence[Map], counters: Counters) -> Iterator[None]:
    """Copies the sessions of `programs` (the kernel's numbers) into `tables`, before and after the block.

    The second time brings what was opened during the block. Sessions that were closed a while ago are left out: a
    connection that reuses their ports during the block would be known to the former program alone. Programs with the
    same tables, and those that do not exist any more, change nothing. Raises DatapathError.
    """
    with ExitStack() as cleanup:
        own = {map_info(table.fd).id for table in tables}
        former = [table for program in programs for table in _maps_of(program, cleanup)]
        pairs = [(old, new) for old in former for new in tables if _precedes(old, new, own)]
        _take(pairs, counters)
        yield
        _take(pairs, counters)


def _take(pairs: Sequence[tuple[MapInfo, Map]], counters: Counters) -> None:
    if not pairs:
        return
    before = counters.remembered()
    closed_at = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - CLOSED_NS
    for old, new in pairs:
        for keys, values in batches(old.fd, old.key_size, old.value_size, old.name):
            for key, value in zip(_cut(keys, old.key_size), _cut(values, old.value_size), strict=True):
                _, _, last_seen, *finished, reset, _ = fields = new.fields(value)
                if last_seen > closed_at or not (reset or all(finished)):
                    new.add(key, fields)
    log.info("sessions of another version taken over", extra={"sessions": counters.remembered() - before})
    counters.restart_evicted()


def _cut(packed: bytes, size: int) -> Iterator[bytes]:
    return (packed[at : at + size] for at in range(0, len(packed), size))


def _precedes(old: MapInfo, new: Map, own: Collection[int]) -> bool:
    """It is another version's table of the same name, and of the same keys."""
    return old.id not in own and old.name == new.name and old.key_size == new.key_size


def _maps_of(program: int, cleanup: ExitStack) -> list[MapInfo]:
    """All maps of a loaded program, open until `cleanup`; none when it has been unloaded meanwhile."""
    fd = lib.bpf_prog_get_fd_by_id(program)
    if fd < 0:
        return []
    cleanup.callback(os.close, fd)
    numbers = (ctypes.c_uint32 * _MOST_MAPS)()
    packed = ctypes.create_string_buffer(_PROGRAM_INFO.pack(_MOST_MAPS, ctypes.addressof(numbers)))
    size = ctypes.c_uint32(_PROGRAM_INFO.size)
    expect("program", lib.bpf_obj_get_info(fd, packed, ctypes.byref(size)), "inspected")
    count, _ = _PROGRAM_INFO.unpack_from(packed.raw)
    tables = []
    for number in numbers[: min(count, _MOST_MAPS)]:
        held = lib.bpf_map_get_fd_by_id(number)
        if held >= 0:
            cleanup.callback(os.close, held)
            tables.append(map_info(held))
    return tables

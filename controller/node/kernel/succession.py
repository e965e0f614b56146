"""Taking over the sessions of programs that this one replaces: another version may have tables of its own."""

from __future__ import annotations

import ctypes
import logging
import os
import struct
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from bcc.libbcc import lib

from controller.node.kernel.maps import MapInfo, expect, map_info
from controller.node.kernel.session_table import FORMER_TABLES, TABLES, SessionTables
from controller.node.plane.sessions import CLOSED_NS

log = logging.getLogger(__name__)

_PROGRAM_INFO = struct.Struct("<52xIQ")
"""The beginning of struct bpf_prog_info, with only two fields: how many maps it has, and where their numbers go."""
_MOST_MAPS = 64


@contextmanager
def sessions_taken_over(programs: Collection[int], tables: SessionTables) -> Iterator[None]:
    """Copies the sessions of `programs` (the kernel's numbers) into `tables`, before and after the block.

    The second time brings what the former programs have seen since: sessions that were opened or closed. The first time
    leaves out sessions that were closed a while ago: a connection that reuses their ports during the block would be
    known to the former program alone. Programs with the same tables, and those that do not exist any more, change
    nothing. Raises DatapathError.
    """
    with ExitStack() as cleanup:
        own = {table.id for table in tables.infos()}
        former = [_tables_of(program, cleanup) for program in programs]
        others = [table for its in former for table in its if table.id not in own]
        recently = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - CLOSED_NS
        _take(others, tables, 0, recently)
        yield
        _take(others, tables, recently, recently)


def _take(others: Sequence[MapInfo], tables: SessionTables, since_ns: int, closed_since_ns: int) -> None:
    if not others:
        return
    here = sum(tables.bring(table, since_ns, closed_since_ns) for table in others)
    log.info("sessions of another version taken over", extra={"sessions": here})


def _tables_of(program: int, cleanup: ExitStack) -> list[MapInfo]:
    """The tables in which a program looks for sessions."""
    maps = _maps_of(program, cleanup)
    return [each for each in maps if each.name in TABLES] or [each for each in maps if each.name in FORMER_TABLES]


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

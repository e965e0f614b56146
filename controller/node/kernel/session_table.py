"""The session tables as the agent sees them: buckets in two arrays (bpf/table.h), and what it asks the program to do.

Reading goes bucket by bucket through system calls, a microsecond a session. Counting and removing have to be quick in a
table of a million sessions, so the kernel does them: the programs `survey` and `bring`, each started for the agent by
BPF_PROG_TEST_RUN.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import astuple, dataclass

from controller.node.kernel.errors import DatapathError
from controller.node.kernel.maps import Fields, Map, MapInfo, batches, map_info
from controller.node.plane.numbers import NUMBERS

TABLES = ("session_table", "wide_table")
"""Of plain IPv4, and of everything else."""
FORMER_TABLES = ("sessions", "wide_sessions")
"""The hash maps of the version before."""
PLACES = 16
"""Sessions that a bucket has room for."""
OPENER, ANSWERED, PROVEN, WAS_PROVEN = 1, 2, 4, 8
"""Bits of a session's standing, as bpf/session.h has them."""
CARRIED = {16: 6, 32: 132, 64: 17}
"""Those that tell what a session of many flows has carried, and the number of that protocol."""

_HEAD = struct.Struct(f"<16x{PLACES}H")
"""A bucket begins with its lock and a tag for each place, 0 if that is free."""
_SESSION = struct.Struct("<QQ8xQ4xBBBB")
_STAMPS, _STANDING = slice(16, 24), 39
"""Where a session's value has them."""
_KEYS = {24: struct.Struct("<4s4s2s2sIII"), 48: struct.Struct("<16s16s2s2sIII")}
"""The keys of both tables, by size."""
_PROTOCOL = {24: 12, 48: 36}
"""Where each key has it."""
_LARGEST_KEY = 48
_TCP = 6

_CONTEXT = struct.Struct("<48x5I")
"""The beginning of struct __sk_buff; the numbers are those of `enum question` in bpf/cross_connect.c."""
_FRAME, _ETHERNET_HEADER = bytes(64), bytes(14)
_TC_ACT_OK = 0
_MOST_ATTEMPTS = 100
_EXPORTING, _ENDING = 1, 2
"""`enum survey_for` there; 0 is to count."""
_LOSES = 1 << 63
"""LOSES there."""

_libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)


@dataclass(frozen=True, slots=True)
class Programs:
    """Descriptors of the loaded programs."""

    cross_connect: int
    survey: int
    bring: int
    from_tunnel: int
    into_tunnel: int
    refuse: int

    def close(self) -> None:
        """Lets go of all. A filter keeps its own."""
        for fd in astuple(self):
            os.close(fd)


class SessionTables:
    """Both tables of a loaded program. Every method raises DatapathError."""

    def __init__(self, maps: Mapping[str, Map], programs: Programs) -> None:
        self._tables = tuple(maps[name] for name in TABLES)
        self._activity, self._holdings = maps["activity"], maps["holdings"]
        self._programs = programs
        self._buckets = map_info(self._tables[0].fd).max_entries
        self._surveying = threading.Lock()
        """What a survey counts is a difference, so there is one at a time."""

    def infos(self) -> list[MapInfo]:
        """Both tables, as the kernel describes them."""
        return [map_info(table.fd) for table in self._tables]

    def items(self) -> Iterator[tuple[Fields, Fields]]:
        """(key, value) of every session. Those that begin or end meanwhile may be missing."""
        for table in self.infos():
            for key, value in _entries(table):
                yield _KEYS[len(key)].unpack(key), _SESSION.unpack(value)

    def activity(self, slots: Collection[int], now_ns: int) -> dict[int, int]:
        """How many active sessions each of `slots` has, on either side, at this time (CLOCK_MONOTONIC)."""

        def counts() -> dict[int, int]:
            return {slot: self._activity.get((slot,))[0] for slot in slots}

        with self._surveying:
            before = self._survey(now_ns, before=counts)
            return {slot: count - before[slot] for slot, count in counts().items()}

    def end(self, slots: Collection[int], now_ns: int) -> None:
        """Ends the sessions that are left of the links in these slots: of connections all that are not closed, of what
        has none those that are active at this time (CLOCK_MONOTONIC). Whoever sends in them is refused (`refused`)."""
        with self._surveying:
            try:
                for slot in slots:
                    self._activity.put((slot,), (_LOSES,))
                for _ in range(2):  # a frame that another CPU had in hand may give a session its end back
                    self._survey(now_ns, purpose=_ENDING)
            finally:
                for slot in slots:
                    self._activity.put((slot,), (0,))

    def forget(self, connection: int) -> None:
        """Removes the sessions of a cross-connection that has no link any more, and what was counted of them."""
        with self._surveying:
            self._survey(0, forgotten=connection)
            self._holdings.put((connection % NUMBERS,), (0, 0))

    def bring(self, old: MapInfo, since_ns: int, closed_since_ns: int) -> int:
        """Copies the sessions of another version's table that were seen since `since_ns` (CLOCK_MONOTONIC); those that
        are closed, only if they were seen since `closed_since_ns`. How many of them are here then.

        A session that is here already learns what the other table knows better.
        """
        here = 0
        for key, value in _entries(old):
            _, _, last_seen, *finished, reset, _ = _SESSION.unpack(value)
            if last_seen > (closed_since_ns if reset or all(finished) else since_ns):
                here += self._bring_one(key, value)
        return here

    def _bring_one(self, key: bytes, value: bytes) -> bool:
        """With stamps of zero, because the links of another version have others."""
        session = bytearray(value)
        session[_STAMPS] = bytes(8)
        wide = (len(key) == _LARGEST_KEY).to_bytes(2, "little")
        return _run(self._programs.bring, _ETHERNET_HEADER + wide + key.ljust(_LARGEST_KEY, b"\0") + session)

    def export(self, since_ns: int) -> None:
        """Puts the sessions that were seen since that time (CLOCK_MONOTONIC) where an agent of the version before looks
        for them. They are in no use there."""
        with self._surveying:
            self._survey(since_ns, purpose=_EXPORTING)

    def _survey(
        self,
        now_ns: int,
        *,
        forgotten: int = 0,
        purpose: int = 0,
        before: Callable[[], dict[int, int]] = dict,
    ) -> dict[int, int]:
        """Looks at every bucket; returns what `before` returned just before that. A signal ends a survey early, and it
        begins again."""
        context = _CONTEXT.pack(0, now_ns & 0xFFFFFFFF, now_ns >> 32, forgotten, purpose)
        for _ in range(_MOST_ATTEMPTS):
            found = before()
            if _run(self._programs.survey, _FRAME, context, self._buckets):
                return found
        raise DatapathError("the session tables can not be surveyed: signals end every attempt; restart the agent")


def _entries(table: MapInfo) -> Iterator[tuple[bytes, bytes]]:
    """(packed key, packed value) of each session in a table of any version."""
    return _of_hash(table) if table.key_size in _KEYS else _of_buckets(table)


def _of_hash(table: MapInfo) -> Iterator[tuple[bytes, bytes]]:
    """A version before this one had hash maps, and no standing. What it knew is kept for now, except that an exchange
    without an end in sight has to prove itself again."""
    for keys, values in batches(table.fd, table.key_size, table.value_size, table.name):
        for key, value in zip(_cut(keys, table.key_size), _cut(values, table.value_size), strict=True):
            standing = ANSWERED | WAS_PROVEN | (PROVEN if key[_PROTOCOL[len(key)]] == _TCP else 0)
            yield key, _own(value[:_STANDING] + bytes((standing,)))


def _of_buckets(table: MapInfo) -> Iterator[tuple[bytes, bytes]]:
    """A version that changes the layout of a session adds to its end."""
    size = (table.value_size - _HEAD.size) // PLACES
    key_size = dict(zip(TABLES, _KEYS, strict=True))[table.name]
    for _, packed in batches(table.fd, table.key_size, table.value_size, table.name):
        for bucket in _cut(packed, table.value_size):
            tags = _HEAD.unpack_from(bucket)
            if any(tags):
                for tag, place in zip(tags, _cut(bucket[_HEAD.size :], size), strict=True):
                    if tag:
                        yield place[:key_size], _own(place[key_size:])


def _own(value: bytes) -> bytes:
    """A session's value in this version. Fields that the other one did not have are zero."""
    return value[: _SESSION.size].ljust(_SESSION.size, b"\0")


def _cut(packed: bytes, size: int) -> Iterator[bytes]:
    return (packed[at : at + size] for at in range(0, len(packed), size))


class _Options(ctypes.Structure):
    """struct bpf_test_run_opts of libbpf 1."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_char_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


def _run(program: int, frame: bytes, context: bytes = b"", repeat: int = 1) -> bool:
    """Whether the last of so many runs returned TC_ACT_OK; False, too, when a signal ended them early."""
    options = _Options(
        sz=ctypes.sizeof(_Options),
        data_in=frame,
        data_size_in=len(frame),
        ctx_in=context or None,
        ctx_size_in=len(context),
        repeat=repeat,
    )
    if error := _libbpf.bpf_prog_test_run_opts(program, ctypes.byref(options)):
        if error != -errno.EINTR:
            raise DatapathError(
                f"the session tables can not be surveyed: {os.strerror(-error)}; "
                "see that the agent has its capabilities (deploy/node.yaml), and restart it"
            )
        return False
    return bool(options.retval == _TC_ACT_OK)

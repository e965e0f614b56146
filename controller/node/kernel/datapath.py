"""The BPF program and its maps; the only module that imports bcc.

BCC compiles and loads the program once, when the agent starts; after that everything is map access through file
descriptors. The maps are pinned, so an agent that is restarted or upgraded finds links, targets and sessions as they
were; meanwhile the program that the filters hold carries on with the same maps.

What sets or clears is idempotent: the same again changes nothing, clearing what is gone succeeds.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import logging
import os
import platform
import re
import struct
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from bcc import BPF
from bcc.libbcc import lib

from controller.node.plane import maglev
from controller.node.plane.model import PROGRAM, SLOTS, Contest, DataPlane, LinkEntry, LinkState, Traffic
from controller.node.plane.sessions import DEFAULT_TIMEOUTS, Session, Timeouts, active
from sfc import mac
from sfc.chain import Side

log = logging.getLogger(__name__)

SOURCE = Path(__file__).resolve().parents[3] / "bpf"
PIN_ROOT = Path("/sys/fs/bpf/sfc/v1")
CAPACITY = 262_144
"""Sessions of each kind (plain IPv4, all others) that a node remembers unless told otherwise; beyond that the least
recently used give way."""

_BATCH_BYTES, _LEAST_BATCH = 1 << 16, 16
"""Values read at once. Much larger buffers would take longer to clear than most maps to read; the least must hold the
elements of one bucket."""
_NOEXIST = 1
_MAP_INFO = struct.Struct("<6I16s")
_PROGRAM_INFO = struct.Struct("<52xIQ")
"""The beginnings of struct bpf_map_info and bpf_prog_info; of the latter, how many maps and their numbers."""
_MOST_MAPS = 64


class DatapathError(Exception):
    """The program or one of its maps can not be used; the message ends with the remedy."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the C side lays out a map's keys and values; `Datapath.open` compares the sizes."""

    key: struct.Struct
    value: struct.Struct
    per_cpu: bool = False
    connection: int = 0
    """Where the key has the connection number."""


_LAYOUTS = {
    "links": _Layout(struct.Struct("<I"), struct.Struct("<IIBBBxI")),
    "sessions": _Layout(struct.Struct("<4s4s2s2sIII"), struct.Struct("<QQ8xQ4xBBBx"), connection=-1),
    "wide_sessions": _Layout(struct.Struct("<16s16s2s2sIII"), struct.Struct("<QQ8xQ4xBBBx"), connection=-1),
    "opened": _Layout(struct.Struct("<I"), struct.Struct("<Q"), per_cpu=True),
    "fragments": _Layout(struct.Struct("<II16s16sQ"), struct.Struct("<Q")),
    "targets": _Layout(struct.Struct("<II"), struct.Struct(f"<{2 * maglev.LENGTH}s")),
    "neighbours": _Layout(struct.Struct("<II16s"), struct.Struct("<6s2x")),
    "learned": _Layout(struct.Struct("<II16s"), struct.Struct("<6s2xQ")),
    "contests": _Layout(struct.Struct("<IIII"), struct.Struct("<Q")),
    "traffic": _Layout(struct.Struct("<I"), struct.Struct("<6Q"), per_cpu=True),
    "drops": _Layout(struct.Struct("<II"), struct.Struct("<Q"), per_cpu=True),
}

_ENDS = struct.Struct("<QQ24x")
"""The two ends alone of a session's value, to pass over the many that are of no interest."""

_libc = ctypes.CDLL(None)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 1 << 17
"""To the allocator, before it learned otherwise: mallopt(3)."""
_PLAIN = 1 << 63
"""In an end: frames go there by a plain redirect (bpf/session.h)."""


class Datapath:
    """The node's cross-connect program, loaded, and its maps, open."""

    def __init__(self, program_fd: int, maps: Mapping[str, _Map], pin_root: Path) -> None:
        self.program_fd = program_fd
        """For the tc filters of the data links."""
        self._pin_root = pin_root
        self._maps = maps
        self._links, self._targets = maps["links"], maps["targets"]
        self._sessions = (maps["sessions"], maps["wide_sessions"])
        self._fragments = maps["fragments"]
        self._forgotten = 0
        self._neighbours, self._learned = maps["neighbours"], maps["learned"]
        self._traffic, self._drops, self._contests = maps["traffic"], maps["drops"], maps["contests"]
        self._opened = maps["opened"]
        self._stamp: int = max(stamp for *_, stamp in self._links.values())
        self._evicted_before = self._missing()

    @classmethod
    def open(cls, pin_root: Path = PIN_ROOT, capacity: int = CAPACITY, cflags: Sequence[str] = ()) -> Self:
        """Compiles and loads the program (about half a second) over the maps pinned below `pin_root`.

        A pinned map of another size or layout is replaced, with the loss of what it held: that is what changing
        `capacity` does to the sessions. Raises DatapathError.
        """
        _require_headers()
        _require_bpffs(pin_root)
        pin_root.mkdir(parents=True, exist_ok=True)
        flags = [
            f"-I{SOURCE}",
            f'-DPIN_ROOT="{pin_root}"',
            f"-DSESSION_CAPACITY={capacity}",
            f"-DSLOTS={SLOTS}",
            f"-DTABLE_LENGTH={maglev.LENGTH}",
            *cflags,
        ]
        module = _compiled(flags)
        if stale := [name for name in _LAYOUTS if not _as_declared(module, name)]:
            module.cleanup()
            for name in stale:
                (pin_root / name).unlink()
            module = _compiled(flags)
        try:
            return cls(_loaded(module), {name: _map(module, name) for name in _LAYOUTS}, pin_root)
        finally:
            module.cleanup()
            _give_memory_back()

    def close(self) -> None:
        """Lets go of program and maps. Filters and pins keep them, and frames keep flowing."""
        os.close(self.program_fd)
        for each in self._maps.values():
            os.close(each.fd)

    def unpin(self) -> None:
        """Removes the pins: the maps vanish with the last filter."""
        for name in _LAYOUTS:
            (self._pin_root / name).unlink(missing_ok=True)
        if self._pin_root.is_dir():
            self._pin_root.rmdir()

    def take_over(self) -> None:
        """To be called before the first change, when another agent may have changed the maps since they were opened.

        It may have ended between the two steps of `set_link`.
        """
        self._stamp = max(stamp for *_, stamp in self._links.values())
        for connection in {entry.connection for _, entry in self._observed_links()}:
            self._restamp(connection)

    @contextmanager
    def succeeding(self, programs: Collection[int]) -> Iterator[None]:
        """While the block puts this program into filters that held others (the kernel's numbers of them), which may be
        of another version, with session tables of their own: their sessions are taken over.

        Those that were opened during the block too; not those that were closed a while ago, because a connection that
        reuses their ports during the block is known to the former program alone. What is not known of a session is
        nothing; a version that changes the layout of a session's value adds to its end.
        """
        with ExitStack() as cleanup:
            own = {_info(table.fd).id for table in self._sessions}
            former = [table for program in programs for table in _session_tables(program, cleanup)]
            pairs = [(old, new) for old in former for new in self._sessions if _precedes(old, new, own)]
            self._take_sessions(pairs)
            yield
            self._take_sessions(pairs)

    def _take_sessions(self, pairs: Sequence[tuple[_Info, _Map]]) -> None:
        before = self.remembered() if pairs else 0
        closed_at = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - DEFAULT_TIMEOUTS.tcp_closed_ns
        for old, new in pairs:
            for keys, values in _batches(old.fd, old.key_size, old.value_size, old.name):
                for key, value in zip(_cut(keys, old.key_size), _cut(values, old.value_size), strict=True):
                    _, _, last_seen, *finished, reset = fields = new.fields(value)
                    if last_seen > closed_at or not (reset or all(finished)):
                        new.add(key, fields)
        if pairs:
            taken = {"sessions": self.remembered() - before}
            log.info("sessions of another version taken over", extra=taken)
            self._evicted_before = self._missing()

    def observe(self, known: Mapping[tuple[int, Side], bytes] = MappingProxyType({})) -> DataPlane:
        """What the maps say; the filters, which are not in maps, are left empty.

        A table that is as in `known` is that object: all together they are too large to be held twice.
        """
        tables = ((_side_key(key), table) for key, (table,) in self._targets.items())
        return DataPlane(
            links=dict(self._observed_links()),
            targets={side: known[side] if known.get(side) == table else table for side, table in tables},
            neighbours={
                (connection, Side(side), _address_text(address)): mac.text(octets)
                for (connection, side, address), (octets,) in self._neighbours.items()
            },
        )

    def set_link(self, slot: int, link: LinkEntry) -> None:
        """In an order in which no frame meets half of a link: the kernel does not write an element at once.

        A link that differs in more than its state is another one: its slot is unwired first, its counters begin anew.
        """
        fixed = (link.ifindex, link.connection, link.side)
        plain = not link.paired
        before = self._links.get((slot,))
        if (*before[:3], bool(before[4])) != (*fixed, plain):
            if any(before):
                self.clear_link(slot)
            self._traffic.put((slot,), (0,) * 6)
            self._links.put((slot,), (*fixed, 0, plain, 0))
        self._links.put((slot,), (*fixed, link.state, plain, self._next_stamp()))
        if link.state == LinkState.GONE:
            self._restamp(link.connection)

    def clear_link(self, slot: int) -> None:
        ifindex, connection, side, state, plain, _ = self._links.get((slot,))
        self._links.put((slot,), (ifindex, connection, side, 0, plain, 0))
        if state:
            self._restamp(connection)
        self._links.put((slot,), (0,) * 6)

    def _restamp(self, connection: int) -> None:
        """A link of the cross-connection has left: from now on none of its sessions is taken for granted."""
        for (slot,), (*fixed, state, plain, _) in self._links.items():
            if state and fixed[1] == connection:
                self._links.put((slot,), (*fixed, state, plain, self._next_stamp()))

    def _next_stamp(self) -> int:
        self._stamp = self._stamp % 0xFFFFFFFF + 1
        return self._stamp

    def set_targets(self, connection: int, side: Side, table: bytes) -> None:
        """Exchanges a side's whole lookup table, as `maglev.table` packs it, between two packets."""
        if len(table) != 2 * maglev.LENGTH:
            raise ValueError(
                f"targets of cross-connection {connection}, {side.name.lower()}: the table has {len(table)} bytes "
                f"instead of {2 * maglev.LENGTH}; make it with controller.node.plane.maglev.table"
            )
        self._targets.put((connection, side), (table,))

    def clear_targets(self, connection: int, side: Side) -> None:
        self._targets.delete((connection, side))

    def set_neighbour(self, connection: int, side: Side, address: str, mac_address: str) -> None:
        """Answers ARP requests or neighbour solicitations for `address` that come from `side`.

        The chain has changed, so what its links said of neighbours before is forgotten.
        """
        self._neighbours.put((connection, side, _address(address)), (mac.octets(mac_address),))
        self._learned.delete_of(connection)

    def clear_neighbour(self, connection: int, side: Side, address: str) -> None:
        self._neighbours.delete((connection, side, _address(address)))
        self._learned.delete_of(connection)

    def sessions(self) -> Iterator[Session]:
        """Every session remembered, active or not."""
        return (_session(key, value) for table in self._sessions for key, value in table.items())

    def activity(
        self,
        slots: Collection[int],
        now_ns: int | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> dict[int, int]:
        """How many active sessions each of `slots` has, on either side.

        Reads the whole session table: about half a microsecond for a session of others, four for one of `slots`.
        """
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) if now_ns is None else now_ns
        slot_of = {slot << 32 | self._links.get((slot,))[0]: slot for slot in slots}
        slot_of |= {end | _PLAIN: slot for end, slot in slot_of.items()}
        count = Counter(dict.fromkeys(slots, 0))
        for session in self._sessions_of(slot_of.keys()):
            if active(session, now, timeouts):
                count.update(slot_of[end] for end in (session.upstream, session.downstream) if end in slot_of)
        return dict(count)

    def _sessions_of(self, ends: Collection[int]) -> Iterator[Session]:
        for table in self._sessions:
            for keys, values in table.batches():
                for index, (upstream, downstream) in enumerate(_ENDS.iter_unpack(values)):
                    if upstream in ends or downstream in ends:
                        yield _session(table.key_at(keys, index), table.value_at(values, index))

    def traffic(self, slots: Collection[int] | None = None) -> dict[int, Traffic]:
        """By slot, for `slots` or for each link there is."""
        wanted = (slot for slot, _ in self._observed_links()) if slots is None else slots
        return {slot: Traffic(*self._traffic.get((slot,))) for slot in wanted}

    def drops(self) -> dict[tuple[int, str], int]:
        """Frames dropped, by (connection number, verdict); connection 0: from a link that is not wired."""
        return self._told(verdicts(dropped=True))

    def remarks(self) -> dict[tuple[int, str], int]:
        """Frames that were carried but tell of something amiss, by (connection number, verdict)."""
        return self._told({number: name for number, name in verdicts().items() if number not in verdicts(dropped=True)})

    def _told(self, names: Mapping[int, str]) -> dict[tuple[int, str], int]:
        counts = {key: count for key, (count,) in self._drops.items()}
        return {(number, names[verdict]): n for (number, verdict), n in counts.items() if verdict in names}

    def contests(self) -> dict[Contest, int]:
        """How often each pair of serving links claimed a session of each other."""
        return {
            Contest(connection, Side(side), former, latter): count
            for (connection, side, former, latter), (count,) in self._contests.items()
        }

    def remembered(self) -> int:
        """Sessions in the tables, active or not."""
        return sum(table.count() for table in self._sessions)

    def evicted(self) -> int:
        """Sessions that had to give way to others since this agent began: what was opened and is neither there nor
        was forgotten."""
        return max(0, self._missing() - self._evicted_before)

    def _missing(self) -> int:
        """Sessions opened since the tables were made that are not in them, and were not forgotten by this agent."""
        opened: int = sum(count for _, (count,) in self._opened.items())
        return opened - self.remembered() - self._forgotten

    def forget(self, connection: int) -> None:
        """Removes the sessions, the counts and what was learned of a cross-connection that is no more."""
        self._forgotten += sum(table.delete_of(connection) for table in self._sessions)
        for table in (self._fragments, self._learned, self._contests, self._drops):
            table.delete_of(connection)

    def _observed_links(self) -> Iterator[tuple[int, LinkEntry]]:
        for (slot,), (ifindex, connection, side, state, plain, _) in self._links.items():
            if state:
                yield slot, LinkEntry(ifindex, connection, Side(side), LinkState(state), paired=not plain)


def verdicts(dropped: bool = False) -> dict[int, str]:
    """Number → name of each verdict, or of those for frames dropped, as bpf/verdicts.h spells them."""
    wanted = r"/\* dropped" if dropped else ""
    found = re.findall(rf"\bVERDICT_(\w+) = (\d+),\s*{wanted}", (SOURCE / "verdicts.h").read_text())
    return {int(number): name.lower() for name, number in found}


class _Map:
    """A BPF map by its file descriptor, with keys and values as tuples. A per-CPU value reads as the sum over the CPUs,
    field by field, and is written to each."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self._key = _LAYOUTS[name].key
        self.key_size = self._key.size
        self._value = _LAYOUTS[name].value
        self._connection = _LAYOUTS[name].connection
        self._cpus = _possible_cpus() if _LAYOUTS[name].per_cpu else 1

    def get(self, key: _Fields) -> _Fields:
        """The value of a key that is there: an array's."""
        value = ctypes.create_string_buffer(self._value.size * self._cpus)
        self._expect(lib.bpf_lookup_elem(self.fd, self._key.pack(*key), value), "read")
        return next(self.values_in(value.raw))

    def put(self, key: _Fields, value: _Fields) -> None:
        self._expect(
            lib.bpf_update_elem(self.fd, self._key.pack(*key), self._value.pack(*value) * self._cpus, 0), "written"
        )

    def delete(self, key: _Fields) -> None:
        self._expect(lib.bpf_delete_elem(self.fd, self._key.pack(*key)), "deleted", or_error=errno.ENOENT)

    def delete_of(self, connection: int) -> int:
        """Removes what belongs to a cross-connection; how many elements that were."""
        keys = [key for key, _ in self.items() if key[self._connection] == connection]
        for key in keys:
            self.delete(key)
        return len(keys)

    def count(self) -> int:
        return sum(len(keys) // self._key.size for keys, _ in self.batches())

    def values(self) -> Iterator[_Fields]:
        return (value for _, value in self.items())

    def items(self) -> Iterator[tuple[_Fields, _Fields]]:
        for keys, values in self.batches():
            yield from zip(self._key.iter_unpack(keys), self.values_in(values), strict=True)

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """The packed keys and values, many elements at a time. What changes meanwhile may be seen or not."""
        return _batches(self.fd, self._key.size, self._value.size * self._cpus, self.name)

    def values_in(self, packed: bytes) -> Iterator[_Fields]:
        unpacked = self._value.iter_unpack(packed)
        if self._cpus == 1:
            return unpacked
        return (tuple(map(sum, zip(*each, strict=True))) for each in zip(*[unpacked] * self._cpus, strict=True))

    def key_at(self, packed: bytes, index: int) -> _Fields:
        return self._key.unpack_from(packed, index * self._key.size)

    def value_at(self, packed: bytes, index: int) -> _Fields:
        return self._value.unpack_from(packed, index * self._value.size)

    def fields(self, value: bytes) -> _Fields:
        """Of a value from a map of this name in another version."""
        return self._value.unpack_from(value.ljust(self._value.size, b"\0"))

    def add(self, key: bytes, fields: _Fields) -> None:
        """Unless there is one. Padding is left at zero: a session's stamps are, which are worth nothing beside other
        links."""
        own = self._value.pack(*fields)
        self._expect(lib.bpf_update_elem(self.fd, key, own, _NOEXIST), "written", or_error=errno.EEXIST)

    def _expect(self, failed: int, done: str, or_error: int = 0) -> None:
        _expect(self.name, failed, done, or_error)


_Fields = tuple[Any, ...]


def _expect(name: str, failed: int, done: str, or_error: int = 0) -> None:
    if failed and (reason := ctypes.get_errno()) != or_error:
        raise DatapathError(
            f"BPF map {name} can not be {done}: {os.strerror(reason)}; "
            "see that the agent runs privileged, and restart it"
        )


def _batches(fd: int, key_size: int, value_size: int, name: str) -> Iterator[tuple[bytes, bytes]]:
    most = max(_BATCH_BYTES // value_size, _LEAST_BATCH)
    keys, values = (ctypes.create_string_buffer(most * size) for size in (key_size, value_size))
    position, count = ctypes.c_uint32(), ctypes.c_uint32()
    begin, more = None, True
    while more:
        count.value = most
        failed = lib.bpf_lookup_batch(fd, begin, ctypes.byref(position), keys, values, ctypes.byref(count))
        _expect(name, failed, "read", or_error=errno.ENOENT)
        yield ctypes.string_at(keys, count.value * key_size), ctypes.string_at(values, count.value * value_size)
        begin, more = ctypes.byref(position), not failed


def _cut(packed: bytes, size: int) -> Iterator[bytes]:
    return (packed[at : at + size] for at in range(0, len(packed), size))


@dataclass(frozen=True, slots=True)
class _Info:
    """A map as the kernel knows it: of an earlier or a later version, say."""

    fd: int
    id: int
    name: str
    key_size: int
    value_size: int


def _info(fd: int) -> _Info:
    packed = ctypes.create_string_buffer(_MAP_INFO.size)
    _expect("?", lib.bpf_obj_get_info(fd, packed, ctypes.byref(ctypes.c_uint32(len(packed)))), "inspected")
    _, number, key_size, value_size, _, _, name = _MAP_INFO.unpack(packed.raw)
    return _Info(fd, number, name.rstrip(b"\0").decode(), key_size, value_size)


def _session_tables(program: int, cleanup: ExitStack) -> list[_Info]:
    """Of a loaded program; none when it has been unloaded meanwhile."""
    fd = lib.bpf_prog_get_fd_by_id(program)
    if fd < 0:
        return []
    cleanup.callback(os.close, fd)
    numbers = (ctypes.c_uint32 * _MOST_MAPS)()
    packed = ctypes.create_string_buffer(_PROGRAM_INFO.pack(_MOST_MAPS, ctypes.addressof(numbers)))
    size = ctypes.c_uint32(_PROGRAM_INFO.size)
    _expect("program", lib.bpf_obj_get_info(fd, packed, ctypes.byref(size)), "inspected")
    count, _ = _PROGRAM_INFO.unpack_from(packed.raw)
    tables = []
    for number in numbers[: min(count, _MOST_MAPS)]:
        held = lib.bpf_map_get_fd_by_id(number)
        if held >= 0:
            cleanup.callback(os.close, held)
            tables.append(_info(held))
    return tables


def _precedes(old: _Info, new: _Map, own: Collection[int]) -> bool:
    """It is another version's table of the same name, and of the same keys."""
    return old.id not in own and old.name == new.name and old.key_size == new.key_size


def _session(key: _Fields, value: _Fields) -> Session:
    _, _, upstream_port, downstream_port, protocol, _, connection = key
    upstream, downstream, last_seen, upstream_finished, downstream_finished, reset = value
    return Session(
        connection=connection,
        protocol=protocol,
        has_ports=upstream_port + downstream_port != bytes(4),
        upstream=upstream,
        downstream=downstream,
        last_seen_ns=last_seen,
        upstream_finished=bool(upstream_finished),
        downstream_finished=bool(downstream_finished),
        reset=bool(reset),
    )


def _give_memory_back() -> None:
    """What the compiler needed, a quarter of the agent's memory. It has also taught the allocator to keep large pieces,
    in which it expects more of the same: the pieces that a pass needs for a moment are to go back at once."""
    for threshold in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        _libc.mallopt(threshold, _LARGE_BYTES)
    _libc.malloc_trim(0)


def _compiled(flags: Sequence[str]) -> BPF:
    try:
        return BPF(src_file=bytes(SOURCE / f"{PROGRAM}.c"), cflags=list(flags))
    except Exception as error:
        raise DatapathError(
            f"{PROGRAM}.c does not compile, or its maps can not be made: {error}; what the compiler said stands above"
        ) from error


def _loaded(module: BPF) -> int:
    try:
        return os.dup(module.load_func(PROGRAM.encode(), BPF.SCHED_CLS).fd)
    except Exception as error:
        raise DatapathError(f"{error}; what the kernel said stands above; it needs Linux 5.11 or later") from error


def _map(module: BPF, name: str) -> _Map:
    return _Map(name, os.dup(lib.bpf_table_fd(module.module, name.encode())))


def _as_declared(module: BPF, name: str) -> bool:
    """Whether the map, which may have been pinned by an earlier version, is what the source declares."""
    info = (ctypes.c_uint32 * 5)()  # struct bpf_map_info: type, id, key_size, value_size, max_entries
    size = ctypes.c_uint32(ctypes.sizeof(info))
    if lib.bpf_obj_get_info(lib.bpf_table_fd(module.module, name.encode()), info, ctypes.byref(size)):
        raise DatapathError(f"BPF map {name} can not be inspected: {os.strerror(ctypes.get_errno())}")
    declared = (
        lib.bpf_table_key_size(module.module, name.encode()),
        lib.bpf_table_leaf_size(module.module, name.encode()),
        lib.bpf_table_max_entries(module.module, name.encode()),
    )
    return tuple(info[2:]) == declared


def _require_headers() -> None:
    headers = Path("/lib/modules") / platform.release() / "build"
    if not headers.exists():
        raise DatapathError(
            f"BCC finds no kernel headers: {headers} does not exist; install linux-headers-{platform.release()}, "
            "or link that path (and …/source) to the headers of another kernel"
        )


def _require_bpffs(path: Path) -> None:
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    _, kind = max((Path(point).parts, kind) for point, kind in mounts if path.absolute().is_relative_to(point))
    if kind != "bpf":
        raise DatapathError(f"{path} is not on a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf")


def _possible_cpus() -> int:
    """Per-CPU values have a copy for each CPU the kernel may ever see, not only for those online."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")
    return 1 + int(ranges[-1].split("-")[-1])


def _side_key(key: _Fields) -> tuple[int, Side]:
    return key[0], Side(key[1])


def _address(text: str) -> bytes:
    """16 bytes; IPv4 as ::ffff:a.b.c.d."""
    address = ipaddress.ip_address(text)
    return (bytes(10) + b"\xff\xff" if address.version == 4 else b"") + address.packed


def _address_text(packed: bytes) -> str:
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)

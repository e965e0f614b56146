"""A node without interfaces: the cross-connect program under BPF_PROG_TEST_RUN.

A test run cannot set tc_classid, so the program is compiled to read the sender's slot from the mark. Every link has
interface index 1, which a test run gives to a packet. A redirect only returns, so the program's counters show its
decision: the slot to which it sent the frame.

The program gets frames as from the kernel (delivery.c): any frame of 14 bytes or more, with the outermost VLAN tag
outside it.
"""

from __future__ import annotations

import ctypes
import functools
import re
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bcc import BPF
from scapy.packet import Packet

from controller.node.kernel.counters import verdicts
from controller.node.kernel.datapath import Datapath
from controller.node.kernel.hash_key import HashKey
from controller.node.kernel.maps import Map
from controller.node.kernel.session_table import PLACES, PROVEN
from controller.node.plane import maglev
from controller.node.plane.model import LinkEntry, LinkState
from controller.node.plane.sessions import DEFAULT_PATIENCE
from sfc.chain import Patience, Side
from tests.hash_key import HASH_KEY

TC_ACT_UNSPEC = -1
TC_ACT_SHOT = 2
TC_ACT_REDIRECT = 7

CONNECTION = 7
IFINDEX = 1

SLOT_FROM_MARK = "-DLINK_SLOT(skb)=((skb)->mark)"

_libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)


_LAST, _LAST_AT = struct.Struct("<QI"), 24
"""The offsets of last_seen and last_tick in a session, bpf/session.h."""
_MANY_TICKS = 10_000
_STANDING = 39
"""The offset of standing in a session, bpf/session.h."""
_ENDS, _OWNER = struct.Struct("<QQII"), ((1 << 19) - 1) << 44
"""The beginning of a session, its two ends and stamps, and the owner in an end."""

_DELIVERY = struct.Struct("<III36xII")
"""The beginning of struct __sk_buff for delivery.c: len, pkt_type, mark, … cb[0], cb[1]."""
_PROGRAM_ID, _VERIFIED_INSTRUCTIONS, _PROGRAM_INFO_BYTES = 4, 216, 232
"""Offsets in struct bpf_prog_info, and its size (linux/bpf.h)."""

DATAGRAM_PLACES = 256
"""FRAGMENT_PLACES in bpf/cross_connect.c; behind them are the places of pairs."""

_SESSIONS = {"session_table": 24, "wide_table": 48}
"""The tables, and the size of their keys."""
_ARRAYS = {
    *_SESSIONS,
    "holdings",
    "links",
    "traffic",
    "contests",
    "patience",
    "session_keys",
    "peers",
    "heard",
    "underlay",
}
_NOTES = {"activity", "hash_key_note", "tunnel_entry", "refusal_entry"}
"""Arrays that a test leaves as they are."""
_HEAD, _SESSION_SIZE = 48, 40
"""Bytes that a bucket begins with, and those of a session's value (bpf/table.h)."""
_SOMETHING = re.compile(rb"[^\0]")
_VERDICTS = verdicts()
_VLAN_TAGS = (b"\x81\x00", b"\x88\xa8")


@dataclass(frozen=True, slots=True)
class Outcome:
    action: int
    sent_to: int | None
    """The slot to which the frame was sent, or None."""
    frame: bytes
    """The frame after the program. A change of the outermost VLAN tag would not show."""


@dataclass(frozen=True, slots=True)
class Tally:
    """The program's counters: frames sent, by slot, and frames by named verdict."""

    sent: Counter[int]
    verdicts: Counter[str]

    def since(self, earlier: Tally) -> Tally:
        return Tally(self.sent - earlier.sent, self.verdicts - earlier.verdicts)


def shortest(frame: bytes) -> int:
    """The shortest part of the frame that the kernel delivers. It drops a VLAN tag without a type behind it."""
    return 20 if frame[12:14] in _VLAN_TAGS else 14


class Node:
    def __init__(
        self,
        pin_root: Path,
        capacity: int = 4096,
        cflags: Sequence[str] = (SLOT_FROM_MARK,),
        hash_key: HashKey = HASH_KEY,
        patience: Patience = DEFAULT_PATIENCE,
    ) -> None:
        self.datapath = Datapath.open(pin_root, capacity=capacity, cflags=cflags, hash_key=hash_key, patience=patience)
        self._slots = set(self.datapath.observe().links)

    def close(self) -> None:
        self.datapath.unpin()
        self.datapath.close()

    def reset(self) -> None:
        """Empties every map directly. The adapter, entry by entry, would take too long."""
        for name, table in self.datapath._maps.items():
            if name in _ARRAYS:
                _erase(table)
            elif name not in _NOTES:
                for key in [key for key, _ in table.items()]:
                    table.delete(key)
        self._slots.clear()

    def link(
        self,
        slot: int,
        side: Side,
        state: LinkState = LinkState.SERVING,
        connection: int = CONNECTION,
        ifindex: int = IFINDEX,
    ) -> None:
        self._slots.add(slot)
        self.datapath.set_link(slot, LinkEntry(ifindex, connection, side, state))

    def serve(self, side: Side, slots: Sequence[int], connection: int = CONNECTION) -> None:
        """Puts links into the targets of a side. Their identities are the same on both sides."""
        table = maglev.table((f"replica-{index}", slot) for index, slot in enumerate(slots))
        for slot in slots:
            self.link(slot, side, connection=connection)
        self.datapath.set_targets(connection, side, table)

    def deliver(self, slot: int, frame: Packet | bytes) -> tuple[int, bytes]:
        """Sends a frame from the replica behind `slot`; the tc action, and the outcome."""
        whole = bytes(frame)
        tag, data = _split_tag(whole)
        context = _DELIVERY.pack(0, 0, slot, int.from_bytes(tag), len(data))
        padded = data.ljust(_least(data), b"\0")
        action, out, _ = _test_run(_delivery_to(self.datapath.program_fd), context, padded)
        return action, out[:12] + tag + out[12:]

    def send(self, slot: int, frame: Packet | bytes) -> Outcome:
        """Sends a frame from the replica behind `slot`; the outcome."""
        before = self._frames_sent()
        action, out = self.deliver(slot, frame)
        raised = self._frames_sent() - before
        assert raised.total() <= 1
        return Outcome(action, next(iter(raised), None), out)

    def receiver(self, slot: int, frame: Packet | bytes) -> int:
        """The slot that gets the frame, which must not be dropped."""
        outcome = self.send(slot, frame)
        assert (outcome.action, outcome.sent_to is not None) == (TC_ACT_REDIRECT, True)
        return outcome.sent_to or 0

    def age_of_learned(self, seconds: int) -> None:
        """Makes all learned neighbours so many seconds old."""
        learned, now = self.datapath._learned, time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for key, (*about, mac, _) in list(learned.items()):
            learned.put(key, (*about, mac, now - seconds * 1_000_000_000))

    def age_of_fragments(self, seconds: int) -> None:
        """Makes all that is noted of fragments older by so many seconds."""
        fragments = self.datapath._maps["fragments"]
        for key, (*about, at, early, last) in list(fragments.items()):
            fragments.put(key, (*about, at - seconds * 1_000_000_000, early, last))

    def forget_pairs(self) -> None:
        """Removes what is noted of pairs of addresses between which fragments went."""
        fragments = self.datapath._maps["fragments"]
        for slot, place in [key for key, _ in fragments.items()]:
            if place >= DATAGRAM_PLACES:
                fragments.delete((slot, place))

    def age_of_sessions(self, seconds: int) -> None:
        """Makes every session silent for so many seconds. It writes the map itself: the adapter writes no session."""

        def age(value: bytearray) -> None:
            last_seen, last_tick = _LAST.unpack_from(value, _LAST_AT)
            earlier = (last_seen - seconds * 1_000_000_000, (last_tick - _MANY_TICKS) & 0xFFFFFFFF)
            _LAST.pack_into(value, _LAST_AT, *earlier)

        self._change_sessions(age)

    def leave_no_room(self) -> None:
        """Fills every place for plain IPv4 with a session of nobody that has proved itself."""
        table = self.datapath._maps["session_table"]
        value = bytearray(_SESSION_SIZE)
        value[_STANDING] = PROVEN
        place = bytes(_SESSIONS["session_table"]) + bytes(value)
        tags = b"\x00\x80" * PLACES
        for key, _ in list(table.items()):
            table.put(key, ((bytes(_HEAD - len(tags)) + tags + place * PLACES),))

    def ends_without_owner(self) -> set[int]:
        """Makes every session one of a version that wrote no owner into its ends; these ends."""

        def disown(value: bytearray) -> None:
            upstream, downstream, *_ = _ENDS.unpack_from(value)
            _ENDS.pack_into(value, 0, upstream & ~_OWNER, downstream & ~_OWNER, 0, 0)

        self._change_sessions(disown)
        return self.ends()

    def ends(self) -> set[int]:
        """Both ends of every session."""
        return {end for session in self.datapath.sessions() for end in (session.upstream, session.downstream)}

    def forget_sessions(self) -> None:
        """Empties both session tables."""
        for name in (*_SESSIONS, "holdings"):
            _erase(self.datapath._maps[name])

    def _change_sessions(self, change: Callable[[bytearray], None]) -> None:
        for name, key_size in _SESSIONS.items():
            table = self.datapath._maps[name]
            for key, (bucket,) in list(table.items()):
                changed = bytearray(bucket)
                for at in range(_HEAD + key_size, len(bucket), key_size + _SESSION_SIZE):
                    value = changed[at : at + _SESSION_SIZE]
                    if any(value):
                        change(value)
                    changed[at : at + _SESSION_SIZE] = value
                if any(bucket):
                    table.put(key, (bytes(changed),))

    @property
    def program(self) -> int:
        """The kernel's id of the program."""
        return program_id(self.datapath.program_fd)

    def tally(self) -> Tally:
        told: Counter[str] = Counter()
        for (_, verdict), (count,) in self.datapath._maps["drops"].items():
            told[_VERDICTS[verdict]] += count
        return Tally(self._frames_sent(), told)

    def _frames_sent(self) -> Counter[int]:
        traffic = self.datapath.counters.traffic(self._slots)
        return Counter({slot: counted.sent_packets for slot, counted in traffic.items()})


def _erase(array: Map) -> None:
    """Writes zeros where something else is."""
    for keys, values in array.batches():
        at = 0
        while found := _SOMETHING.search(values, at):
            size = len(values) * array.key_size // len(keys)
            number = found.start() // size
            key = struct.unpack_from("<I", keys, number * array.key_size)
            array.put(key, tuple(bytes(len(f)) if isinstance(f, bytes) else 0 for f in array.get(key)))
            at = (number + 1) * size


def program_id(program_fd: int) -> int:
    """The kernel's id of a program."""
    return _program_info(program_fd, _PROGRAM_ID)


def verified_instructions(program_fd: int) -> int:
    """How many instructions the verifier went through to accept the program, on all paths together."""
    return _program_info(program_fd, _VERIFIED_INSTRUCTIONS)


def _program_info(program_fd: int, at: int) -> int:
    """A number of 32 bits in the kernel's description of a program, struct bpf_prog_info."""
    info = ctypes.create_string_buffer(_PROGRAM_INFO_BYTES)
    size = ctypes.c_uint32(len(info))
    assert not _libbpf.bpf_obj_get_info_by_fd(program_fd, info, ctypes.byref(size))
    assert size.value >= at + 4, "this kernel does not tell"
    return int.from_bytes(info.raw[at : at + 4], sys.byteorder)


def _split_tag(frame: bytes) -> tuple[bytes, bytes]:
    """(outermost VLAN tag, or nothing; the frame without it)."""
    if len(frame) < shortest(frame):
        raise ValueError(f"a frame of {len(frame)} bytes never reaches the program; give it {shortest(frame)} at least")
    return (frame[12:16], frame[:12] + frame[16:]) if frame[12:14] in _VLAN_TAGS else (b"", frame)


@functools.cache
def _delivery() -> BPF:
    return BPF(src_file=bytes(Path(__file__).with_name("delivery.c")))


def _delivery_to(program_fd: int) -> int:
    """The descriptor of the program that delivers frames to another program."""
    _delivery()[b"program"][ctypes.c_int(0)] = ctypes.c_int(program_fd)
    return _delivery().load_func(b"deliver", BPF.SCHED_CLS).fd  # type: ignore[no-any-return]


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


class Runs:
    """Many test runs of one program. It is as `Node.deliver`, without new buffers each time; only one node at a time
    may deliver frames."""

    def __init__(self, program_fd: int) -> None:
        self._fd = _delivery_to(program_fd)
        self._out, self._context = ctypes.create_string_buffer(4096), ctypes.create_string_buffer(256)
        self._options = _Options(
            sz=ctypes.sizeof(_Options),
            data_out=ctypes.addressof(self._out),
            ctx_out=ctypes.addressof(self._context),
            ctx_size_in=_DELIVERY.size,
            repeat=1,
        )
        self._reference = ctypes.byref(self._options)

    def deliver(self, slot: int, frame: bytes) -> tuple[int, bytes, bytes]:
        """(tc action, the frame afterwards, struct __sk_buff afterwards)."""
        tag, data = _split_tag(frame)
        padded = data.ljust(_least(data), b"\0")
        options = self._options
        options.data_in, options.data_size_in = padded, len(padded)
        options.ctx_in = _DELIVERY.pack(0, 0, slot, int.from_bytes(tag), len(data))
        options.data_size_out, options.ctx_size_out = len(self._out), len(self._context)
        if error := _libbpf.bpf_prog_test_run_opts(self._fd, self._reference):
            raise OSError(-error, f"test run of a frame of {len(frame)} bytes failed")
        out = ctypes.string_at(self._out, options.data_size_out)
        return (
            ctypes.c_int32(options.retval).value,
            out[:12] + tag + out[12:],
            self._context.raw[: options.ctx_size_out],
        )


def test_run(program_fd: int, mark: int, frame: bytes, repeat: int = 1) -> tuple[int, bytes, int]:
    """(action, frame afterwards, nanoseconds per run)."""
    return _test_run(program_fd, struct.pack("<III", 0, 0, mark), frame, repeat)


test_run.__test__ = False  # type: ignore[attr-defined]


def _test_run(program_fd: int, context: bytes, frame: bytes, repeat: int = 1) -> tuple[int, bytes, int]:
    """`context` is the beginning of a struct __sk_buff: len, pkt_type, mark … The kernel refuses frames shorter than
    `_least`."""
    out = ctypes.create_string_buffer(len(frame) + 256)
    options = _Options(
        sz=ctypes.sizeof(_Options),
        data_in=frame,
        data_size_in=len(frame),
        data_out=ctypes.cast(out, ctypes.c_void_p),
        data_size_out=len(out),
        ctx_in=context,
        ctx_size_in=len(context),
        repeat=repeat,
    )
    if error := _libbpf.bpf_prog_test_run_opts(program_fd, ctypes.byref(options)):
        raise OSError(-error, f"test run of a frame of {len(frame)} bytes failed")
    return ctypes.c_int32(options.retval).value, out.raw[: options.data_size_out], options.duration


def _least(frame: bytes) -> int:
    """The shortest frame that a test run accepts: Ethernet and, by its type, a whole IP header without options."""
    return 14 + {b"\x08\x00": 20, b"\x86\xdd": 40}.get(frame[12:14], 0)

"""A node without interfaces: the cross-connect program under BPF_PROG_TEST_RUN.

A test run can not set tc_classid, so the program is compiled to read the sender's slot from the mark. Every link has
interface index 1, the one a test run gives a packet, and a redirect does nothing but return: what the program decided
is read from its counters, as the slot that the frame was sent to.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scapy.packet import Packet

from controller import maglev
from controller.datapath import Datapath
from controller.model import LinkEntry, LinkState
from sfc.chain import Side

TC_ACT_UNSPEC = -1
TC_ACT_SHOT = 2
TC_ACT_REDIRECT = 7

CONNECTION = 7
IFINDEX = 1

SLOT_FROM_MARK = "-DLINK_SLOT(skb)=((skb)->mark)"

_libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)


@dataclass(frozen=True, slots=True)
class Outcome:
    action: int
    sent_to: int | None
    """The slot whose counter of frames sent went up."""
    frame: bytes
    """As the program left it."""


class Node:
    def __init__(self, pin_root: Path, capacity: int = 4096, cflags: Sequence[str] = (SLOT_FROM_MARK,)) -> None:
        self.datapath = Datapath.open(pin_root, capacity=capacity, cflags=cflags)
        self._slots = set(self.datapath.observe().links)

    def close(self) -> None:
        self.datapath.unpin()
        self.datapath.close()

    def reset(self) -> None:
        """Empties every map."""
        state = self.datapath.observe()
        connections = {session.connection for session in self.datapath.sessions()}
        for slot in state.links:
            self.datapath.clear_link(slot)
        self._slots.clear()
        for side in state.targets:
            self.datapath.clear_targets(*side)
        for neighbour in state.neighbours:
            self.datapath.clear_neighbour(*neighbour)
        for connection in connections | {
            connection for connection, _ in self.datapath.drops() | self.datapath.remarks()
        }:
            self.datapath.forget(connection)

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
        """Puts links into the targets of a side, under identities that are the same on every side."""
        table = maglev.table((f"replica-{index}", slot) for index, slot in enumerate(slots))
        for slot in slots:
            self.link(slot, side, connection=connection)
        self.datapath.set_targets(connection, side, table)

    def send(self, slot: int, frame: Packet | bytes) -> Outcome:
        """What becomes of a frame that the replica behind `slot` sends."""
        before = self._frames_sent()
        action, out, _ = test_run(self.datapath.program_fd, slot, bytes(frame))
        after = self._frames_sent()
        raised = [each for each, count in after.items() if count > before[each]]
        assert len(raised) <= 1
        return Outcome(action, raised[0] if raised else None, out)

    def receiver(self, slot: int, frame: Packet | bytes) -> int:
        """The slot that gets a frame which must not be dropped."""
        outcome = self.send(slot, frame)
        assert (outcome.action, outcome.sent_to is not None) == (TC_ACT_REDIRECT, True)
        return outcome.sent_to or 0

    def _frames_sent(self) -> dict[int, int]:
        return {slot: traffic.sent_packets for slot, traffic in self.datapath.traffic(self._slots).items()}


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


def test_run(program_fd: int, mark: int, frame: bytes, repeat: int = 1) -> tuple[int, bytes, int]:
    """(action, frame afterwards, nanoseconds per run). The kernel refuses a frame shorter than `shortest`."""
    out = ctypes.create_string_buffer(len(frame) + 256)
    context = struct.pack("<III", 0, 0, mark)  # struct __sk_buff: len, pkt_type, mark
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


def shortest(frame: bytes) -> int:
    """What a test run wants at least: Ethernet, and by its type a whole IP header without options."""
    return 14 + {b"\x08\x00": 20, b"\x86\xdd": 40}.get(frame[12:14], 0)


test_run.__test__ = False  # type: ignore[attr-defined]

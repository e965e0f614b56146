"""Nanoseconds that a packet costs in the program alone, under BPF_PROG_TEST_RUN.

The kernel repeats the program on one frame. Its loop is part of every figure; the empty program costs nothing else.
Where every frame should be the first of its kind, the program itself changes the frame before each run (renew.h).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bcc import BPF
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP
from scapy.packet import Packet

from benchmarks.bpffs import private_bpffs
from benchmarks.report import QUICK, Report, Target, machine, ratio
from controller.node.kernel.datapath import CAPACITY, Datapath
from controller.node.kernel.program import OPTIMIZED_ONCE
from controller.node.plane import maglev
from controller.node.plane.model import LinkEntry, LinkState
from controller.node.plane.numbers import Numbered
from sfc.chain import Side
from tests.bpf.frames import ADDRESS, ADDRESS6, BROADCAST, MAC, ether, ip, last_fragment, tcp
from tests.bpf.node import CONNECTION, IFINDEX, SLOT_FROM_MARK, TC_ACT_REDIRECT, test_run
from tests.hash_key import HASH_KEY

HERE = Path(__file__).resolve().parent
ROUNDS = 7 if QUICK else 101
REPEAT = 20_000 if QUICK else 100_000
COPIES = 2 if QUICK else 6
"""Of each program; rounds use them in turn. The place in memory that the kernel gives a program can change its figure
by up to three nanoseconds."""
NEW_SESSIONS = 1_000
"""New sessions a round. All rounds together fill less than half of the table, so that no session is evicted."""

TC_ACT_OK = 0

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
SENDER, RECEIVER = 3, 4
EMPTY, FLOOR, OURS = "empty program", "floor program", "ours, known IPv4/TCP session"
NEW, IPV6 = "ours, new session", "ours, IPv6"
TARGETS = {
    "ours/floor": Target(1.10, at_most=True),
    "new/known": Target(3.5, at_most=True),
    "ipv6/ipv4": Target(1.10, at_most=True),
}
NOTES = (
    "Every figure contains the kernel's loop around the program, which is all that the empty program costs. The kernel "
    "truncates figures to whole nanoseconds.",
    "In a test run all frames have interface index 1, so ours reads its slot from the mark. Each is one load from the "
    "packet's own structure, so the figure needs no correction.",
    "New session and ARP request include 1 to 2 ns for making each run the first of its kind. New sessions go into a "
    "table that was full before: the first use of its memory would cost as much again.",
    "A redirect only returns here. The forwarding benchmark measures the redirect itself.",
)


@dataclass(frozen=True, slots=True)
class Case:
    """A program and a frame to measure it with."""

    name: str
    program_fds: Sequence[int]
    """The same program, loaded several times."""
    frame: bytes
    action: int
    """The tc action that the program must return."""
    repeat: int = REPEAT
    """Runs a round."""
    renewed: bool = False
    """Each run has the next source address (renew.h), and so has each round."""

    def measure(self, number: int) -> float:
        """Nanoseconds a run, in the round of that number; RuntimeError when the action is another."""
        program_fd = self.program_fds[number % len(self.program_fds)]
        frame = from_address(self.frame, number * self.repeat) if self.renewed else self.frame
        action, _, nanoseconds = test_run(program_fd, SENDER, frame, self.repeat)
        if action != self.action:
            raise RuntimeError(f"{self.name}: the program returned {action} instead of {self.action}")
        return nanoseconds


def main() -> None:
    """ROUNDS times all cases in turn, on one CPU."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    described = machine()
    with ExitStack() as cleanup:
        cases = list(_cases(cleanup))
        for number in range(-COPIES, 0):
            for case in cases:
                case.measure(number)
        figures: dict[str, list[float]] = {case.name: [] for case in cases}
        for number in range(ROUNDS):
            for case in cases:
                figures[case.name].append(case.measure(number))

    net = {name: [a - b for a, b in zip(figures[name], figures[EMPTY], strict=True)] for name in (OURS, FLOOR)}
    ratios = {
        "ours/floor": ratio(figures, OURS, FLOOR),
        "ours/floor without the empty program": ratio(net, OURS, FLOOR),
        "new/known": ratio(figures, NEW, OURS),
        "ipv6/ipv4": ratio(figures, IPV6, OURS),
    }
    Report("program", described, {"ns per packet": figures}, ratios, TARGETS, NOTES).publish()


def _cases(cleanup: ExitStack) -> Iterator[Case]:
    bpffs = cleanup.enter_context(private_bpffs())
    known = bytes(tcp(UP))
    floors = [_floor(known) for _ in range(COPIES)]
    for floor in floors:
        cleanup.callback(floor.cleanup)

    def ours(name: str, cflags: Sequence[str], fill: bytes = b"") -> int:
        datapath = Datapath.open(bpffs / name, CAPACITY, cflags, hash_key=HASH_KEY)
        cleanup.callback(datapath.close)
        cleanup.callback(datapath.unpin)
        _wire(datapath)
        if fill:
            test_run(datapath.program_fd, SENDER, from_address(fill, CAPACITY), 2 * CAPACITY)
            datapath.session_tables.forget(CONNECTION)
        return datapath.program_fd

    plain = [ours(f"plain{number}", [SLOT_FROM_MARK]) for number in range(COPIES)]
    renew = ["-include", f"{HERE}/renew.h"]
    syn = bytes(tcp(UP, flags="S"))
    session = [ours("session", [*renew, "-DRENEW_SESSION"], fill=syn)]
    question = [ours("question", [*renew, "-DRENEW_QUESTION"])]
    yield Case(EMPTY, [each.load_func(b"empty", BPF.SCHED_CLS).fd for each in floors], known, TC_ACT_OK)
    yield Case(FLOOR, [each.load_func(b"session_floor", BPF.SCHED_CLS).fd for each in floors], known, TC_ACT_REDIRECT)
    yield Case(OURS, plain, known, TC_ACT_REDIRECT)
    yield Case(NEW, session, syn, TC_ACT_REDIRECT, NEW_SESSIONS, renewed=True)
    yield Case(IPV6, plain, bytes(_ipv6()), TC_ACT_REDIRECT)
    yield Case("ours, fragment", plain, bytes(last_fragment(UP)), TC_ACT_REDIRECT)
    yield Case("ours, ICMP error", plain, bytes(_icmp_error()), TC_ACT_REDIRECT)
    yield Case("ours, ARP request", question, bytes(_question()), TC_ACT_REDIRECT)


def from_address(frame: bytes, number: int) -> bytes:
    """The frame from the source address that comes so many after its own, as renew.h counts."""
    address = int.from_bytes(frame[26:30], "little") + number
    return frame[:26] + (address & 0xFFFFFFFF).to_bytes(4, "little") + frame[30:]


def _wire(datapath: Datapath) -> None:
    """Makes one link on each side, and an answer to an ARP request for either address."""
    datapath.set_number(CONNECTION, Numbered("5d0c8c4e-7f0a-4a39-9a51-3a6d3f0c7b11", "default", "web-0"))
    for slot, side in ((SENDER, UP), (RECEIVER, DOWN)):
        datapath.set_link(slot, LinkEntry(IFINDEX, CONNECTION, side, LinkState.SERVING))
        datapath.set_targets(CONNECTION, side, maglev.table([("replica", slot)]))
        datapath.set_neighbour(CONNECTION, UP, ADDRESS[side], MAC[side])


def _floor(frame: bytes) -> BPF:
    program = BPF(src_file=bytes(HERE / "floor.c"), cflags=[*OPTIMIZED_ONCE, f"-DSESSION_CAPACITY={CAPACITY}"])
    sessions = program["sessions"]
    key, value = sessions.Key(), sessions.Leaf()
    parsed = IP(frame[14:])
    key.source, key.destination = (int.from_bytes(frame[at : at + 4], "little") for at in (26, 30))
    key.source_port, key.destination_port = (int.from_bytes(frame[at : at + 2], "little") for at in (34, 36))
    key.protocol = parsed.proto
    value.ifindex = IFINDEX
    sessions[key] = value
    return program


def _ipv6() -> Packet:
    return ether(UP) / IPv6(src=ADDRESS6[UP], dst=ADDRESS6[DOWN]) / TCP(sport=20000, dport=80, flags="A") / b"data"


def _icmp_error() -> Packet:
    """The upstream host's ICMP error about a TCP packet that it received."""
    return ip(UP) / ICMP(type="dest-unreach", code=4) / bytes(tcp(DOWN)[IP])[:28]


def _question() -> Packet:
    return ether(UP, dst=BROADCAST) / ARP(op="who-has", hwsrc=MAC[UP], psrc=ADDRESS[UP], pdst=ADDRESS[DOWN])

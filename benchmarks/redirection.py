"""How many sessions change replica when their stage scales by one: ours, and what a hash modulo the replicas does.

The real program chooses, under BPF_PROG_TEST_RUN; ways differ in what stands in the targets' table and in what happens
to the replica that leaves. Each session sends a packet, the stage scales, each sends another. Once the session table
holds every session, once it is full, with room for a quarter: what was evicted has to be chosen again.

A session that moves is one whose two packets went to different replicas. When the stage grows, none has to. When it
shrinks without drain, those of the replica that leaves have to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from socket import IPPROTO_TCP
from uuid import UUID

from benchmarks.bpffs import private_bpffs
from benchmarks.report import QUICK, Report, Spread, Target, machine
from controller.node.kernel.datapath import Datapath
from controller.node.plane import maglev
from controller.node.plane.model import SLOTS, LinkEntry, LinkState
from sfc.chain import Side
from tests.bpf.frames import tcp
from tests.bpf.node import CONNECTION, IFINDEX, SLOT_FROM_MARK, TC_ACT_REDIRECT, test_run

ROUNDS = 3 if QUICK else 7
SESSIONS = 1_000 if QUICK else 4_000
REPLICAS = (1, 2, 4, 8, 16, 32)
"""Of the stage before it grows, and after it has shrunk."""
SENDER = 1
FIRST = 10
"""The first replica's slot."""
SOURCE = slice(26, 30)
"""Of an IPv4 frame."""
ROOMS = {"every session remembered": 2.0, "table full": 0.25}
"""Room in the session table, of the sessions there are."""
OURS = "ours"
UNIT = "% of the sessions that change replica"
NOTES = (
    "Ours: Maglev table, and a replica that leaves is drained. The others remove it at once, as the paper does; modulo "
    "puts the replicas into the table in turn.",
    "The full table has room for a quarter of the sessions, and each session is evicted before its next packet; "
    "those of the replica that left have to move then, whatever the way.",
)


Replicas = Sequence[tuple[str, int]]
"""(identity, slot)"""


def by_maglev(replicas: Replicas) -> bytes:
    return maglev.table(replicas)


def by_modulo(replicas: Replicas) -> bytes:
    slots = [slot for _, slot in replicas]
    return struct.pack(f"<{maglev.LENGTH}H", *(slots[entry % len(slots)] for entry in range(maglev.LENGTH)))


@dataclass(frozen=True, slots=True)
class Way:
    table: Callable[[Replicas], bytes]
    leaving: LinkState


WAYS = {
    OURS: Way(by_maglev, LinkState.DRAINING),
    "Maglev, no drain": Way(by_maglev, LinkState.GONE),
    "modulo": Way(by_modulo, LinkState.GONE),
}
EVENTS = ("out", "in")


def main() -> None:
    described = machine()
    figures: dict[str, list[float]] = {name(*key): [] for key in product(WAYS, EVENTS, ROOMS, REPLICAS)}
    with ExitStack() as cleanup:
        bpffs = cleanup.enter_context(private_bpffs())
        datapaths = {room: _datapath(bpffs / f"v{i}", room, cleanup) for i, room in enumerate(ROOMS)}
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", flush=True)
            for (room, datapath), replicas, (way, rules) in product(datapaths.items(), REPLICAS, WAYS.items()):
                for event, share in _scaled(datapath, rules, replicas, number).items():
                    figures[name(way, event, room, replicas)].append(share)
    ratios = {f"{OURS}, most moved, {room}": _most(figures, room) for room in ROOMS}
    targets = {f"{OURS}, most moved, {next(iter(ROOMS))}": Target(0.0, at_most=True)}
    Report("redirection", described, {UNIT: figures}, ratios, targets, NOTES).publish()


def name(way: str, event: str, room: str, replicas: int) -> str:
    fewer, more = (replicas, replicas + 1) if event == "out" else (replicas + 1, replicas)
    return f"{way}, {fewer} → {more}, {room}"


def _most(figures: Mapping[str, Sequence[float]], room: str) -> Spread:
    """Of all events, by round."""
    found = [figures[name(OURS, event, room, replicas)] for event in EVENTS for replicas in REPLICAS]
    return Spread.of([max(of_round) for of_round in zip(*found, strict=True)])


def _datapath(pins: Path, room: str, cleanup: ExitStack) -> Datapath:
    datapath = Datapath.open(pins, int(SESSIONS * ROOMS[room]), [SLOT_FROM_MARK])
    cleanup.callback(datapath.close)
    cleanup.callback(datapath.unpin)
    return datapath


def _scaled(datapath: Datapath, way: Way, replicas: int, number: int) -> dict[str, float]:
    """% of the sessions that move when one replica more comes, and when the first of as many leaves."""
    present = [(str(UUID(int=(number << 64) + (i + 1) * 0x9E3779B97F4A7C15)), FIRST + i) for i in range(replicas + 1)]
    datapath.set_link(SENDER, LinkEntry(IFINDEX, CONNECTION, Side.UPSTREAM, LinkState.SERVING))
    frames = list(islice(_frames(number), SESSIONS))

    def moved(before: Replicas, after: Replicas) -> float:
        datapath.forget(CONNECTION)
        for _, slot in present:
            _enter(datapath, slot, LinkState.SERVING)
        datapath.set_targets(CONNECTION, Side.DOWNSTREAM, way.table(before))
        first = _receivers(datapath, frames)
        datapath.set_targets(CONNECTION, Side.DOWNSTREAM, way.table(after))
        for _, slot in set(before) - set(after):
            _enter(datapath, slot, way.leaving)
        second = _receivers(datapath, frames)
        return 100 * sum(a != b for a, b in zip(first, second, strict=True)) / len(frames)

    return {"out": moved(present[:-1], present), "in": moved(present, present[1:])}


def _enter(datapath: Datapath, slot: int, state: LinkState) -> None:
    datapath.set_link(slot, LinkEntry(IFINDEX, CONNECTION, Side.DOWNSTREAM, state))


def _frames(number: int) -> Iterator[bytes]:
    """One of each session; other sessions in each round."""
    whole = bytes(tcp(Side.UPSTREAM))
    for host in range(1 << 20):
        yield whole[: SOURCE.start] + struct.pack(">I", (10 << 24) + (number << 20) + host) + whole[SOURCE.stop :]


def _receivers(datapath: Datapath, frames: Sequence[bytes]) -> list[int]:
    """The slot that each frame went to, read from its session at once, before that can be evicted."""
    return [_receiver(datapath, frame) for frame in frames]


def _receiver(datapath: Datapath, frame: bytes) -> int:
    action, _, _ = test_run(datapath.program_fd, SENDER, frame)
    if action != TC_ACT_REDIRECT:
        raise RuntimeError(f"the program returned {action} instead of {TC_ACT_REDIRECT}")
    key = (frame[26:30], frame[30:34], frame[34:36], frame[36:38], IPPROTO_TCP, 0, CONNECTION)
    end: int = datapath._sessions[0].get(key)[Side.DOWNSTREAM]
    return end >> 32 & (SLOTS - 1)

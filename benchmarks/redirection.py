"""How many sessions change replica when their stage scales by one: with ours, and with a hash modulo the replicas.

The real program chooses the replica, under BPF_PROG_TEST_RUN. The ways differ in the content of the targets' table, and
in what happens to a replica that leaves. Each session sends a packet, the stage scales, each session sends another. One
run has room for every session in the session table; the other has room for a quarter, and evicts the rest.

A session moves when its two packets go to different replicas. When the stage grows, no session has to move. When it
shrinks without a drain, those of the replica that leaves have to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from uuid import UUID

from benchmarks.bpffs import private_bpffs
from benchmarks.report import QUICK, Report, Spread, Target, machine
from controller.node.kernel.datapath import Datapath
from controller.node.plane import maglev
from controller.node.plane.model import LinkEntry, LinkState
from sfc.chain import Side
from tests.bpf.frames import tcp
from tests.bpf.node import CONNECTION, IFINDEX, SLOT_FROM_MARK, TC_ACT_REDIRECT, test_run
from tests.hash_key import HASH_KEY

ROUNDS = 3 if QUICK else 7
SESSIONS = 1_000 if QUICK else 4_000
REPLICAS = (1, 2, 4, 8, 16, 32)
"""Replicas of the stage before it grows, and after it has shrunk."""
SENDER = 1
FIRST = 10
"""The first replica's slot."""
SOURCE = slice(26, 30)
"""The bytes of a frame that hold the IPv4 source address."""
ROOMS = {"every session remembered": 2.0, "table full": 0.25}
"""Room in the session table, as a multiple of the sessions that exist."""
OURS = "ours"
UNIT = "% of the sessions that change replica"
NOTES = (
    "Ours: a Maglev table, and a replica that leaves drains. The others remove it at once, as the paper does; modulo "
    "fills the table with the replicas in turn.",
    "The full table has room for a quarter of the sessions, and each session is evicted before its next packet. So the "
    "sessions of the replica that left have to move, in every way.",
)


Replicas = Sequence[tuple[str, int]]
"""(identity, slot)"""


def by_maglev(replicas: Replicas) -> bytes:
    """The targets' table that the node agent writes."""
    return maglev.table(replicas)


def by_modulo(replicas: Replicas) -> bytes:
    """A targets' table that sends a session to its hash modulo the replicas."""
    slots = [slot for _, slot in replicas]
    return struct.pack(f"<{maglev.LENGTH}H", *(slots[entry % len(slots)] for entry in range(maglev.LENGTH)))


@dataclass(frozen=True, slots=True)
class Way:
    """A way to choose replicas."""

    table: Callable[[Replicas], bytes]
    leaving: LinkState
    """The state of a replica that leaves."""


WAYS = {
    OURS: Way(by_maglev, LinkState.DRAINING),
    "Maglev, no drain": Way(by_maglev, LinkState.GONE),
    "modulo": Way(by_modulo, LinkState.GONE),
}
EVENTS = ("out", "in")


def main() -> None:
    """ROUNDS times all ways, rooms and numbers of replicas, each round with other sessions."""
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
    """The name of a figure; `replicas` is the smaller number."""
    fewer, more = (replicas, replicas + 1) if event == "out" else (replicas + 1, replicas)
    return f"{way}, {fewer} → {more}, {room}"


def _most(figures: Mapping[str, Sequence[float]], room: str) -> Spread:
    """The largest share of any event in a round, over the rounds."""
    found = [figures[name(OURS, event, room, replicas)] for event in EVENTS for replicas in REPLICAS]
    return Spread.of([max(of_round) for of_round in zip(*found, strict=True)])


def _datapath(pins: Path, room: str, cleanup: ExitStack) -> Datapath:
    datapath = Datapath.open(pins, int(SESSIONS * ROOMS[room]), [SLOT_FROM_MARK], hash_key=HASH_KEY)
    cleanup.callback(datapath.close)
    cleanup.callback(datapath.unpin)
    return datapath


def _scaled(datapath: Datapath, way: Way, replicas: int, number: int) -> dict[str, float]:
    """By event, the percentage of sessions that move: when a replica is added, and when the first one leaves."""
    present = [(str(UUID(int=(number << 64) + (i + 1) * 0x9E3779B97F4A7C15)), FIRST + i) for i in range(replicas + 1)]
    datapath.set_link(SENDER, LinkEntry(IFINDEX, CONNECTION, Side.UPSTREAM, LinkState.SERVING))
    frames = list(islice(_frames(number), SESSIONS))

    def moved(before: Replicas, after: Replicas) -> float:
        datapath.forget(CONNECTION)
        datapath.sweep()
        slots = [slot for _, slot in present]
        for slot in slots:
            _enter(datapath, slot, LinkState.SERVING)
        datapath.set_targets(CONNECTION, Side.DOWNSTREAM, way.table(before))
        first = _receivers(datapath, frames, slots)
        datapath.set_targets(CONNECTION, Side.DOWNSTREAM, way.table(after))
        for _, slot in set(before) - set(after):
            _enter(datapath, slot, way.leaving)
        second = _receivers(datapath, frames, slots)
        return 100 * sum(a != b for a, b in zip(first, second, strict=True)) / len(frames)

    return {"out": moved(present[:-1], present), "in": moved(present, present[1:])}


def _enter(datapath: Datapath, slot: int, state: LinkState) -> None:
    datapath.set_link(slot, LinkEntry(IFINDEX, CONNECTION, Side.DOWNSTREAM, state))


def _frames(number: int) -> Iterator[bytes]:
    """One frame of each session. Each round has other sessions."""
    whole = bytes(tcp(Side.UPSTREAM))
    for host in range(1 << 20):
        yield whole[: SOURCE.start] + struct.pack(">I", (10 << 24) + (number << 20) + host) + whole[SOURCE.stop :]


def _receivers(datapath: Datapath, frames: Sequence[bytes], slots: Collection[int]) -> list[int]:
    """The slot that each frame went to, read from the counters of `slots`."""
    reached, before = [], datapath.counters.traffic(slots)
    for frame in frames:
        action, _, _ = test_run(datapath.program_fd, SENDER, frame)
        if action != TC_ACT_REDIRECT:
            raise RuntimeError(f"the program returned {action} instead of {TC_ACT_REDIRECT}")
        after = datapath.counters.traffic(slots)
        (slot,) = [slot for slot in slots if after[slot].sent_packets > before[slot].sent_packets]
        reached.append(slot)
        before = after
    return reached

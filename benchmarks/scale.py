"""How the cost of the node agent and of its program grows with cross-connections, replicas a side, and sessions.

The agent is measured by full_node.py, in a new process for each size. The program's figure is nanoseconds a packet
under BPF_PROG_TEST_RUN, where each packet belongs to the next of so many known sessions (renew.h).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import full_node
from benchmarks.bpffs import private_bpffs
from benchmarks.report import QUICK, Report, Spread, Target, machine, ratio
from controller.node.kernel.datapath import Datapath
from controller.node.plane import maglev
from controller.node.plane.model import LinkEntry, LinkState
from sfc.chain import Side
from tests.bpf.frames import tcp
from tests.bpf.node import CONNECTION, IFINDEX, TC_ACT_REDIRECT, test_run
from tests.hash_key import HASH_KEY

HERE = Path(__file__).resolve().parent
ROUNDS = 1 if QUICK else 3
FULL = (1000, 16)
SIZES = (
    ((1, 16), FULL, (1, 1), (1, 256))
    if QUICK
    else ((1, 16), (10, 16), (100, 16), FULL, (1, 1), (1, 4), (1, 64), (1, 256), (1000, 2))
)
"""(cross-connections, replicas a side)"""
SESSIONS = (1 << 10, 1 << 20) if QUICK else (1 << 10, 1 << 14, 1 << 17, 1 << 20)
TARGETS = {
    "cold, 1,000 × 16, s": Target(5.0, at_most=True),
    "one change, 1,000 × 16, ms": Target(10.0, at_most=True),
    "resident, 1,000 × 16, MB": Target(250.0, at_most=True),
}
MANY_SESSIONS = "1M/1k sessions"
PACKET = "ns per packet"
NOTES = (
    "Sizes are cross-connections × replicas a side. Links and cluster are plain values here, so netlink and the API "
    "server are not part of the figures.",
    "Resident is the whole process, including the compiler of the program; the maps are the kernel's memory.",
)


def main() -> None:
    """ROUNDS times all sizes, then all numbers of sessions."""
    described = machine()
    figures: dict[str, dict[str, list[float]]] = {unit: {} for unit in (*full_node.UNITS, PACKET)}
    for number in range(ROUNDS):
        for connections, replicas in SIZES:
            for unit, value in _in_own_process(connections, replicas).items():
                figures[unit].setdefault(size(connections, replicas), []).append(value)
        for sessions, nanoseconds in _packets():
            figures[PACKET].setdefault(f"{sessions:,}", []).append(nanoseconds)
        print(f"round {number + 1} of {ROUNDS}", flush=True)
    judged = dict(zip(TARGETS, (full_node.COLD, full_node.CHANGE, full_node.RESIDENT), strict=True))
    ratios = {name: Spread.of(figures[unit][size(*FULL)]) for name, unit in judged.items()}
    ratios[MANY_SESSIONS] = ratio(figures[PACKET], f"{SESSIONS[-1]:,}", f"{SESSIONS[0]:,}")
    targets = {**TARGETS, MANY_SESSIONS: Target(4.0, at_most=True)}
    Report("scale", described, figures, ratios, targets, NOTES).publish()


def size(connections: int, replicas: int) -> str:
    """The name of a size, in tables and in the JSON."""
    return f"{connections:,} × {replicas:,}"


def _in_own_process(connections: int, replicas: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.full_node", str(connections), str(replicas)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{connections} × {replicas}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _packets() -> Iterator[tuple[int, float]]:
    """(known sessions, nanoseconds a packet) for each number of sessions; the packets belong to them in turn."""
    for sessions in SESSIONS:
        with private_bpffs() as bpffs, ExitStack() as cleanup:
            flags = ["-include", f"{HERE}/renew.h", "-DRENEW_SESSION", f"-DRENEW_AMONG={sessions}"]
            datapath = Datapath.open(bpffs / "v1", 2 * sessions, flags, hash_key=HASH_KEY)
            cleanup.callback(datapath.close)
            cleanup.callback(datapath.unpin)
            for slot, side in ((1, Side.UPSTREAM), (2, Side.DOWNSTREAM)):
                datapath.set_link(slot, LinkEntry(IFINDEX, CONNECTION, side, LinkState.SERVING))
                datapath.set_targets(CONNECTION, side, maglev.table([("replica", slot)]))
            frame = bytes(tcp(Side.UPSTREAM))
            test_run(datapath.program_fd, 1, frame, sessions)
            remembered = datapath.counters.remembered()
            if remembered < 0.99 * sessions:  # at half load, a bucket in 300 has more than it holds
                raise RuntimeError(f"{remembered} sessions are remembered, not {sessions}")
            action, _, nanoseconds = test_run(datapath.program_fd, 1, frame, max(sessions, 100_000))
            if action != TC_ACT_REDIRECT:
                raise RuntimeError(f"the program returned {action} instead of {TC_ACT_REDIRECT}")
            yield sessions, nanoseconds

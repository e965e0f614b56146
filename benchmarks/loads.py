"""The traffic of `events` and `soak`: numbered datagrams, long TCP transfers, and many short connections.

It runs from the chain's source to its sink, in the network namespaces of those pods. The pods themselves do nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cluster import CHECKOUT
from benchmarks.compiler import compiled

SERVER = "10.9.1.2"
FLOWS = 120
"""Of 200 datagrams a second each: a fifth more than DATAGRAMS_PER_SECOND, because a busy machine delays some."""
DATAGRAMS_PER_SECOND = 20_000
LONG_TRANSFERS = 200
SHORT_PER_SECOND = 40
END_SECONDS = 90.0
"""Time for the last transfer to end."""


@dataclass(slots=True)
class Loads:
    """The running traffic; after its end, its accounts (see the top of datagrams.c and of transfers.py)."""

    datagrams: dict[str, Any] = field(default_factory=dict)
    transfers: dict[str, Any] = field(default_factory=dict)
    dropped_by_backlog: int = 0
    """Packets of any kind that the machine dropped from full CPU queues, before any of our programs saw them."""
    _input: Any = None

    def phase(self) -> None:
        """Begins a new phase: datagrams sent from now on are counted with it."""
        self._input.write("\n")
        self._input.flush()


@contextmanager
def running(source: int, sink: int, seed: int) -> Iterator[Loads]:
    """Runs the traffic; `source` and `sink` are ids of processes in the pods' network namespaces.

    The accounts are there when the block has ended. RuntimeError when a program fails.
    """
    loads = Loads()
    dropped = _backlog_drops()
    with ExitStack() as cleanup:
        program = compiled("datagrams.c")
        _start(cleanup, _inside(sink, "benchmarks.connections", "serve"), wait=True)
        options = [SERVER, f"--long={LONG_TRANSFERS}", f"--short-per-second={SHORT_PER_SECOND}", f"--seed={seed}"]
        transfers = _start(cleanup, _inside(source, "benchmarks.transfers", *options))
        namespaces = [f"/proc/{pid}/ns/net" for pid in (source, sink)]
        datagrams = _start(cleanup, [str(program), *namespaces, str(FLOWS), str(seed)])
        loads._input = datagrams.stdin
        time.sleep(1)
        loads.phase()
        yield loads
        loads.datagrams = _finished(datagrams)
        loads.transfers = _finished(transfers)
    loads.dropped_by_backlog = _backlog_drops() - dropped


def _inside(pid: int, module: str, *arguments: str) -> list[str]:
    return ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-m", module, *arguments]


def _start(cleanup: ExitStack, command: Sequence[str], wait: bool = False) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=pipe, text=True)
    cleanup.callback(process.wait)
    cleanup.callback(process.kill)
    if wait and process.stdout:
        process.stdout.readline()
    return process


def _finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=END_SECONDS)
    if process.returncode:
        raise RuntimeError(f"{process.args!r}: exit status {process.returncode}")
    account: dict[str, Any] = json.loads(output)
    return account


def _backlog_drops() -> int:
    return sum(int(line.split()[1], 16) for line in Path("/proc/net/softnet_stat").read_text().splitlines())

"""`python -m tests.fuzz`: all targets, FUZZ inputs in all (1,000,000), two processes at a time; then the CNI plugin,
and as many frames to the BPF program.

Corpora stay in build/fuzz, where the next run continues. A finding ends its target and makes the run fail; its input
stays in build/fuzz/TARGET.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import forwarder, frames
from tests.fuzz.targets import TARGETS, Target

BUILD = Path(__file__).parents[2] / "build" / "fuzz"
INPUTS = int(os.environ.get("FUZZ", "1000000"))
FORWARDER_INPUTS = max(10, INPUTS // 1000)
SECONDS_FOR_ONE = 10
LARGEST = 20_000
"""The longest input, in bytes."""
DONE = re.compile(r"^#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)/", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    name: str
    inputs: int
    seconds: float
    reached: str
    finding: str | None = None


def main() -> int:
    if sys.argv[1:] == ["frames"]:
        return _report([_fuzz_frames()])
    if unknown := set(sys.argv[1:]) - TARGETS.keys():
        sys.exit(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    targets = [TARGETS[name] for name in sys.argv[1:] or TARGETS]
    with ThreadPoolExecutor(2) as pool:
        outcomes = [*pool.map(_fuzz, sorted(targets, key=lambda target: -target.share))]
    if len(targets) == len(TARGETS):
        outcomes += [_fuzz_forwarder(), _fuzz_frames()]
    return _report(outcomes)


def _report(outcomes: Sequence[Outcome]) -> int:
    print(f"\n{'target':20}{'inputs':>10}{'seconds':>9}  reached")
    for outcome in outcomes:
        print(f"{outcome.name:20}{outcome.inputs:>10,}{outcome.seconds:>9.0f}  {outcome.reached}")
    print(f"{'':20}{sum(outcome.inputs for outcome in outcomes):>10,}")
    findings = [outcome.finding for outcome in outcomes if outcome.finding]
    print(*findings, sep="\n\n")
    return 1 if findings else 0


def _fuzz(target: Target) -> Outcome:
    directory = BUILD / target.name
    directory.mkdir(parents=True, exist_ok=True)
    inputs = max(1, round(INPUTS * target.share))
    options = [f"-runs={inputs}", f"-max_len={LARGEST}", f"-timeout={SECONDS_FOR_ONE}"]
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", target.name, str(directory), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    (directory / "log").write_text(result.stdout)
    seconds = time.monotonic() - started
    done = DONE.search(result.stdout)
    if result.returncode or not done:
        return Outcome(target.name, 0, seconds, "–", f"{target.name}: {result.stdout[-3000:]}")
    runs, edges, features, corpus = map(int, done.groups())
    reached = f"{edges} edges, {features} features, {corpus} inputs kept"
    print(f"{target.name}: {runs:,} inputs, nothing found", flush=True)
    return Outcome(target.name, runs, seconds, reached)


def _fuzz_forwarder() -> Outcome:
    started = time.monotonic()
    try:
        forwarder.fuzz(FORWARDER_INPUTS)
        finding = None
    except AssertionError as error:
        finding = f"forwarder: {error}"
    reached = "address and undefined-behaviour sanitizers, by hypothesis"
    return Outcome("forwarder", FORWARDER_INPUTS, time.monotonic() - started, reached, finding)


def _fuzz_frames() -> Outcome:
    """A seed of its own for each run, which a finding names; FUZZ_SEED repeats one."""
    if os.geteuid():
        return Outcome("frames", 0, 0, "nothing: only root can load the program")
    started, kept = time.monotonic(), BUILD / "frames" / "finding"
    seed = int(os.environ.get("FUZZ_SEED", time.time_ns() % 1_000_000))
    try:
        reached, finding = frames.fuzz(INPUTS, seed, kept), None
    except frames.FindingError as error:
        reached, finding = "–", f"frames: {error}; FUZZ_SEED={seed} repeats it, its batch is in {kept}"
    return Outcome("frames", INPUTS, time.monotonic() - started, reached, finding)


if __name__ == "__main__":
    sys.exit(main())

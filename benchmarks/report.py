"""What every benchmark does with its figures: medians, ratios within a round, a table, a file.

Alternatives take turns within a round, so that what else the machine does meets them alike; a ratio is formed within a
round, and its median and its quartiles over the rounds are told.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

BUILD = Path(__file__).resolve().parent.parent / "build" / "bench"
QUICK = os.environ.get("QUICK", "") not in ("", "0")

Rounds = Mapping[str, Sequence[float]]
"""One figure a round, by what was measured."""


@dataclass(frozen=True, slots=True)
class Target:
    bound: float
    at_most: bool

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound}"


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def ratio(rounds: Rounds, ours: str, other: str) -> Spread:
    return Spread.of([a / b for a, b in zip(rounds[ours], rounds[other], strict=True)])


def rows(
    unit: str, rounds: Rounds, ratios: Mapping[str, Spread], targets: Mapping[str, Target]
) -> Iterator[tuple[str, ...]]:
    yield f"[{unit}]", "median", "quartiles", "target"
    for name, values in rounds.items():
        spread = Spread.of(values)
        yield name, _number(spread.median), f"{_number(spread.low)} … {_number(spread.high)}", ""
    for name, spread in ratios.items():
        target = targets.get(name)
        verdict = f"{target} {'met' if target.met(spread.median) else 'MISSED'}" if target else ""
        yield f"  {name}", f"{spread.median:.3f}", f"{spread.low:.3f} … {spread.high:.3f}", verdict


def show(table: Iterator[tuple[str, ...]]) -> None:
    lines = list(table)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *rest in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        print("  ".join(cells).rstrip())
    print()


def save(
    name: str,
    started: Mapping[str, object],
    rounds: Mapping[str, Rounds],
    ratios: Mapping[str, Spread],
    targets: Mapping[str, Target],
    notes: Sequence[str],
) -> None:
    """`rounds` by unit."""
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / f"{name}.json"
    content = {
        "benchmark": name,
        "quick": QUICK,
        "machine": {**started, "load_after": os.getloadavg()[0], "ended": _now()},
        "notes": list(notes),
        "ratios": {key: round(spread.median, 4) for key, spread in ratios.items()},
        "spread": {key: asdict(spread) for key, spread in ratios.items()},
        "targets": {key: f"{target}" for key, target in targets.items()},
        "missed": [key for key, target in targets.items() if not target.met(ratios[key].median)],
        "medians": {key: statistics.median(values) for each in rounds.values() for key, values in each.items()},
        "rounds": rounds,
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(f"{path.relative_to(BUILD.parent.parent)}: machine, raw rounds, ratios")


def machine() -> dict[str, object]:
    """As it is before the first round."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ":")
    found: dict[str, object] = {
        "cpu": cpu.partition(":")[2].strip(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "bpf_jit": Path("/proc/sys/net/core/bpf_jit_enable").read_text().strip(),
        "load_before": os.getloadavg()[0],
        "started": _now(),
    }
    print(", ".join(f"{key} {value}" for key, value in found.items()), end="\n\n")
    return found


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"

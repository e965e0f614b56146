"""What every benchmark does with its figures: medians, ratios within a round, a table, a file.

Alternatives take turns within a round, so that other work on the machine affects them alike. A ratio is computed within
a round; the report gives its median and its quartiles over the rounds.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

BUILD = Path(__file__).resolve().parent.parent / "build" / "bench"
QUICK = os.environ.get("QUICK", "") not in ("", "0")

Rounds = Mapping[str, Sequence[float]]
"""By what was measured: one figure a round."""


@dataclass(frozen=True, slots=True)
class Target:
    """A bound that a ratio should keep."""

    bound: float
    at_most: bool

    def met(self, value: float) -> bool:
        """Whether the value keeps the bound; the bound itself does."""
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound}"


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value. A single value is its own median and quartiles."""
        low, median, high = statistics.quantiles(
            [*values, *values] if len(values) == 1 else values, n=4, method="inclusive"
        )
        return cls(median, low, high)


def ratio(rounds: Rounds, ours: str, other: str) -> Spread:
    """`ours` divided by `other`, round by round."""
    return Spread.of([a / b for a, b in zip(rounds[ours], rounds[other], strict=True)])


@dataclass(frozen=True, slots=True)
class Report:
    """A benchmark's result."""

    name: str
    machine: Mapping[str, object]
    """As `machine()` returned it before the first round."""
    rounds: Mapping[str, Rounds]
    """By unit."""
    ratios: Mapping[str, Spread]
    targets: Mapping[str, Target]
    """By the name of a ratio."""
    notes: Sequence[str]
    """Printed below the table."""
    more: Mapping[str, object] = field(default_factory=dict)
    """Further entries of the file."""

    def publish(self) -> None:
        """Prints the table, writes build/bench/NAME.json."""
        _show(list(self._rows()))
        print(*self.notes, sep="\n", end="\n\n")
        print(f"{save(self.name, self._content())}: machine, raw rounds, ratios")

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for unit, rounds in self.rounds.items():
            yield f"[{unit}]", "median", "quartiles", ""
            for name, values in rounds.items():
                spread = Spread.of(values)
                yield name, _number(spread.median), f"{_number(spread.low)} … {_number(spread.high)}", ""
            yield ("",) * 4
        yield "[ratio]", "median", "quartiles", "target"
        for name, spread in self.ratios.items():
            target = self.targets.get(name)
            verdict = f"{target} {'met' if target.met(spread.median) else 'MISSED'}" if target else ""
            yield name, f"{spread.median:.3f}", f"{spread.low:.3f} … {spread.high:.3f}", verdict

    def _content(self) -> dict[str, object]:
        return {
            "benchmark": self.name,
            "quick": QUICK,
            "machine": {**self.machine, "load_after": os.getloadavg()[0], "ended": _now()},
            "notes": self.notes,
            "ratios": {name: round(spread.median, 4) for name, spread in self.ratios.items()},
            "spread": {name: asdict(spread) for name, spread in self.ratios.items()},
            "targets": {name: str(target) for name, target in self.targets.items()},
            "missed": [name for name, target in self.targets.items() if not target.met(self.ratios[name].median)],
            "medians": {
                unit: {name: statistics.median(values) for name, values in rounds.items()}
                for unit, rounds in self.rounds.items()
            },
            **self.more,
            "rounds": self.rounds,
        }


def save(name: str, content: Mapping[str, object]) -> Path:
    """Writes build/bench/NAME.json; returns its path within the checkout."""
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path.relative_to(BUILD.parent.parent)


def machine() -> dict[str, object]:
    """Describes the machine, and prints the description. To be called before the first round: it notes the load."""
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


def _show(lines: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *rest in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        print("  ".join(cells).rstrip())
    print()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"

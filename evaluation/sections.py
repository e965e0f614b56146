"""What each section of the page tells: its plots, their tables, and sentences made from the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import redirection
from benchmarks.report import Spread
from evaluation import plots
from evaluation.plots import Draw, Plane

Results = Mapping[str, Mapping[str, Any]]
"""By experiment, as its benchmark wrote it."""


@dataclass(frozen=True, slots=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    """Of the picture's file, too."""
    draws: Sequence[Draw]
    says: str
    tables: Sequence[Table]


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    experiments: Sequence[str]
    parts: Callable[[Results], Iterator[Part]]


def _spreads(content: Mapping[str, Any], unit: str) -> dict[str, Spread]:
    return {name: Spread.of(values) for name, values in content["rounds"][unit].items()}


def _redirection(results: Results) -> Iterator[Part]:
    spreads = _spreads(results["redirection"], redirection.UNIT)
    for room in redirection.ROOMS:
        series = {
            event: {
                way: {n: spreads[redirection.name(way, event, room, n)] for n in redirection.REPLICAS}
                for way in redirection.WAYS
            }
            for event in redirection.EVENTS
        }
        titles = {"out": "one replica more", "in": "one replica less"}
        yield Part(
            f"redirection-{room.replace(' ', '-')}",
            [
                plots.lines(
                    Plane(
                        f"{titles[event]}, {room}", "replicas, the lesser number", "sessions that move, %", log_x=True
                    ),
                    ways,
                )
                for event, ways in series.items()
            ],
            f"With {room}: {_redirection_says(series)}",
            [
                Table(
                    ("replicas", *redirection.WAYS),
                    [
                        (_scaling(event, n), *(_shown(ways[way][n]) for way in redirection.WAYS))
                        for event, ways in series.items()
                        for n in redirection.REPLICAS
                    ],
                )
            ],
        )


def _redirection_says(series: Mapping[str, Mapping[str, Mapping[int, Spread]]]) -> str:
    told = []
    for way in redirection.WAYS:
        found = [
            (ways[way][n].median, _scaling(event, n)) for event, ways in series.items() for n in redirection.REPLICAS
        ]
        share, where = max(found)
        told.append(f"{way} moves {f'{share:.1f} % of the sessions at the worst ({where})' if share else 'no session'}")
    return f"{'; '.join(told)}."


def _scaling(event: str, replicas: int) -> str:
    return f"{replicas} → {replicas + 1}" if event == "out" else f"{replicas + 1} → {replicas}"


def _shown(spread: Spread) -> str:
    return f"{_number(spread.median)} ({_number(spread.low)} … {_number(spread.high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


SECTIONS = (Section("Session redirection", ["redirection"], _redirection),)

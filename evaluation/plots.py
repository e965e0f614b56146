"""Draws the plots, all in one style.

Axes have units and begin at zero or are logarithmic. Series can be distinguished without colour, and ours always looks
the same. The same figures give the same file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.report import Spread

matplotlib.use("svg")
from matplotlib import pyplot, ticker

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe and Ito, for colour-blind readers too."""
MARKERS = "osD^vPX"
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "++")
STYLE = {
    "svg.hashsalt": "sfc",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
}

Draw = Callable[[Any], None]
"""Draws one panel into matplotlib axes."""


@dataclass(frozen=True, slots=True)
class Plane:
    """A panel's title, axes and target."""

    title: str
    x: str
    y: str
    """Labels with their units."""
    log_x: bool = False
    log_y: bool = False
    bound: tuple[float, str] | None = None
    """A target to draw as a line: its value and its label."""
    top: float | None = None
    """The end of the y axis, for panels that are compared."""


def save(path: Path, draws: Sequence[Draw]) -> None:
    """Writes the panels, side by side, as SVG."""
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(1, len(draws), figsize=size(draws), squeeze=False)
        for axes, draw in zip(panels[0], draws, strict=True):
            draw(axes)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def size(draws: Sequence[Draw]) -> tuple[float, float]:
    """(width, height) in inches. A single panel is as wide as most pairs."""
    return max(9.0, 5.5 * len(draws)), 4.6


def lines(plane: Plane, series: Mapping[str, Mapping[int, Spread]]) -> Draw:
    """Lines through medians, with quartiles; `series` has a point for each place on the x axis."""

    def draw(axes: Any) -> None:
        for (label, points), index in zip(series.items(), _looks(series), strict=True):
            medians = [point.median for point in points.values()]
            below = [point.median - point.low for point in points.values()]
            above = [point.high - point.median for point in points.values()]
            axes.errorbar(
                list(points),
                medians,
                yerr=[below, above],
                label=label,
                color=COLOURS[index],
                marker=MARKERS[index],
                capsize=3,
                markersize=max(9 - 2 * index, 4),
            )
        ticks = sorted({place for points in series.values() for place in points})
        _prepare(axes, plane)
        axes.set_xticks(ticks, [f"{tick:,d}" for tick in ticks])
        _legend(axes, len(series))

    return draw


def bars(plane: Plane, groups: Mapping[str, Mapping[str, Spread]]) -> Draw:
    """Bars for medians, with quartiles; `groups` are along the x axis, with the same series in each."""

    def draw(axes: Any) -> None:
        names = list(dict.fromkeys(name for group in groups.values() for name in group))
        width = 0.8 / len(names)
        for column, (name, index) in enumerate(zip(names, _looks(names), strict=True)):
            present = {place: group[name] for place, group in enumerate(groups.values()) if name in group}
            axes.bar(
                [place + (column - (len(names) - 1) / 2) * width for place in present],
                [point.median for point in present.values()],
                width,
                yerr=[
                    [point.median - point.low for point in present.values()],
                    [point.high - point.median for point in present.values()],
                ],
                label=name,
                color=COLOURS[index],
                hatch=HATCHES[index],
                edgecolor="white",
                capsize=3,
            )
        axes.set_xticks(range(len(groups)), list(groups))
        axes.grid(axis="x", visible=False)
        _prepare(axes, plane)
        _legend(axes, len(names))

    return draw


def _looks(names: Iterable[str]) -> Iterator[int]:
    """For each series, the index of its colour and of its marker or hatch. Ours has the first in every plot."""
    others = itertools.count(1)
    return (0 if name.startswith(("ours", "sfc")) else next(others) for name in names)


def steps(plane: Plane, spreads: Mapping[str, Spread], far: Mapping[str, float]) -> Draw:
    """Medians with quartiles, one above the other, the first on top, each with a stroke that ends at its `far`."""

    def draw(axes: Any) -> None:
        upwards = list(spreads.items())[::-1]
        for place, (label, spread) in enumerate(upwards):
            axes.plot([spread.high, far[label]], [place, place], color=COLOURS[0], linewidth=1.5, alpha=0.4)
            axes.plot(far[label], place, marker="|", markersize=12, color=COLOURS[0])
            axes.plot([spread.low, spread.high], [place, place], color=COLOURS[0], linewidth=6, alpha=0.4)
            axes.plot(spread.median, place, marker="D", color=COLOURS[0])
            axes.annotate(
                f"{spread.median:,.1f}",
                (spread.median, place),
                (0, 9),
                textcoords="offset points",
                fontsize=9,
                ha="center",
            )
        _prepare(axes, plane)
        axes.set_yticks(range(len(upwards)), [label.replace(" → ", " →\n") for label, _ in upwards], fontsize=9)
        axes.grid(axis="y", visible=False)
        axes.set_ylim(-0.6, len(spreads) - 0.4)
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))

    return draw


def _legend(axes: Any, entries: int) -> None:
    """The legend goes below the axes, where it covers no data."""
    if entries > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=min(entries, 6))


def _prepare(axes: Any, plane: Plane) -> None:
    axes.set_title(plane.title)
    axes.set_xlabel(plane.x)
    axes.set_ylabel(plane.y)
    if plane.bound:
        value, label = plane.bound
        axes.axhline(value, color="black", linestyle="--", linewidth=1)
        axes.text(0.02, value, label, transform=axes.get_yaxis_transform(), verticalalignment="bottom")
    if plane.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    if plane.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    else:
        axes.set_ylim(bottom=0, top=plane.top)
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))

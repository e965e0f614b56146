"""Writes docs/evaluation.md: the targets, the sections, and the machine on which the results were measured."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import plots
from evaluation.sections import SECTIONS, Part, Results, Table
from evaluation.verdicts import verdicts

NAME = "evaluation"

HEAD = """# Evaluation

This page repeats the evaluation of the paper ("Enabling Scalable SFCs in Kubernetes with eBPF-based
Cross-Connections", Monaco et al., IEEE NFV-SDN 2022) with this project on one machine, and adds
what the paper leaves open. `make evaluation` runs the experiments that have no result yet and
writes this page (as root; at most 30 minutes; `QUICK=1`: a look, in 5). `ANEW=all` or
`ANEW="NAME …"` repeats experiments. The results are in `build/evaluation/`, with the raw figures of
every round. The sentences with figures on this page are made from them.

Alternatives take turns within each round. Figures are medians over the rounds, with quartiles in
brackets. A ratio is formed within a round. Absolute figures hold for this machine only.
"""


def write(results: Path, docs: Path) -> None:
    """Writes the page and its plots below `docs`; `results` has a file NAME.json for each experiment."""
    found = dict(_read(results))
    pictures = docs / NAME
    pictures.mkdir(exist_ok=True)
    for old in pictures.glob("*.svg"):
        old.unlink()
    text = "\n".join(_lines(found, pictures))
    (docs / f"{NAME}.md").write_text(text.rstrip() + "\n")


def _read(results: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for section in SECTIONS:
        for name in section.experiments:
            path = results / f"{name}.json"
            if path.exists():
                yield name, json.loads(path.read_text())


def _lines(found: Results, pictures: Path) -> Iterator[str]:
    yield HEAD
    if quick := [name for name, content in found.items() if content["quick"]]:
        yield f"**A quick look, with few rounds and little weight: {', '.join(quick)}.**\n"
    yield from _targets(found)
    for section in SECTIONS:
        yield f"## {section.title}\n"
        if missing := [name for name in section.experiments if name not in found]:
            yield f"No result yet: {', '.join(missing)}.\n"
        else:
            for part in section.parts(found):
                yield from _part(part, pictures)
    yield from _machine(found)


def _targets(found: Results) -> Iterator[str]:
    """All targets in one table, and the reasons for those that are missed."""
    judged = [(experiment, content, each) for experiment, content in found.items() for each in verdicts(content)]
    rows = [
        (experiment, each.figure, each.found, each.target, "met" if each.met else "**missed**", _load(content))
        for experiment, content, each in judged
    ]
    yield "## Targets\n"
    yield "The load is that of the machine when the experiment began. Far above 1, other work shared its CPUs.\n"
    yield from _table(Table(("experiment", "figure", "found", "target", "", "load"), rows))
    missed = [(experiment, each) for experiment, _, each in judged if not each.met]
    if missed:
        yield "Why targets are missed:\n"
        yield from (_filled(f"- {experiment}, {each.figure}: {each.why}", "  ") for experiment, each in missed)
        yield ""


def _filled(paragraph: str, indent: str = "") -> str:
    """Markdown of this project wraps at 100 columns; `make lint` checks it."""
    return textwrap.fill(paragraph, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _load(content: Mapping[str, Any]) -> str:
    return f"{content['machine']['load_before']:.1f}"


def _part(part: Part, pictures: Path) -> Iterator[str]:
    if part.draws:
        plots.save(pictures / f"{part.name}.svg", part.draws)
        yield f"![{part.name}]({NAME}/{part.name}.svg)\n"
    yield f"{_filled(part.says)}\n"
    for table in part.tables:
        yield from _table(table)


def _table(table: Table) -> Iterator[str]:
    yield _row(table.header)
    yield _row(["---", *["--:"] * (len(table.header) - 1)])
    yield from map(_row, table.rows)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _machine(found: Results) -> Iterator[str]:
    machines = {name: content["machine"] for name, content in found.items()}
    yield "## The machine\n"
    kinds = {(m["cpu"], m["cpus"], m["kernel"], m["bpf_jit"]) for m in machines.values()}
    for cpu, cpus, kernel, jit in sorted(kinds):
        yield f"{cpu}, {cpus} CPUs, Linux {kernel}, BPF JIT {jit}.\n"
    yield "If the load is above what the experiment itself makes, other work ran beside it.\n"
    rows = [
        (name, str(m["started"]), f"{m['load_before']:.1f}", f"{m['load_after']:.1f}") for name, m in machines.items()
    ]
    yield from _table(Table(("experiment", "began", "load before", "load after"), rows))

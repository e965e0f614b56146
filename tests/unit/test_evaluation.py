"""The evaluation's page follows from the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bcc", reason="the benchmarks need it")

from benchmarks import efficiency
from evaluation import page
from evaluation.verdicts import verdicts

MACHINE = {
    "cpu": "a CPU",
    "cpus": 2,
    "kernel": "6.1",
    "bpf_jit": "1",
    "started": "2026-01-01T00:00:00Z",
    "load_before": 0.5,
    "load_after": 1.5,
}


def scaled(firewall: int) -> dict[str, Any]:
    """A result with two steps: a firewall requests so many milliCPU, the rest of the chain 250."""
    figures = {
        efficiency.name(way, n): [float(n * firewall + (n if way == efficiency.CHAIN else 1) * 250)]
        for way in (efficiency.STAGE, efficiency.CHAIN)
        for n in (1, 2)
    }
    return {"quick": False, "machine": MACHINE, "most": 2, "rounds": {efficiency.UNIT: figures}}


def written(folder: Path, **results: dict[str, Any]) -> str:
    for name, content in results.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    page.write(folder, folder)
    return (folder / "evaluation.md").read_text()


def test_sentences_follow_from_the_figures(tmp_path: Path) -> None:
    cheap, dear = (" ".join(written(tmp_path, efficiency=scaled(firewall)).split()) for firewall in (200, 750))

    assert "asks the cluster for 650 milliCPU, scaling the whole chain for 900: 28 % less" in cheap
    assert "asks the cluster for 1,750 milliCPU, scaling the whole chain for 2,000: 12 % less" in dear


def test_every_plot_of_the_page_is_there_with_its_table(tmp_path: Path) -> None:
    told = written(tmp_path, efficiency=scaled(200))

    assert "![efficiency](evaluation/efficiency.svg)" in told
    assert (tmp_path / "evaluation" / "efficiency.svg").read_text().startswith("<?xml")
    assert "| 2 | 650 | 900 |" in told


def test_an_experiment_without_result_is_named(tmp_path: Path) -> None:
    told = written(tmp_path, efficiency=scaled(200))

    assert "No result yet: forwarding." in told
    assert "No result yet: efficiency" not in told


def test_the_text_of_the_page_wraps_at_100_columns(tmp_path: Path) -> None:
    reason = {"targets": {"pps.ours/veth": "≥ 1"}, "ratios": {"pps.ours/veth": 0.9}, "missed": ["pps.ours/veth"]}
    spread = {"spread": {"pps.ours/redirect_peer": {"median": 0.9}}}

    told = written(tmp_path, efficiency=scaled(200) | reason | spread)

    assert "\n- efficiency, pps.ours/veth: " in told
    assert [line for line in told.splitlines() if len(line) > 100 and not line.startswith("|")] == []


def test_the_same_results_make_the_same_page_and_plots(tmp_path: Path) -> None:
    first = written(tmp_path, efficiency=scaled(200)), (tmp_path / "evaluation" / "efficiency.svg").read_bytes()
    again = written(tmp_path), (tmp_path / "evaluation" / "efficiency.svg").read_bytes()

    assert first == again


@pytest.mark.parametrize(
    ("content", "verdict"),
    [
        (
            {"targets": {"a/b": "≤ 1.0"}, "ratios": {"a/b": 1.2}, "missed": ["a/b"]},
            ("a/b", "1.200", "≤ 1.0", False),
        ),
        (
            {"p99_ms": {"join": 3.0}, "median_ms": {"join": 1.0}, "target_ms": 5.0, "missed": []},
            ("join, our own part, ms at the 99th percentile", "3.00", "≤ 5", True),
        ),
        ({"totals": {"lost": 2}}, ("lost in all announced events", "2", "0", False)),
        (
            {"unannounced": {"ends": [{"kind": "killed", "reaction_ms": 50.1}]}},
            ("killed: ms from the first signal to out of the targets", "50.1", "≤ 50", False),
        ),
        ({"unannounced": {"ends": [{"kind": "killed, no agent", "reaction_ms": 7000.0}]}}, None),
        (
            {"unannounced": {"ends": [{"kind": "killed", "reaction_ms": None}]}},
            ("killed: ms from the first signal to out of the targets", "no word", "≤ 50", False),
        ),
    ],
)
def test_a_target_is_told_of_whatever_kind_of_result(content: dict[str, Any], verdict: tuple[str, ...] | None) -> None:
    told = [(each.figure, each.found, each.target, each.met) for each in verdicts(content)]

    assert told == ([verdict] if verdict else [])


def test_why_a_target_is_missed_is_told_of_the_missed_alone(tmp_path: Path) -> None:
    reasons = {"targets": {"a/b": "≤ 1.0", "ours/floor": "≤ 1.15"}, "ratios": {"a/b": 1.2, "ours/floor": 1.2}}

    none, one = (written(tmp_path, efficiency=scaled(200) | reasons | {"missed": m}) for m in ([], ["ours/floor"]))

    assert "Why targets are missed" not in none
    assert "- efficiency, ours/floor: where the kernel places a program's code" in one
    assert "a/b:" not in one

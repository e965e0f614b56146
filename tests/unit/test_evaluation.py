"""The evaluation's page: what it tells is what the results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bcc", reason="the benchmarks need it")

from benchmarks import efficiency
from evaluation import page
from evaluation.sections import Verdict, verdicts

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
    """Two steps, in which a firewall asks for so many milliCPU and the rest of the chain for 250."""
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
    cheap, dear = (written(tmp_path, efficiency=scaled(firewall)) for firewall in (200, 750))

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


def test_the_same_results_make_the_same_page_and_plots(tmp_path: Path) -> None:
    first = written(tmp_path, efficiency=scaled(200)), (tmp_path / "evaluation" / "efficiency.svg").read_bytes()
    again = written(tmp_path), (tmp_path / "evaluation" / "efficiency.svg").read_bytes()

    assert first == again


@pytest.mark.parametrize(
    ("content", "verdict"),
    [
        (
            {"targets": {"a/b": "≤ 1.0"}, "ratios": {"a/b": 1.2}, "missed": ["a/b"]},
            Verdict("a/b", "1.200", "≤ 1.0", met=False),
        ),
        (
            {"p99_ms": {"join": 3.0}, "target_ms": 5.0, "missed": []},
            Verdict("join, our own part, ms at the 99th percentile", "3.00", "≤ 5", met=True),
        ),
        ({"totals": {"lost": 2}}, Verdict("lost in all events", "2", "0", met=False)),
    ],
)
def test_a_target_is_told_of_whatever_kind_of_result(content: dict[str, Any], verdict: Verdict) -> None:
    assert list(verdicts(content)) == [verdict]

"""The demo from first to last word, against a pretended cluster."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import demo
import kubectl
import pytest

PRETEND = Path(__file__).parent / "pretend_kubectl.py"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pretended cluster, and no time to waste."""
    monkeypatch.setenv("KUBECTL", str(PRETEND))
    monkeypatch.setenv("PRETEND_STATE", str(tmp_path / "state.json"))
    monkeypatch.setattr(demo, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(demo, "FULL_SCALE_SECONDS", 0.1)
    monkeypatch.setattr(kubectl, "PAUSE_SECONDS", 0.02)


def run(monkeypatch: pytest.MonkeyPatch, output: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["demo.py", "--kubeconfig", "build/kubeconfig", "--output", str(output)])
    return demo.main()


def test_the_figures_are_written_as_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    output = tmp_path / "build" / "demo.json"

    code = run(monkeypatch, output)

    figures = json.loads(output.read_text())
    assert code == 0
    assert figures["lost"] == figures["packets"]["lost"] == 0
    assert figures["connections"] == {"opened": 5, "completed": 5, "broken": 0}
    assert {s: len(of["replicas"]) for s, of in figures["stages"].items()} == {
        "client": 1,
        "firewall": 4,
        "nat": 4,
        "server": 1,
    }
    assert [step["action"] for step in figures["steps"]] == [
        "install",
        "label, until the chain is ready",
        "scale firewall to 4",
        "scale nat to 4",
        "scale nat to 1",
        "scale firewall to 1",
    ]
    assert figures["failures"] == []


def test_every_command_that_changes_something_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, tmp_path / "demo.json")

    shown = capsys.readouterr().out
    assert "$ kubectl --namespace telco label deployment nat sfc.dev/chain=edge sfc.dev/stage=nat --overwrite" in shown
    assert "$ kubectl --namespace telco scale deployment firewall --replicas=4" in shown
    assert "kubectl get sfc,xc -A" in shown


@pytest.mark.parametrize(
    ("pretence", "complaint"),
    [
        ({"PRETEND_LOST": "3"}, "3 of 100 packets were lost"),
        ({"PRETEND_IDLE": "nat-2"}, "replica nat-2 of stage nat carried no session"),
    ],
)
def test_a_broken_promise_fails_the_demo_and_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pretence: dict[str, str],
    complaint: str,
) -> None:
    for name, value in pretence.items():
        monkeypatch.setenv(name, value)

    code = run(monkeypatch, tmp_path / "demo.json")

    assert code == 1
    assert complaint in capsys.readouterr().err
    assert json.loads((tmp_path / "demo.json").read_text())["failures"] == [complaint]


def test_traffic_that_dies_ends_the_demo_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRETEND_DEATH", "1")
    monkeypatch.setattr(demo, "SETTLE_SECONDS", 60)

    code = run(monkeypatch, tmp_path / "demo.json")

    assert code == 1
    assert "the traffic ended before its time: command terminated with exit code 137" in capsys.readouterr().err

"""No probe restarts what is only slow: on a node with far too much to do, an answer may take seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.cluster import lease

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def probes(value: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and container and kind, probe)"""
    if isinstance(value, dict):
        for key, part in value.items():
            if key.endswith("Probe"):
                yield f"{where} {value['name']} {key}", part
            else:
                yield from probes(part, where)
    elif isinstance(value, list):
        for part in value:
            yield from probes(part, where)


FOUND = dict(
    probe
    for file in sorted(DEPLOY.glob("*.yaml"))
    for obj in yaml.safe_load_all(file.read_text(encoding="utf-8"))
    for probe in probes(obj, file.name)
)


def test_every_container_that_keeps_running_has_all_three() -> None:
    assert len(FOUND) == 3 * 5, "node, hooks, webhook, twin, controller"


@pytest.mark.parametrize(("where", "probe"), FOUND.items(), ids=FOUND.keys())
def test_a_probe_waits_for_a_slow_answer(where: str, probe: dict[str, Any]) -> None:
    deadline = probe.get("timeoutSeconds", 1)

    if where.endswith("readinessProbe"):
        assert deadline >= 5
    else:
        assert deadline >= 10
        assert deadline * probe.get("failureThreshold", 3) >= 60


def test_a_leader_has_many_tries_and_gives_up_before_another_one_may_lead() -> None:
    assert lease.RENEW_DEADLINE_SECONDS >= 30
    assert lease.RENEW_DEADLINE_SECONDS >= 10 * lease.RETRY_SECONDS
    assert lease.DURATION_SECONDS - lease.RENEW_DEADLINE_SECONDS >= 10

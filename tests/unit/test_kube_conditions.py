"""Conditions: when they stand already, and when their transition time moves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kube.conditions import Condition

NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)
EARLIER = "2027-01-01T11:00:00Z"
READY = Condition("Ready", True, "AllStagesServe", "every stage serves")


def obj(**condition: Any) -> dict[str, Any]:
    return {"metadata": {"generation": 3}, "status": {"conditions": [{"type": "Ready"} | condition]}}


@pytest.mark.parametrize(
    ("before", "since"),
    [
        ({"metadata": {"generation": 3}}, "2027-01-01T12:00:00Z"),
        (obj(status="False", lastTransitionTime=EARLIER), "2027-01-01T12:00:00Z"),
        (obj(status="True", reason="Other", lastTransitionTime=EARLIER), EARLIER),
    ],
)
def test_the_transition_time_of_our_own_object_moves_with_its_status(before: dict[str, Any], since: str) -> None:
    assert READY.of(before, NOW) == {
        "type": "Ready",
        "status": "True",
        "observedGeneration": 3,
        "lastTransitionTime": since,
        "reason": "AllStagesServe",
        "message": "every stage serves",
    }


def test_a_patch_of_a_pod_names_the_pod_and_leaves_the_transition_time_while_the_status_stays() -> None:
    new = READY.patch("uid-1", {"status": "False"}, NOW)
    same = READY.patch("uid-1", {"status": "True", "reason": "Other"}, NOW)

    assert new["metadata"] == same["metadata"] == {"uid": "uid-1"}
    assert new["status"]["conditions"][0]["lastTransitionTime"] == "2027-01-01T12:00:00Z"
    assert "lastTransitionTime" not in same["status"]["conditions"][0]

"""The transition log: each transition is logged once and counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from controller.node.plane.drain import Drain
from controller.node.plane.plan import State
from controller.node.plane.transitions import Transition
from controller.node.report.transition_log import TransitionLog
from tests.unit.test_conditions import state
from tests.unit.test_desired import TWO_FIREWALLS

SERVING = state(TWO_FIREWALLS)
DRAIN = Drain("uid-firewall-2", asked_at=10.0, deadline=40.0, out_of_targets_at=10.003)
DRAINING = state(TWO_FIREWALLS, drains={DRAIN.pod_uid: DRAIN})
DRAINED = state(TWO_FIREWALLS, drains={DRAIN.pod_uid: replace(DRAIN, ended_at=40.0, active_sessions=2)})


def told(*states: State, drains: tuple[Drain, ...] = ()) -> list[str]:
    transitions: list[Transition] = []
    transition_log = TransitionLog(transitions.append, drains)
    for one in states:
        transition_log.note(one)
    return [transition.reason for transition in transitions]


def test_what_exists_when_an_agent_starts_is_no_transition() -> None:
    assert told(SERVING, SERVING) == []
    assert told(State(None, SERVING.plan), SERVING) == []


def test_each_transition_is_logged_once() -> None:
    assert told(SERVING, DRAINING, DRAINING, DRAINED, DRAINED) == ["Draining", "Drained"]


def test_of_a_drain_that_was_taken_over_only_the_rest_is_logged() -> None:
    assert told(DRAINING, DRAINED, drains=(DRAIN,)) == ["Drained"]


def test_drains_and_the_sessions_they_moved_are_counted() -> None:
    def count(name: str, labels: dict[str, str] | None = None) -> float:
        return REGISTRY.get_sample_value(name, labels or {}) or 0.0

    by_deadline = {"ended_by": "deadline"}
    before = count("sfc_drain_seconds_count", by_deadline), count("sfc_drain_sessions_moved_total")
    told(SERVING, DRAINED)
    after = count("sfc_drain_seconds_count", by_deadline), count("sfc_drain_sessions_moved_total")

    assert (after[0] - before[0], after[1] - before[1]) == (1, 2)
    assert count("sfc_reaction_seconds_sum", {"transition": "Draining"}) == pytest.approx(0.003, abs=1)

"""Refused hooks as events: one a minute for each pod, however often somebody calls."""

from __future__ import annotations

from controller.node.plane.replica import Replica, replica_of
from controller.node.report.refused_hooks import REFUSED, TELL_SECONDS, RefusedHooks
from kube.events import Event
from tests.unit.objects import pod


def replica(name: str) -> Replica:
    found = replica_of(pod(name, "nat"))
    assert found
    return found


def test_one_event_a_minute_tells_of_each_pod_whose_hook_is_called() -> None:
    told: list[tuple[str, Event]] = []
    now = 1000.0
    hooks = RefusedHooks(lambda replica, event: told.append((replica.name, event)), lambda: now)

    for name in ("nat-1", "nat-1", "nat-2"):
        hooks.note(replica(name))
    at_once = [name for name, _ in told]
    now += TELL_SECONDS
    hooks.note(replica("nat-1"))

    assert at_once == ["nat-1", "nat-2"]
    assert told[2:] == [("nat-1", REFUSED)]
    assert REFUSED.warning

"""Events: created once, counted when they come again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from kube.api import ApiError
from kube.events import MESSAGE_LIMIT, Event, Reporter, record, repeatable_name
from kube.objects import PODS

NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)
ABOUT = PODS.reference("telco", "nat-1", "uid-nat-1")
PATH = "/api/v1/namespaces/telco/events/nat-1.x"


class Api:
    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.gets = 0

    def get(self, path: str) -> dict[str, Any]:
        self.gets += 1
        return self.events[path]

    def create(self, path: str, obj: Mapping[str, Any]) -> dict[str, Any]:
        full = f"{path}/{obj['metadata']['name']}"
        if full in self.events:
            raise ApiError(409, "AlreadyExists", full)
        if "forbidden" in full:
            raise ApiError(403, "Forbidden", full)
        self.events[full] = dict(obj)
        return {}

    def patch(self, path: str, body: Any, content_type: str) -> dict[str, Any]:
        self.events[path] |= body
        return {}


def event(name: str = "nat-1.x", now: datetime = NOW) -> dict[str, Any]:
    return Reporter("sfc-node", "n1").event(Event("Clash", "why"), ABOUT, name, now)


def test_an_event_names_its_object_and_who_reports_it() -> None:
    assert event() == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "nat-1.x", "namespace": "telco"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": "telco",
            "name": "nat-1",
            "uid": "uid-nat-1",
        },
        "type": "Normal",
        "reason": "Clash",
        "message": "why",
        "count": 1,
        "firstTimestamp": "2027-01-01T12:00:00Z",
        "lastTimestamp": "2027-01-01T12:00:00Z",
        "source": {"component": "sfc-node", "host": "n1"},
        "reportingComponent": "sfc-node",
        "reportingInstance": "n1",
    }


def test_a_program_that_runs_once_in_the_cluster_reports_from_no_node() -> None:
    made = Reporter("sfc-cluster-controller").event(Event("Big", "x" * 2000, warning=True), ABOUT, "n", NOW)

    assert made["source"] == {"component": "sfc-cluster-controller"}
    assert "reportingInstance" not in made
    assert (made["type"], len(made["message"])) == ("Warning", MESSAGE_LIMIT)


def test_a_repetition_raises_the_count_by_one_or_to_the_total_that_is_known() -> None:
    api = Api()

    record(api, event())
    record(api, event(now=NOW.replace(hour=13)))
    by_one = api.events[PATH]["count"]
    gets = api.gets
    record(api, event(), total=7)

    assert (by_one, api.events[PATH]["count"]) == (2, 7)
    assert api.events[PATH]["firstTimestamp"] == "2027-01-01T12:00:00Z"
    assert api.gets == gets, "a total needs no look at what stands"


def test_the_first_of_several_has_their_number() -> None:
    api = Api()

    record(api, event(), total=3)

    assert api.events[PATH]["count"] == 3


def test_any_other_refusal_is_raised() -> None:
    with pytest.raises(ApiError):
        record(Api(), event("forbidden"))


def test_names_repeat_with_the_content_alone() -> None:
    assert repeatable_name("edge", "uid", "why") == repeatable_name("edge", "uid", "why")
    assert repeatable_name("edge", "uid", "why") != repeatable_name("edge", "uid", "other")

"""Contests: two serving links of one side claim a flow, and the replicas' pods get an event about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from controller.node.plane.cluster import Cluster
from controller.node.plane.model import Contest, by_pod
from controller.node.plane.plan import Plan, State
from controller.node.report.clashes import clashes
from controller.node.report.contests import TELL_SECONDS, Contests
from kube.api import ApiError
from sfc.chain import Side
from sfc.reading import chain_of
from tests.unit import objects
from tests.unit.objects import link, pod
from tests.unit.test_desired import cluster

OUTSIDE = 7
CONTEST = Contest(OUTSIDE, Side.UPSTREAM, former=1, latter=2)
LINKS = (link(1, "nat-1", "outside"), link(2, "nat-2", "outside"))


def state(*, gone: bool = False) -> State:
    pods = [pod("nat-1", "nat"), *([] if gone else [pod("nat-2", "nat")])]
    return State(cluster=cluster(*pods), plan=Plan(by_pod(LINKS)))


class Api:
    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.requests = 0
        self.error: ApiError | None = None

    def create(self, path: str, obj: Mapping[str, Any]) -> dict[str, Any]:
        self._count()
        full = f"{path}/{obj['metadata']['name']}"
        if full in self.events:
            raise ApiError(409, "AlreadyExists", full)
        self.events[full] = dict(obj)
        return {}

    def get(self, path: str) -> dict[str, Any]:
        raise AssertionError("the agent knows the total, and has no right to read events")

    def patch(self, path: str, body: Any, content_type: str) -> dict[str, Any]:
        self._count()
        self.events[path] |= body
        return {}

    def _count(self) -> None:
        self.requests += 1
        if self.error:
            raise self.error


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_both_replicas_of_a_contest_are_named() -> None:
    one, other = clashes(state(), {CONTEST: 3})

    assert (one.replica.name, one.other.name, one.interface, one.count) == ("nat-1", "nat-2", "outside", 3)
    assert (other.replica.name, other.other.name) == ("nat-2", "nat-1")
    assert one.message == (
        "this replica and telco/nat-2 use the same addresses and ports at nat.outside of ServiceFunctionChain "
        "telco/edge, and replies reach only one of them: give each replica source ports of its own: sourcePorts: "
        "{slices: N} on interface outside of stage nat"
    )


def test_contests_in_both_directions_are_one_clash() -> None:
    back = Contest(OUTSIDE, Side.UPSTREAM, former=2, latter=1)

    assert [clash.count for clash in clashes(state(), {CONTEST: 3, back: 4})] == [7, 7]


def test_a_replica_that_is_gone_clashes_with_nobody() -> None:
    assert list(clashes(state(gone=True), {CONTEST: 3})) == []
    assert list(clashes(State(), {CONTEST: 3})) == []


def test_where_slices_are_given_already_the_function_is_to_keep_to_them() -> None:
    obj = objects.chain()
    obj["spec"]["stages"][2]["interfaces"][1]["sourcePorts"] = {"slices": 16}
    shown = state()
    assert shown.cluster
    sliced = Cluster({("telco", "edge"): chain_of(obj)}, shown.cluster.replicas)

    clash, _ = clashes(replace(shown, cluster=sliced), {CONTEST: 3})

    assert clash.message.endswith(
        "nat.outside has sourcePorts: let the function use only the ports in the annotation sfc.dev/source-ports of "
        "its pod, and recreate pods that have none"
    )


def test_a_clash_is_an_event_of_each_pod_whose_count_grows_but_not_with_every_frame() -> None:
    api, clock, count = Api(), Clock(), {CONTEST: 3}
    contests = Contests(api, "n1", state, lambda: count, clock)

    contests.look()
    count[CONTEST] = 9
    contests.look()
    soon = [event["count"] for event in api.events.values()]
    clock.now += TELL_SECONDS
    contests.look()
    requests = api.requests
    clock.now += TELL_SECONDS
    contests.look()

    assert soon == [3, 3]
    assert [event["count"] for event in api.events.values()] == [9, 9]
    assert api.requests == requests, "nothing has grown"
    assert {event["involvedObject"]["uid"] for event in api.events.values()} == {"uid-nat-1", "uid-nat-2"}
    assert {(event["type"], event["reason"]) for event in api.events.values()} == {("Warning", "SharedSourcePorts")}


def test_an_event_that_could_not_be_written_is_written_at_the_next_look() -> None:
    api = Api()
    contests = Contests(api, "n1", state, lambda: {CONTEST: 3}, Clock())

    api.error = ApiError(0, "NoAnswer", "away")
    contests.look()
    api.error = None
    contests.look()

    assert len(api.events) == 2

"""The status writer: which statuses are written, when again, and which failures matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from controller.node.plane.hearing import Entry, Hearing, Silent
from controller.node.plane.plan import Plan, State
from controller.node.plane.transitions import Transition
from controller.node.report import status_writer as writer
from controller.node.report.conditions import conditions
from controller.node.report.status_writer import StatusWriter
from kube.api import ApiError
from tests.unit.objects import pod
from tests.unit.test_conditions import state
from tests.unit.test_desired import ALL, TWO_FIREWALLS, cluster

Key = tuple[str, str]


class Api:
    def __init__(self) -> None:
        self.written: list[tuple[str, Any]] = []
        self.error: ApiError | None = None

    def patch(self, path: str, body: Any, content_type: str) -> dict[str, Any]:
        return self._write(path, body)

    def apply(self, path: str, obj: Mapping[str, Any], manager: str) -> dict[str, Any]:
        return self._write(path, obj)

    def create(self, path: str, obj: Mapping[str, Any]) -> dict[str, Any]:
        return self._write(path, obj)

    def _write(self, path: str, body: Any) -> dict[str, Any]:
        if self.error:
            raise self.error
        self.written.append((path, body))
        return {}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


ONE = cluster(pod("client-1", "client"))


def status_writer(
    api: Api, shown: State, connections: Mapping[Key, Any] | None = None, clock: Clock | None = None
) -> Any:
    return StatusWriter(api, "node1", lambda: shown, lambda: connections or {}, clock=clock or Clock())


def test_the_condition_is_written_with_the_uid_it_is_meant_for() -> None:
    api = Api()

    status_writer(api, state(ONE, ALL[:1])).publish()

    ((path, body),) = api.written
    assert path == "/api/v1/namespaces/telco/pods/client-1/status"
    assert body["metadata"] == {"uid": "uid-client-1"}
    assert body["status"]["conditions"][0]["type"] == "sfc.dev/wired"
    assert body["status"]["conditions"][0]["status"] == "False"


def test_what_was_just_written_is_not_written_again_until_the_watch_had_its_time() -> None:
    api, clock = Api(), Clock()
    one = status_writer(api, state(ONE, ALL[:1]), clock=clock)

    one.publish()
    one.publish()
    at_once = len(api.written)
    clock.now += 60
    one.publish()
    one.publish()

    assert (at_once, len(api.written)) == (1, 2)


def test_a_refusal_is_tried_again() -> None:
    api = Api()
    api.error = ApiError(500, "InternalError", "etcd is elsewhere")
    one = status_writer(api, state(ONE, ALL[:1]))

    refused = one.publish()
    api.error = None
    accepted = one.publish()

    assert (refused, accepted, len(api.written)) == (False, True, 1)


def test_a_pod_deleted_meanwhile_is_no_failure() -> None:
    api = Api()
    api.error = ApiError(404, "NotFound", 'pods "client-1" not found')

    assert status_writer(api, state(ONE, ALL[:1])).publish()


def test_only_cross_connections_that_exist_are_written_and_only_what_differs() -> None:
    api = Api()
    key = ("telco", "edge.client.lan.firewall.left")
    shown = state(TWO_FIREWALLS)

    status_writer(api, shown, {key: ("xc-1", None)}).publish()
    written = next(body for path, body in api.written if "crossconnections" in path)
    api.written.clear()
    status_writer(api, shown, {key: ("xc-1", written["status"]["nodes"][0])}).publish()

    assert [replica["pod"] for replica in written["status"]["nodes"][0]["downstream"]] == ["firewall-1", "firewall-2"]
    assert written["metadata"]["uid"] == "xc-1"
    assert not any("crossconnections" in path for path, _ in api.written)


def test_a_node_that_does_not_answer_is_written_once_and_taken_back_once() -> None:
    api, clock = Api(), Clock()
    key, clock.now = ("telco", "edge.client.lan.firewall.left"), 100.0
    present: dict[Key, Any] = {key: ("xc-1", None)}
    hearing = [Hearing(["10.0.0.2"])]
    one = StatusWriter(
        api, "node1", lambda: state(TWO_FIREWALLS), lambda: present, clock=clock,
        hearing=lambda: hearing[0], others=lambda _: [Entry("node2", "10.0.0.2", frozenset())],
    )  # fmt: skip
    entries: list[list[str]] = []

    for silent in [{}, {"10.0.0.2": Silent(80.0)}, {"10.0.0.2": Silent(80.0)}, {}, {}]:
        hearing[0] = Hearing(["10.0.0.2"], silent)
        api.written.clear()
        one.publish()
        clock.now += 6
        for body in [body for path, body in api.written if "crossconnections" in path]:
            present[key] = "xc-1", body["status"]["nodes"][0]
            entries.append(body["status"]["nodes"][0].get("unreachable", []))

    assert entries == [[], ["node2"], []]


def test_what_is_made_anew_under_the_same_name_is_written_at_once() -> None:
    """A chain that is deleted and applied again, or the next pod of a StatefulSet."""
    api, path = Api(), "/apis/sfc.dev/v1alpha1/namespaces/telco/crossconnections/edge.client.lan.firewall.left/status"
    connections = {("telco", "edge.client.lan.firewall.left"): ("xc-1", None)}
    shown = [state(ONE, ALL[:1])]
    one = StatusWriter(api, "node1", lambda: shown[0], lambda: connections, clock=Clock())

    one.publish()
    connections[("telco", "edge.client.lan.firewall.left")] = "xc-2", None
    one.publish()
    (client,) = ONE.replicas.values()
    again = replace(client, uid="uid-client-again")
    link = replace(ALL[0], pod_uid=again.uid)
    shown[0] = state(replace(ONE, replicas={again.uid: again}), (link,))
    one.publish()

    written = [(where, body["metadata"]["uid"]) for where, body in api.written]
    assert [uid for where, uid in written if where == path] == ["xc-1", "xc-2", "xc-2"]
    assert [uid for where, uid in written if where != path] == ["uid-client-1", "uid-client-again"]


def test_a_status_of_what_was_made_anew_meanwhile_is_no_failure() -> None:
    api = Api()
    api.error = ApiError(409, "Conflict", "the UID in the precondition does not match the UID in record")

    assert status_writer(api, state(ONE, ALL[:1])).publish()


def test_a_node_that_has_no_replica_any_more_takes_its_entry_back() -> None:
    api = Api()
    key = ("telco", "edge.client.lan.firewall.left")
    stale = {"name": "node1", "upstream": [], "downstream": []}

    status_writer(api, state(cluster(), ()), {key: ("xc-1", stale)}).publish()

    assert api.written[0][1]["status"] == {"nodes": []}


def test_conditions_are_made_anew_when_something_changes_here_and_not_for_other_chains_nodes_or_reports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each event on any node wakes the writers of all nodes of the chain."""
    made, shown, api = list[State](), [state(ONE, ALL[:1])], Api()
    monkeypatch.setattr(writer, "conditions", lambda of: made.append(of) or conditions(of))
    one = StatusWriter(api, "node1", lambda: shown[0], dict, clock=Clock())

    one.publish()
    plan = shown[0].plan
    shown[0] = State(replace(ONE, far={("telco", "other"): {}}), Plan(plan.links, dict(plan.parts), plan.numbers))
    one.publish()
    idle = len(made)
    part = next(iter(plan.parts.values()))
    shown[0] = replace(shown[0], plan=replace(plan, parts={("telco", "edge"): replace(part, pods=7)}))
    one.publish()

    assert (idle, len(made)) == (1, 2)


TRANSITION = Transition("uid-client-1", next(iter(ONE.replicas.values())), "Draining", "out of all targets", 1.0, 0.003)


def test_a_turn_becomes_an_event_of_the_pod_once() -> None:
    api = Api()
    one = status_writer(api, State())

    one.tell(TRANSITION)
    one.publish()
    one.publish()

    ((path, event),) = api.written
    assert path == "/api/v1/namespaces/telco/events"
    assert (event["involvedObject"]["uid"], event["reason"]) == ("uid-client-1", "Draining")


def test_events_wait_while_the_api_server_is_away_and_are_dropped_when_it_refuses_them() -> None:
    api = Api()
    one = status_writer(api, State())
    one.tell(TRANSITION)

    api.error = ApiError(0, "NoAnswer", "nobody there")
    away = one.publish()
    api.error = ApiError(403, "Forbidden", "namespace is being terminated")
    refused = one.publish()
    api.error = None
    one.publish()

    assert (away, refused, api.written) == (False, True, [])


@pytest.mark.parametrize(("finished", "kind"), [(True, "Normal"), (False, "Warning")])
def test_a_replica_that_ends_without_a_drain_is_a_warning_unless_it_had_done_its_work(
    finished: bool, kind: str
) -> None:
    api, (client,) = Api(), ONE.replicas.values()
    one = status_writer(api, State(ONE))

    one.tell(Transition(client.uid, replace(client, finished=finished), "SteeredAway", "ended", 0.0, 0.0))
    one.publish()

    [event] = [body for path, body in api.written if path.endswith("/events")]
    assert (event["reason"], event["type"]) == ("SteeredAway", kind)

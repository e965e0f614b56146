"""Events of nodes that fall silent and come back: who writes them, how many, and what they say."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.node.plane.hearing import Hearing, Silent
from controller.node.report.peer_events import MOST_EVENTS, PeerEvents
from kube.api import ApiError

START = datetime(2026, 1, 1, tzinfo=UTC)


class Api:
    """Keeps Events by name, as the API server does."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.tries: list[float] = []
        self.now = 0.0
        self.away = False

    def create(self, path: str, obj: Mapping[str, Any]) -> dict[str, Any]:
        self.tries.append(self.now)
        if self.away:
            raise ApiError(0, "NoAnswer", "away")
        assert path == "/api/v1/namespaces/default/events"
        if obj["metadata"]["name"] in self.events:
            raise ApiError(409, "AlreadyExists", "there")
        self.events[obj["metadata"]["name"]] = dict(obj)
        return dict(obj)

    def get(self, path: str) -> dict[str, Any]:
        raise AssertionError("node agents may not read events")

    def patch(self, path: str, body: Any, content_type: str) -> dict[str, Any]:
        raise AssertionError("nothing is counted up")

    def told(self) -> list[tuple[str, str, str]]:
        return [(e["involvedObject"]["name"], e["reason"], e["type"]) for e in self.events.values()]


class Fleet:
    """Node agents that hear the same: by name, as the address, too."""

    def __init__(self, *nodes: str) -> None:
        self.api = Api()
        self.hearing = {node: Hearing() for node in nodes}
        chance = random.Random(1).random
        names = {f"ip-of-{name}": name for name in (*nodes, *(f"peer-{number}" for number in range(50)))}
        self.agents = [
            PeerEvents(
                self.api, node, lambda node=node: self.hearing[node],  # type: ignore[misc]
                lambda: names, clock=lambda: self.api.now, chance=chance,
                now=lambda: START + timedelta(seconds=self.api.now),
            )
            for node in nodes
        ]  # fmt: skip

    def silent(self, *peers: str, cut_off: bool = False, version: int | None = None) -> None:
        found = {f"ip-of-{peer}": Silent(self.api.now, version) for peer in peers}
        all_of_them = [f"ip-of-{peer}" for peer in (*self.hearing, *(f"peer-{number}" for number in range(50)))]
        self.hearing = {node: Hearing(all_of_them, found, cut_off) for node in self.hearing}

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.api.now += 1
            for agent in self.agents:
                agent.look()


def test_a_node_that_dies_in_a_large_cluster_is_one_event_and_no_storm() -> None:
    fleet = Fleet(*(f"node-{number}" for number in range(100)))

    fleet.silent("peer-7")
    fleet.run(20)

    assert fleet.api.told() == [("peer-7", "PeerSilent", "Warning")]
    most = max(fleet.api.tries.count(second) for second in set(fleet.api.tries))
    assert most <= 40, "tries in one second"
    (event,) = fleet.api.events.values()
    assert event["involvedObject"]["uid"] == "peer-7", "kubectl describe node looks for it by this"
    assert event["involvedObject"]["namespace"] == ""


def test_the_one_whose_event_was_kept_tells_that_the_node_is_heard_again() -> None:
    fleet = Fleet("node-1", "node-2", "node-3")
    fleet.silent("peer-7")
    fleet.run(20)

    fleet.silent()
    fleet.run(20)

    assert fleet.api.told() == [("peer-7", "PeerSilent", "Warning"), ("peer-7", "PeerHeard", "Normal")]
    assert len(fleet.api.tries) == 4


@pytest.mark.parametrize("cut_off", [False, True])
def test_an_agent_that_leads_no_more_says_nothing_about_what_it_does_not_hear(cut_off: bool) -> None:
    fleet = Fleet("node-1")
    fleet.silent("peer-7", cut_off=cut_off)
    fleet.run(20)
    told = fleet.api.told()

    fleet.hearing = {"node-1": Hearing()}
    fleet.run(20)

    assert fleet.api.told() == told
    assert len(told) == 1


def test_what_is_over_at_once_is_no_event() -> None:
    fleet = Fleet("node-1")

    for _ in range(10):
        fleet.silent("peer-7")
        fleet.run(3)
        fleet.silent()
        fleet.run(3)

    assert fleet.api.tries == []


def test_a_node_that_comes_and_goes_is_told_of_once_in_ten_minutes() -> None:
    fleet = Fleet("node-1", "node-2")

    for _ in range(10):
        fleet.silent("peer-7")
        fleet.run(20)
        fleet.silent()
        fleet.run(20)

    assert [reason for _, reason, _ in fleet.api.told()] == ["PeerSilent", "PeerHeard"]


def test_when_many_nodes_die_each_agent_tells_about_few() -> None:
    fleet = Fleet("node-1")

    fleet.silent(*(f"peer-{number}" for number in range(50)))
    fleet.run(300)

    assert len(fleet.api.tries) == MOST_EVENTS


def test_a_node_that_is_cut_off_tells_about_itself_alone() -> None:
    fleet = Fleet("node-1")

    fleet.silent("peer-1", "peer-2", "peer-3", cut_off=True)
    fleet.run(60)
    held = fleet.api.told()
    fleet.silent()
    fleet.run(60)

    assert held == [("node-1", "MostPeersSilent", "Warning")]
    assert fleet.api.told()[1:] == [("node-1", "PeersHeard", "Normal")]


def test_a_node_that_has_lost_the_api_server_too_tells_when_that_answers() -> None:
    fleet = Fleet("node-1")
    fleet.api.away = True
    fleet.silent("peer-1", cut_off=True)
    fleet.run(60)

    fleet.api.away = False
    fleet.run(2)

    assert fleet.api.told() == [("node-1", "MostPeersSilent", "Warning")]


def test_while_the_api_server_is_away_one_try_at_a_time_is_made_and_nothing_is_forgotten() -> None:
    fleet = Fleet("node-1")
    fleet.api.away = True
    fleet.silent("peer-1", "peer-2", "peer-3")

    fleet.run(30)
    most = max(fleet.api.tries.count(second) for second in set(fleet.api.tries))
    fleet.api.away = False
    fleet.run(5)

    assert most == 1
    assert {name for name, _, _ in fleet.api.told()} == {"peer-1", "peer-2", "peer-3"}


@pytest.mark.parametrize("cut_off", [False, True])
def test_another_version_of_the_wire_is_named_with_the_remedy(cut_off: bool) -> None:
    fleet = Fleet("node-1")

    fleet.silent("peer-7", cut_off=cut_off, version=2)
    fleet.run(20)

    event = next(e for e in fleet.api.events.values() if e["reason"] == "WireVersionDiffers")
    assert event["involvedObject"]["name"] == "peer-7"
    assert "version 2 of the wire, that of node node-1 in version 1" in event["message"]
    assert "kubectl -n sfc-system rollout status daemonset/sfc-node" in event["message"]

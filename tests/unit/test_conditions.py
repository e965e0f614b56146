"""A replica's wired condition: when it is True, and its reason when it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.node.plane.cluster import Cluster
from controller.node.plane.drain import Drain
from controller.node.plane.model import HostLink
from controller.node.plane.plan import State
from controller.node.plane.replica import Replica
from controller.node.report.conditions import conditions, node_status
from kube.conditions import Condition
from tests.unit.objects import link, pod
from tests.unit.test_desired import ALL, LEFT, TWO_FIREWALLS, cluster, planned

WHOLE = cluster(
    pod("client-1", "client"),
    pod("firewall-1", "firewall"),
    pod("firewall-2", "firewall"),
    pod("nat-1", "nat"),
    pod("server-1", "server"),
)
EVERYWHERE = (*ALL, link(6, "nat-1", "inside"), link(7, "nat-1", "outside"), link(8, "server-1", "wan"))


def state(of: Cluster, links: tuple[HostLink, ...] = ALL, drains: dict[str, Drain] | None = None) -> State:
    return State(of, planned(of, links, drains or {}), drains or {})


def reason(of: State, name: str) -> tuple[bool, str]:
    condition = next(condition for replica, condition in conditions(of) if replica.name == name)
    return condition.status, condition.reason


def test_a_replica_is_wired_when_every_cross_connection_holds_it() -> None:
    found = {replica.name: (condition.status, condition.reason) for replica, condition in seen(WHOLE, EVERYWHERE)}

    assert found == dict.fromkeys(("client-1", "firewall-1", "firewall-2", "nat-1", "server-1"), (True, "Serving"))


def seen(of: Cluster, links: tuple[HostLink, ...]) -> list[tuple[Replica, Condition]]:
    return list(conditions(state(of, links)))


def test_a_replica_lacking_one_of_its_links_is_not_wired() -> None:
    half = state(cluster(pod("firewall-1", "firewall", interfaces=("left", "right"))), links=(LEFT,))

    assert reason(half, "firewall-1") == (False, "NotLinked")


def test_a_replica_whose_containers_are_not_ready_is_not_wired() -> None:
    starting = cluster(pod("firewall-1", "firewall", ready=False))

    assert reason(state(starting), "firewall-1") == (False, "ContainersNotReady")


def test_the_phases_of_leaving_show_in_the_condition() -> None:
    leaving = Drain("uid-firewall-1", asked_at=0, deadline=30)
    left = Drain("uid-firewall-1", asked_at=0, deadline=30, out_of_targets_at=0, ended_at=1)

    assert reason(state(TWO_FIREWALLS, drains={"uid-firewall-1": leaving}), "firewall-1") == (False, "Draining")
    assert reason(state(TWO_FIREWALLS, drains={"uid-firewall-1": left}), "firewall-1") == (False, "Drained")


@pytest.mark.parametrize(
    ("sessions", "said"), [(0, "all its sessions have ended"), (3, "the drain deadline has passed")]
)
def test_a_drain_that_has_ended_says_what_ended_it(sessions: int, said: str) -> None:
    ended = Drain("uid-firewall-1", 0, 30, out_of_targets_at=0, ended_at=1, active_sessions=sessions)
    after = state(TWO_FIREWALLS, drains={"uid-firewall-1": ended})

    (condition,) = (condition for replica, condition in conditions(after) if replica.name == "firewall-1")

    assert condition.message == said


def test_a_replica_of_a_chain_that_was_deleted_says_so() -> None:
    orphan = cluster(pod("firewall-1", "firewall"), chains=False)

    assert reason(state(orphan), "firewall-1") == (False, "NoChain")


def test_a_condition_that_stands_is_not_written_again() -> None:
    condition = Condition("sfc.dev/wired", True, "Serving", "in the targets of 2 cross-connection(s)")
    current: dict[str, Any] = {"status": "True", "reason": "Serving", "message": condition.message}

    assert condition.stands_in(current | {"lastTransitionTime": "2026-01-01T00:00:00Z"})
    assert not condition.stands_in(current | {"reason": "Draining"})
    assert not condition.stands_in(None)


def test_a_cross_connection_shows_the_replicas_of_this_node_on_each_side() -> None:
    leaving = {"uid-firewall-2": Drain("uid-firewall-2", asked_at=0, deadline=30)}

    entries = node_status(state(TWO_FIREWALLS, drains=leaving), "node1")

    assert entries["telco", "edge.client.lan.firewall.left"] == {
        "name": "node1",
        "upstream": [{"pod": "client-1", "uid": "uid-client-1", "state": "serving"}],
        "downstream": [
            {"pod": "firewall-1", "uid": "uid-firewall-1", "state": "serving"},
            {"pod": "firewall-2", "uid": "uid-firewall-2", "state": "draining"},
        ],
    }


def test_a_node_with_a_tunnel_shows_its_address_and_what_fits_through() -> None:
    entries = node_status(state(TWO_FIREWALLS), "node1", "10.0.0.1", 1450)

    assert {(entry["address"], entry["mtu"]) for entry in entries.values()} == {("10.0.0.1", 1450)}
    assert not [entry for entry in node_status(state(TWO_FIREWALLS), "node1", None, 1450).values() if "mtu" in entry]


def test_a_gone_replica_is_not_shown() -> None:
    left = {"uid-firewall-2": Drain("uid-firewall-2", asked_at=0, deadline=30, ended_at=1)}

    entry = node_status(state(TWO_FIREWALLS, drains=left), "node1")["telco", "edge.client.lan.firewall.left"]

    assert [replica["pod"] for replica in entry["downstream"]] == ["firewall-1"]


def test_a_link_of_no_known_pod_is_in_no_report() -> None:
    stray = state(TWO_FIREWALLS, links=(*ALL, link(9, "nobody-1", "lan")))

    assert "nobody-1" not in str(node_status(stray, "node1"))


def test_a_replica_whose_interface_is_down_says_so() -> None:
    shut = state(WHOLE, links=(*EVERYWHERE[:3], replace(ALL[3], up=False), *EVERYWHERE[4:]))

    assert reason(shut, "firewall-2") == (False, "InterfaceDown")
    assert reason(shut, "firewall-1") == (True, "Serving")

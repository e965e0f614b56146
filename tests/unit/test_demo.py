"""What the demo concludes from metrics and objects."""

from __future__ import annotations

from typing import Any

import pytest
from kubectl import Answer, DemoError, wait
from readiness import running, scaled, wired
from sessions import (
    Crossing,
    Replica,
    by_stage,
    combined,
    complaints,
    crossed,
    crossing,
    merged,
    parse,
    since,
    table,
    table_of_nodes,
)

METRICS = """\
# HELP sfc_link_sessions_total Sessions the link took part in
# TYPE sfc_link_sessions_total counter
sfc_link_sessions_total{chain="edge",interface="left",namespace="telco",pod="fw-1",stage="firewall"} 40.0
sfc_link_sessions_total{chain="edge",interface="right",namespace="telco",pod="fw-1",stage="firewall"} 42.0
sfc_link_sessions_total{chain="edge",interface="left",namespace="telco",pod="fw-2",stage="firewall"} 1e+03
sfc_link_sessions_total{chain="core",interface="left",namespace="telco",pod="fw-9",stage="firewall"} 5.0
sfc_link_sessions_total{chain="edge",interface="left",namespace="other",pod="fw-8",stage="firewall"} 5.0
sfc_link_sessions_created{chain="edge",interface="left",namespace="telco",pod="fw-1",stage="firewall"} 1.7e+09
sfc_link_packets_total{chain="edge",interface="left",namespace="telco",pod="fw-3",stage="firewall"} 9.0
sfc_far_sessions_total{direction="sent"} 30.0
sfc_far_sessions_total{direction="received"} 8.0
"""
ONE, TWO, THREE = Replica("firewall", "fw-1"), Replica("firewall", "fw-2"), Replica("nat", "nat-1")


def report(**changes: Any) -> dict[str, Any]:
    good = {
        "packets": {"sent": 10, "received": 10, "lost": 0},
        "connections": {"opened": 2, "completed": 2, "broken": 0},
        "stages": by_stage([ONE], {ONE: 3}, {ONE: 1}),
        "nodes": {"node1": {"sessions": 3, "crossed": 0.0}},
    }
    return good | changes


def deployment(name: str, *, replicas: int = 1, available: int = 1, total: int = 1, seen: int = 1) -> dict[str, Any]:
    status = {
        "replicas": total,
        "updatedReplicas": available,
        "availableReplicas": available,
        "observedGeneration": seen,
    }
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "generation": 1},
        "spec": {"replicas": replicas},
        "status": status,
    }


def chain(status: str = "True", *, seen: int = 1) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": status, "message": "no pod for nat"}]
    return {"metadata": {"generation": 1}, "status": {"observedGeneration": seen, "conditions": conditions}}


def pod(*, ready: bool = True, leaving: bool = False) -> dict[str, Any]:
    metadata = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if leaving else {}
    return {"metadata": metadata, "status": {"conditions": [{"type": "Ready", "status": str(ready)}]}}


def test_a_replica_carried_what_its_busiest_interface_did_and_other_chains_do_not_count() -> None:
    assert parse(METRICS, "telco", "edge") == {ONE: 42, TWO: 1000}


def test_a_replica_that_left_keeps_its_sessions() -> None:
    assert merged({ONE: 42, TWO: 7}, {ONE: 50}) == {ONE: 50, TWO: 7}


def test_sessions_from_before_the_traffic_do_not_count() -> None:
    assert since({ONE: 42, TWO: 7}, {ONE: 40}) == {ONE: 2, TWO: 7}


def test_shares_are_within_a_stage() -> None:
    stages = by_stage([ONE, TWO, THREE], {ONE: 30, TWO: 10, THREE: 40}, {ONE: 5, TWO: 5, THREE: 10})

    assert [r["share"] for r in stages["firewall"]["replicas"]] == [0.75, 0.25]
    assert [r["shareAtFullScale"] for r in stages["firewall"]["replicas"]] == [0.5, 0.5]
    assert stages["nat"]["replicas"] == [
        {
            "pod": "nat-1",
            "node": "",
            "sessions": 40,
            "share": 1.0,
            "sessionsAtFullScale": 10,
            "shareAtFullScale": 1.0,
        }
    ]


def test_a_replicas_node_does_not_part_it_from_its_count() -> None:
    stages = by_stage([ONE._replace(node="node1"), TWO._replace(node="node2")], {ONE: 30, TWO: 10}, {})

    assert [(r["node"], r["sessions"]) for r in stages["firewall"]["replicas"]] == [("node1", 30), ("node2", 10)]


def test_a_session_between_two_nodes_counts_on_both_and_one_within_a_node_once() -> None:
    """Here 10 within node1, 30 from node1 to node2, 5 back: node1 has 10 + 10 + 30 + 5 ends, node2 30 + 5."""
    nodes = {"node1": Crossing({"a": 50, "b": 5}, sent=30, received=5), "node2": Crossing({"c": 35}, 5, 30)}

    assert {name: (node.sessions, node.share) for name, node in nodes.items()} == {
        "node1": (45, 0.7778),
        "node2": (35, 1.0),
    }
    assert crossed(nodes) == round(35 / 45, 4)


def test_what_links_had_that_have_left_is_kept() -> None:
    before = crossing(METRICS)

    now = crossing(METRICS.replace("sfc_link_sessions_total", "sfc_other").replace("30.0", "31.0"), before)

    assert (before.ends, before.sent, before.received) == (40 + 42 + 1000 + 5 + 5, 30, 8)
    assert (now.ends, now.since(before).ends, now.since(before).sent) == (before.ends, 0, 1)


def test_the_results_of_two_clients_are_one() -> None:
    one: dict[str, Any] = {
        "seconds": 9.0,
        "packets": {"sent": 10, "lost": 1},
        "connections": {"opened": 2},
        "lostPerSecond": {"3": 1},
        "breaks": [],
        "bufferErrors": 0,
    }
    other = one | {"packets": {"sent": 5, "lost": 2}, "lostPerSecond": {"3": 1, "4": 1}, "breaks": [{"second": 2}]}

    assert combined([one, other]) == one | {
        "packets": {"sent": 15, "lost": 3},
        "connections": {"opened": 4},
        "lostPerSecond": {"3": 2, "4": 1},
        "breaks": [{"second": 2}],
    }
    assert combined([one]) == one


def test_the_table_is_aligned() -> None:
    shown = table(by_stage([ONE, TWO, THREE], {ONE: 3000, TWO: 1000, THREE: 4}, {ONE: 1, TWO: 1, THREE: 4}))

    assert shown.splitlines() == [
        "stage     replica  sessions  share  share while all served",
        "firewall  fw-1        3,000    75%                     50%",
        "          fw-2        1,000    25%                     50%",
        "nat       nat-1           4   100%                    100%",
    ]


def test_the_table_of_nodes_says_what_is_where_and_what_crossed() -> None:
    replicas = [ONE._replace(node="node1"), TWO._replace(node="node2"), THREE._replace(node="node1")]
    nodes = {"node1": {"sessions": 4000, "crossed": 0.5}, "node2": {"sessions": 70, "crossed": 1.0}}

    shown = table_of_nodes(by_stage(replicas, {}, {}), nodes | {"node3": {"sessions": 0, "crossed": 0.0}})

    assert shown.splitlines() == [
        "node   replicas           sessions  crossed",
        "node1  1 firewall, 1 nat     4,000      50%",
        "node2  1 firewall               70     100%",
        "node3  none                      0       0%",
    ]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"packets": {"sent": 10, "received": 9, "lost": 1}}, "1 of 10 packets were lost"),
        ({"packets": {"sent": 0, "received": 0, "lost": 0}}, "no traffic was sent"),
        ({"connections": {"opened": 2, "completed": 1, "broken": 1}}, "1 of 2 connections broke"),
        ({"stages": by_stage([ONE, TWO], {ONE: 3}, {})}, "replica fw-2 of stage firewall carried no session"),
        ({"nodes": {"node1": {}, "node2": {}}}, "all replicas of stage firewall are on one node"),
    ],
)
def test_what_was_promised_and_not_kept_is_said(changes: dict[str, Any], complaint: str) -> None:
    assert complaints(report(**changes)) == [complaint]


def test_a_good_run_gives_no_complaint() -> None:
    assert complaints(report()) == []


def test_a_workload_that_its_controller_has_not_seen_yet_runs_nothing() -> None:
    assert running(deployment("nat", seen=0)) == (0, 1)
    assert running(deployment("nat")) == (1, 1)


@pytest.mark.parametrize(
    ("deployments", "of_chain", "done"),
    [
        ([deployment("nat")], chain(), True),
        ([deployment("nat", total=2)], chain(), False),
        ([deployment("nat", available=0)], chain(), False),
        ([deployment("nat")], chain("False"), False),
        ([deployment("nat")], chain(seen=0), False),
    ],
    ids=["all there", "old pod still there", "not available", "chain not ready", "chain's status is old"],
)
def test_wired_means_new_pods_only_and_a_ready_chain(
    deployments: list[dict[str, Any]], of_chain: dict[str, Any], done: bool
) -> None:
    assert wired(deployments, of_chain).done is done


def test_the_chains_own_words_say_why_it_is_not_ready() -> None:
    assert wired([], chain("False")).words == "chain not ready: no pod for nat"


@pytest.mark.parametrize(
    ("pods", "answer"),
    [
        ([pod(), pod()], Answer(True, "nat: 2 of 2 ready")),
        ([pod(), pod(ready=False)], Answer(False, "nat: 1 of 2 ready")),
        ([pod(), pod(), pod(leaving=True)], Answer(False, "nat: 2 of 2 ready, 1 draining")),
    ],
    ids=["all ready", "one is not", "one still drains"],
)
def test_scaled_means_all_ready_and_none_leaving(pods: list[dict[str, Any]], answer: Answer) -> None:
    assert scaled(pods, "nat", 2) == answer


def test_waiting_outlasts_a_look_that_fails() -> None:
    looks = 0

    def look() -> Answer:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise DemoError("connection refused")
        return Answer(True, "there")

    wait(look, seconds=5)

    assert looks == 2


def test_waiting_in_vain_says_for_what() -> None:
    with pytest.raises(DemoError, match="not done within 0 s: nat: 1 of 4 ready"):
        wait(lambda: Answer(False, "nat: 1 of 4 ready"), seconds=0)

"""A chain over two nodes, on a real Kubernetes: replicas come and leave, and a node is drained, under traffic."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import test_chain
from tests.cluster.conftest import Kubectl, eventually, testbed
from tests.cluster.test_chain import name_of, pods, scale, traffic, wait_ready

edge = test_chain.edge

SPREAD = ("firewall", "nat")


def evenly(stage: str) -> str:
    constraint = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app.kubernetes.io/name": stage}},
    }
    return json.dumps(
        {"spec": {"template": {"spec": {"nodeSelector": None, "topologySpreadConstraints": [constraint]}}}}
    )


@pytest.fixture
def over_two_nodes(edge: Kubectl) -> Iterator[Kubectl]:
    for stage in SPREAD:
        edge("patch", "deployment", stage, "--patch", evenly(stage))
        edge("scale", "deployment", stage, "--replicas=2")
    wait_ready(edge)
    yield edge
    Kubectl()("uncordon", "node2")


def nodes_of(telco: Kubectl, stage: str) -> Counter[str]:
    return Counter(pod["spec"]["nodeName"] for pod in pods(telco, stage))


def through_tunnel(node: str) -> int:
    shown: Any = json.loads(testbed("exec", node, "ip", "-json", "-s", "link", "show", "sfc-tunnel").stdout)
    return int(shown[0]["stats64"]["tx"]["packets"])


def test_replicas_of_both_nodes_come_and_leave_and_a_node_is_drained_and_nothing_is_lost(
    over_two_nodes: Kubectl,
) -> None:
    telco = over_two_nodes
    assert {stage: len(nodes_of(telco, stage)) for stage in SPREAD} == dict.fromkeys(SPREAD, 2)
    before = {node: through_tunnel(node) for node in ("node1", "node2")}

    with traffic(telco) as account:
        time.sleep(2)
        for replicas in (4, 2):
            for stage in SPREAD:
                scale(telco, stage, replicas)
        Kubectl()(
            "drain", "node2", "--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=sfc.dev/chain=edge",
            "--timeout=120s",
        )  # fmt: skip
        wait_ready(telco)
        time.sleep(2)

    assert (account["packets"]["lost"], account["connections"]["broken"]) == (0, 0), account
    assert account["connections"]["completed"] > 0
    assert all(through_tunnel(node) - before[node] > 100 for node in before)
    assert {node for stage in SPREAD for node in nodes_of(telco, stage)} == {"node1"}


def test_status_says_where_each_replica_is(edge: Kubectl) -> None:
    connection = json.loads(edge("get", "xc", "edge.nat.outside.server.wan", "-o", "json"))

    nodes = {node["name"]: node for node in connection["status"]["nodes"]}

    assert {link["pod"] for node in nodes.values() for link in node["downstream"]} == {name_of(edge, "server")}
    assert all(node["address"] and link["slot"] for node in nodes.values() for link in node["upstream"])
    eventually(lambda: all(each["spec"]["nodeName"] in nodes for each in pods(edge, "nat")))

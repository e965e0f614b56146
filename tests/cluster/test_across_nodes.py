"""A chain over two nodes, on a real Kubernetes: replicas come and leave, and a node is drained, under traffic.

A node's view may be late, its cable cut, and its power.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from tests.cluster import test_chain
from tests.cluster.conftest import EXAMPLES, SYSTEM, Kubectl, eventually, scrape, testbed
from tests.cluster.test_chain import name_of, pods, scale, traffic, wait_ready

edge = test_chain.edge

SPREAD = ("firewall", "nat")
BEHIND_SECONDS = 3
STEERED_SECONDS = 1.5


def spread() -> str:
    """The example's patch that spreads replicas over the nodes, for a Deployment that is bound to one."""
    patch = yaml.safe_load((EXAMPLES / "spread.yaml").read_text())
    patch["spec"]["template"]["spec"]["nodeSelector"] = None
    return json.dumps(patch)


@pytest.fixture
def over_two_nodes(edge: Kubectl) -> Iterator[Kubectl]:
    for stage in SPREAD:
        edge("patch", "deployment", stage, "--patch", spread())
        edge("scale", "deployment", stage, "--replicas=2")
    wait_ready(edge)
    yield edge
    Kubectl()("uncordon", "node2")


def nodes_of(telco: Kubectl, stage: str) -> Counter[str]:
    return Counter(pod["spec"]["nodeName"] for pod in pods(telco, stage))


def ordered(*command: str) -> None:
    """Runs a command of the testbed, which must succeed."""
    done = testbed(*command)
    assert done.returncode == 0, done.stderr


@contextmanager
def behind(node: str, seconds: float) -> Iterator[None]:
    """That node's view of the cluster is so many seconds late, until the end."""
    ordered("lag", node, str(seconds))
    try:
        yield
    finally:
        ordered("lag", node, "0")


def agent_of(node: str) -> str:
    found = json.loads(SYSTEM("get", "pods", "-l", "app.kubernetes.io/name=sfc-node", "-o", "json"))["items"]
    return str(next(each["metadata"]["name"] for each in found if each["spec"]["nodeName"] == node))


def returned(node: str) -> int:
    """Frames that have come back to that node. The one that returned them has no count of it any more once its last
    replica in the cross-connection has left."""
    text = scrape(agent_of(node))
    counted = re.findall(r'^sfc_remarkable_packets_total\{.*verdict="chosen_again"\} (\S+)', text, re.M)
    return sum(int(float(value)) for value in counted)


def said(node: str, message: str) -> int:
    """How often that node's agent has said it."""
    return SYSTEM("logs", agent_of(node), "-c", "node").count(f'"message": "{message}')


def restarts(telco: Kubectl, node: str) -> dict[str, int]:
    """How often each replica of that node was restarted."""
    there = [pod for stage in SPREAD for pod in pods(telco, stage) if pod["spec"]["nodeName"] == node]
    return {pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in there}


def short_traffic(telco: Kubectl) -> dict[str, Any]:
    with traffic(telco) as account:
        time.sleep(2)
    return account


def through_tunnel(node: str) -> int:
    shown: Any = json.loads(testbed("exec", node, "ip", "-json", "-s", "link", "show", "sfc-tunnel").stdout)
    return int(shown[0]["stats64"]["tx"]["packets"])


def test_a_replica_leaves_while_another_nodes_view_is_late_and_nothing_is_lost(over_two_nodes: Kubectl) -> None:
    """The node of the client, node1, hears seconds later that the firewall on node2 leaves."""
    telco = over_two_nodes
    ordered("lag", "node1", "0")  # breaks the connections of its agent, which are made anew
    before = returned("node1")
    there = next(pod for pod in pods(telco, "firewall") if pod["spec"]["nodeName"] == "node2")
    telco("annotate", "pod", there["metadata"]["name"], "controller.kubernetes.io/pod-deletion-cost=-100")

    with traffic(telco) as account:
        time.sleep(1)
        with behind("node1", BEHIND_SECONDS):
            telco("scale", "deployment", "firewall", "--replicas=1")
            eventually(lambda: set(nodes_of(telco, "firewall")) == {"node1"})
            time.sleep(BEHIND_SECONDS)

    assert (account["packets"]["lost"], account["connections"]["broken"]) == (0, 0), account
    assert returned("node1") > before


@pytest.mark.parametrize(
    ("outage", "end"),
    [(("link", "off"), ("link", "on")), (("power", "off"), ("power", "on"))],
    ids=["its cable is cut", "its power is cut"],
)
def test_a_node_goes_without_a_word_and_comes_back(
    over_two_nodes: Kubectl, outage: tuple[str, str], end: tuple[str, str]
) -> None:
    telco = over_two_nodes
    eventually(lambda: set(nodes_of(telco, "firewall")) == set(nodes_of(telco, "nat")) == {"node1", "node2"})
    silent, again = (said("node1", message) for message in ("node silent", "node heard again"))
    before = restarts(telco, "node2")

    ordered(*outage, "node2")
    try:
        time.sleep(STEERED_SECONDS)
        without = short_traffic(telco)
    finally:
        ordered(*end, "node2")
    eventually(lambda: said("node1", "node heard again") > again)
    if outage[0] == "power":
        eventually(lambda: all(count > before[name] for name, count in restarts(telco, "node2").items()))
    wait_ready(telco)
    frames = through_tunnel("node2")
    after = short_traffic(telco)

    assert said("node1", "node silent") > silent
    assert [(each["packets"]["lost"], each["connections"]["broken"]) for each in (without, after)] == [(0, 0)] * 2
    assert through_tunnel("node2") > frames


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


def test_kubectl_shows_on_how_many_nodes_replicas_are(edge: Kubectl) -> None:
    def shown() -> bool:
        connection = json.loads(edge("get", "xc", "edge.nat.outside.server.wan", "-o", "json"))
        where = {pod["spec"]["nodeName"] for stage in ("nat", "server") for pod in pods(edge, stage)}
        heading, row = (line.split() for line in edge("get", "xc", "edge.nat.outside.server.wan").splitlines())
        return len(where) == connection["status"]["nodeCount"] == int(row[heading.index("NODES")])

    eventually(shown)

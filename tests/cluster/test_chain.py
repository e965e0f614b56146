"""The whole system on a real Kubernetes: labels make stages, packets cross several replicas, no change loses one."""

from __future__ import annotations

import ast
import copy
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import (
    EXAMPLES,
    KUBECTL,
    SYSTEM,
    Kubectl,
    eventually,
    example_chain,
    scrape,
    testbed,
)

STAGES = ("client", "firewall", "nat", "server")
SERVER = "198.51.100.2"
ON_ONE_NODE = {"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node1"}}}}}
"""One node: test_across_nodes.py has two."""


@pytest.fixture(scope="module")
def edge(installed: None) -> Iterator[Kubectl]:
    """The example chain in namespace telco, with labelled stages; kubectl in that namespace."""
    telco = Kubectl("telco")
    telco("apply", "-f", EXAMPLES / "chain.yaml", "-f", EXAMPLES / "functions.yaml")
    for stage in STAGES:
        telco("patch", "deployment", stage, "--patch", json.dumps(ON_ONE_NODE))
        telco("label", "deployment", stage, "sfc.dev/chain=edge", f"sfc.dev/stage={stage}")
    wait_ready(telco)
    yield telco
    Kubectl()("delete", "namespace", "telco", "--timeout=600s")


def wait_ready(telco: Kubectl) -> None:
    for stage in STAGES:
        telco("rollout", "status", "deployment", stage, "--timeout=600s")
    telco("wait", "sfc/edge", "--for=condition=Ready", "--timeout=600s")


def pods(telco: Kubectl, stage: str) -> list[dict[str, Any]]:
    """The chain's pods that do not terminate."""
    found = json.loads(telco("get", "pods", "-o", "json", "-l", f"sfc.dev/stage={stage}"))["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def name_of(telco: Kubectl, stage: str) -> str:
    return str(pods(telco, stage)[0]["metadata"]["name"])


def scale(telco: Kubectl, stage: str, replicas: int) -> None:
    telco("scale", "deployment", stage, f"--replicas={replicas}")

    def settled() -> bool:
        found = json.loads(telco("get", "pods", "-o", "json", "-l", f"sfc.dev/stage={stage}"))["items"]
        ready = [p for p in found if {"type": "Ready", "status": "True"}.items() <= _condition(p, "Ready").items()]
        return len(found) == len(ready) == replicas

    eventually(settled)


def _condition(obj: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((c for c in obj.get("status", {}).get("conditions", []) if c["type"] == kind), {})


@contextmanager
def traffic(telco: Kubectl) -> Iterator[dict[str, Any]]:
    """Runs traffic from client to server during the block. Afterwards the dictionary has its account."""
    command = [*KUBECTL, "--namespace=telco", "exec", "-i"]
    command += [name_of(telco, "client"), "--", "traffic.py", "client", SERVER, "--until-enter", "--duration=1200"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    account: dict[str, Any] = {}
    try:
        assert process.stdout
        process.stdout.readline()
        yield account
        output, errors = process.communicate("\n", timeout=300)
    finally:
        process.kill()
    results = [line for line in output.splitlines() if line.startswith("RESULT ")]
    assert results, errors
    account |= json.loads(results[-1].removeprefix("RESULT "))


def in_node(*command: str) -> str:
    done = testbed("exec", "node1", *command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def filters() -> list[str]:
    """The host ends that have our filter."""
    links = re.findall(r"(sfc[0-9a-f]{12})", in_node("ip", "-o", "link"))
    return [link for link in links if "cross_connect" in in_node("tc", "filter", "show", "dev", link, "ingress")]


def shortcuts() -> list[tuple[int, ...]]:
    """The kernel's numbers of our programs at the tcx hook of each host end; none while node1 has no agent to ask."""
    code = "from controller.node.kernel.links import Links; print([link.shortcuts for link in Links().list()])"
    done = SYSTEM.try_("exec", _agent_of_node1(), "-c", "node", "--", "python", "-c", code)
    return [] if done.returncode else ast.literal_eval(done.stdout)


def in_place(found: list[tuple[int, ...]]) -> bool:
    """Every link has the same one shortcut."""
    return bool(found) and len({*found}) == 1 and len(found[0]) == 1


def test_a_labelled_deployment_carries_traffic_as_a_stage(edge: Kubectl) -> None:
    edge("exec", name_of(edge, "client"), "--", "ping", "-c", "3", "-i", "0.2", "-W", "2", SERVER)

    connections = json.loads(edge("get", "xc", "-o", "json"))["items"]
    assert [c["metadata"]["name"] for c in connections] == [
        "edge.client.lan.firewall.left",
        "edge.firewall.right.nat.inside",
        "edge.nat.outside.server.wan",
    ]
    assert {(c["status"]["upstream"]["serving"], c["status"]["downstream"]["serving"]) for c in connections} == {(1, 1)}


def spec_of_chain(telco: Kubectl) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(telco("get", "sfc", "edge", "-o", "json"))["spec"]
    return found


def replaced(telco: Kubectl, spec: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Gives the chain another spec."""
    patch = json.dumps([{"op": "replace", "path": "/spec", "value": spec}])
    return telco.try_("patch", "sfc", "edge", "--type=json", "--patch", patch)


def test_a_chain_changes_while_it_has_replicas_and_none_of_them_loses_a_link(edge: Kubectl) -> None:
    """An interface is renamed; values are written in another way; a stage gets another linked interface."""
    before = spec_of_chain(edge)
    renamed, rewritten, grown = (copy.deepcopy(before) for _ in range(3))
    renamed["stages"][1]["interfaces"][0]["name"] = "lan0"
    for interface in (i for stage in rewritten["stages"] for i in stage["interfaces"]):
        interface.setdefault("mtu", 1500)
    grown["stages"][1]["interfaces"].insert(0, {"name": "mirror"})
    grown["stages"].append({"name": "monitor", "interfaces": [{"name": "tap"}]})
    grown["links"] = [
        ["client.lan", "firewall.left"],
        ["firewall.right", "nat.inside"],
        ["nat.outside", "server.wan"],
        ["firewall.mirror", "monitor.tap"],
    ]

    def firewall() -> dict[str, Any]:
        return _condition(pods(edge, "firewall")[0], "sfc.dev/wired")

    with traffic(edge) as account:
        refused, same, more = replaced(edge, renamed), replaced(edge, rewritten), replaced(edge, grown)
        eventually(lambda: "has got mirror since it was made" in firewall()["message"])
        serving = firewall()["reason"]
        opened = eventually(lambda: "monitor" in chain_ready(edge)["message"])
        less = replaced(edge, before)

    assert "left cannot leave its link with client.lan while stage" in refused.stderr
    assert (same.returncode, same.stderr) == (0, "")
    assert (more.returncode, serving, opened) == (0, "Serving", True)
    assert less.returncode == 0, less.stderr
    assert (account["packets"]["lost"], account["connections"]["broken"]) == (0, 0), account
    wait_ready(edge)


def chain_ready(telco: Kubectl) -> dict[str, Any]:
    return _condition(json.loads(telco("get", "sfc", "edge", "-o", "json")), "Ready")


def test_replicas_share_addresses_and_mac_and_are_all_used_while_nothing_is_lost(edge: Kubectl) -> None:
    with traffic(edge) as account:
        for stage in ("firewall", "nat"):
            scale(edge, stage, 4)
        inside = [
            edge("exec", p["metadata"]["name"], "--", "ip", "-br", "address", "show", "inside")
            for p in pods(edge, "nat")
        ]
        time.sleep(4)
        sent = {stage: _sessions(edge, stage) for stage in ("firewall", "nat")}
        for stage in ("nat", "firewall"):
            scale(edge, stage, 1)

    assert len({re.sub(r"@\S+", "", line) for line in inside}) == 1
    assert all(len(counts) == 4 and all(counts.values()) for counts in sent.values()), sent
    assert account["packets"]["sent"] > 1000
    assert (account["packets"]["lost"], account["connections"]["broken"]) == (0, 0), account


def _sessions(telco: Kubectl, stage: str) -> dict[str, float]:
    metrics = scrape(_agent_of_node1())
    alive = {p["metadata"]["name"] for p in pods(telco, stage)}
    found: dict[str, float] = {}
    for labels, value in re.findall(r"^sfc_link_sessions_total\{(.*)\} (\S+)$", metrics, re.MULTILINE):
        pod = dict(re.findall(r'(\w+)="([^"]*)"', labels))["pod"]
        if pod in alive:
            found[pod] = max(found.get(pod, 0), float(value))
    return found


def test_a_replica_leaves_the_targets_then_the_hook_is_answered_then_it_is_told_to_stop(edge: Kubectl) -> None:
    scale(edge, "nat", 2)
    leaving = pods(edge, "nat")[1]["metadata"]
    edge("exec", name_of(edge, "client"), "--", "ping", "-c", "2", "-i", "0.2", "-W", "2", SERVER)

    logs = subprocess.Popen(
        [*KUBECTL, "--namespace=telco", "logs", "-f", leaving["name"]], stdout=subprocess.PIPE, text=True
    )
    edge("delete", "pod", leaving["name"])
    words, _ = logs.communicate(timeout=60)

    said = _agent_said(leaving["uid"], f"telco/{leaving['name']}")
    stopped = next(line for line in words.splitlines() if "SIGTERM received" in line)
    told = datetime.fromisoformat(re.search(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", stopped)[0])  # type: ignore[index]
    assert said["replica out of all targets"] <= said["hook answered"] <= told
    scale(edge, "nat", 1)


def _agent_of_node1() -> str:
    agents = json.loads(SYSTEM("get", "pods", "-o", "json", "-l", "app.kubernetes.io/name=sfc-node"))["items"]
    return str(next(a["metadata"]["name"] for a in agents if a["spec"]["nodeName"] == "node1"))


def _agent_said(*pod: str) -> dict[str, datetime]:
    """By message: when the agent of node1 logged it about the pod."""
    lines = [json.loads(line) for line in SYSTEM("logs", _agent_of_node1()).splitlines() if line.startswith("{")]
    mine = [line for line in lines if {line.get("pod"), line.get("pod_uid")} & set(pod)]
    return {line["message"]: datetime.fromisoformat(line["time"]) for line in mine}


def test_traffic_flows_on_while_the_node_agent_dies_and_returns(edge: Kubectl) -> None:
    eventually(lambda: in_place(shortcuts()), seconds=30)
    before = shortcuts()

    with traffic(edge) as account:
        SYSTEM("delete", "pod", "-l", "app.kubernetes.io/name=sfc-node", "--grace-period=0", "--force")
        SYSTEM("rollout", "status", "daemonset/sfc-node", "--timeout=600s")
        eventually(lambda: in_place(after := shortcuts()) and after != before, seconds=30)

    assert (account["packets"]["lost"], account["connections"]["broken"]) == (0, 0), account


def test_deleting_a_chain_unwires_its_pods_and_creating_it_again_wires_them_again(edge: Kubectl) -> None:
    before = {stage: name_of(edge, stage) for stage in STAGES}

    edge("delete", "sfc", "edge")
    eventually(lambda: not filters(), seconds=30)
    eventually(lambda: not json.loads(edge("get", "xc", "-o", "json"))["items"], seconds=30)
    unwired = edge.try_("exec", before["client"], "--", "ping", "-c", "1", "-W", "1", SERVER)
    edge("apply", "-f", EXAMPLES / "chain.yaml")
    wait_ready(edge)
    edge("exec", before["client"], "--", "ping", "-c", "3", "-i", "0.2", "-W", "2", SERVER)

    assert unwired.returncode != 0
    assert {stage: name_of(edge, stage) for stage in STAGES} == before


def test_a_chain_that_is_deleted_and_applied_at_once_and_its_cross_connections_say_the_same(edge: Kubectl) -> None:
    """What an agent wrote to a CrossConnection is not taken for written to the next one of its name."""
    for _ in range(2):
        edge("delete", "sfc", "edge")
        edge("apply", "-f", EXAMPLES / "chain.yaml")
        wait_ready(edge)
        edge("wait", "xc", "--all", "--for=condition=Ready", "--timeout=60s")

    objects = json.loads(edge("get", "sfc,xc", "-o", "json"))["items"]
    since = [datetime.fromisoformat(_condition(obj, "Ready")["lastTransitionTime"]) for obj in objects]
    assert len(since) == 4
    assert (max(since) - min(since)).total_seconds() <= 3


def test_a_label_for_a_chain_that_does_not_exist_warns_and_its_pods_come_up_once_it_does(edge: Kubectl) -> None:
    deployment = yaml.safe_load_all((EXAMPLES / "functions.yaml").read_text())
    lonely = next(d for d in deployment if d["metadata"]["name"] == "server")
    lonely["metadata"] |= {"name": "lonely", "labels": {"sfc.dev/chain": "later", "sfc.dev/stage": "server"}}
    chain = example_chain(name="later")

    warned = edge.try_("apply", "-f", "-", stdin=json.dumps(lonely))
    refused = eventually(lambda: _replica_failure(edge, "lonely"))
    edge("apply", "-f", "-", stdin=json.dumps(chain))
    came_up = eventually(lambda: _ready_but_alone(edge, "later"))
    edge("delete", "deployment/lonely", "sfc/later")

    assert "telco/later" in warned.stderr
    assert "does not exist" in warned.stderr
    assert "telco/later" in refused
    assert came_up


def _ready_but_alone(telco: Kubectl, chain: str) -> bool:
    """Whether the chain has pods, which lack nothing but neighbours."""
    found = json.loads(telco("get", "pods", "-o", "json", "-l", f"sfc.dev/chain={chain}"))["items"]
    return bool(found) and all(_condition(pod, "sfc.dev/wired").get("reason") == "HopOpen" for pod in found)


def _deployment(telco: Kubectl, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(telco("get", "deployment", name, "-o", "json"))
    return found


def _replica_failure(telco: Kubectl, name: str) -> str:
    return str(_condition(_deployment(telco, name), "ReplicaFailure").get("message", ""))


def test_unlabelling_takes_the_deployment_out_of_the_chain(edge: Kubectl) -> None:
    edge("label", "deployment", "server", "sfc.dev/chain-", "sfc.dev/stage-")
    template = _deployment(edge, "server")["spec"]["template"]["metadata"]["labels"]
    edge("label", "deployment", "server", "sfc.dev/chain=edge", "sfc.dev/stage=server")
    wait_ready(edge)

    assert not [label for label in template if label.startswith("sfc.dev/")]


def _edit(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def edit(chain: dict[str, Any]) -> None:
        chain["spec"] |= changes

    return edit


def _first_interface(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def edit(chain: dict[str, Any]) -> None:
        chain["spec"]["stages"][0]["interfaces"][0] |= changes

    return edit


def _duplicate_stage(chain: dict[str, Any]) -> None:
    chain["spec"]["stages"][1]["name"] = "nat"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        pytest.param(_duplicate_stage, ("stages[2]", "nat", "Duplicate"), id="duplicate stage"),
        pytest.param(
            _first_interface(addresses=["10.1.0.1/24"]), ("10.1.0.1", "client", "nat"), id="an address on two stages"
        ),
        pytest.param(
            _edit(links=[["client.lan", "router.left"]]), ("links[0]", "router.left", "stage"), id="unknown stage"
        ),
        pytest.param(_first_interface(name="abcdefghijklmnop"), ("abcdefghijklmnop", "15"), id="long interface name"),
        pytest.param(
            _first_interface(addresses=["10.1.0.2"]), ("10.1.0.2", "10.1.0.2/24"), id="address without prefix"
        ),
    ],
)
def test_a_bad_chain_is_refused_with_field_value_and_remedy(
    installed: None, edit: Callable[[dict[str, Any]], None], words: tuple[str, ...]
) -> None:
    chain = example_chain(name="bad", namespace="default")
    edit(chain)

    refused = Kubectl().try_("apply", "-f", "-", stdin=json.dumps(chain))

    assert refused.returncode != 0
    assert all(word in refused.stderr for word in words), refused.stderr

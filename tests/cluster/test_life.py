"""Every way in which a replica or the node agent can end, and the chain meanwhile."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import pytest
import yaml

from tests.cluster import test_chain
from tests.cluster.conftest import EXAMPLES, KUBECTL, Kubectl, scrape, testbed
from tests.cluster.test_chain import SERVER, SYSTEM, eventually, in_node, name_of, pods, scale, traffic, wait_ready

edge = test_chain.edge

STEERED_MS = 5000.0
"""Soon enough that a signal must have woken the loop, which looks by itself every ten seconds. The benchmark `events`
measures the real delay."""
AGENTS = "app.kubernetes.io/name=sfc-node"


@pytest.fixture
def two_nats(edge: Kubectl) -> Iterator[Kubectl]:
    scale(edge, "nat", 2)
    yield edge
    wait_ready(edge)


def agents() -> list[str]:
    """The agents of node1; the leader is the last."""
    found = json.loads(SYSTEM("get", "pods", "-o", "json", "-l", AGENTS))["items"]
    mine = [pod for pod in found if pod["spec"]["nodeName"] == "node1"]
    return [pod["metadata"]["name"] for pod in sorted(mine, key=lambda pod: pod["metadata"]["creationTimestamp"])]


def said(message: str, **fields: Any) -> list[dict[str, Any]]:
    """Lines from the logs of node1's agents, including containers that were killed last."""
    logs = [
        SYSTEM.try_("logs", agent, "--container=node", *which).stdout
        for agent in agents()
        for which in (["--previous"], [])
    ]
    parsed = [json.loads(line) for log in logs for line in log.splitlines() if line.startswith('{"time"')]
    return [line for line in parsed if line["message"] == message and fields.items() <= line.items()]


def metric(name: str) -> float:
    """A metric's value, summed over its labels."""
    text = scrape(agents()[-1])
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:\{{[^\n]*\}})? (\S+)$", text, re.MULTILINE))


def steered_away(pod: str) -> dict[str, Any]:
    return eventually(lambda: said("replica steered away from", pod=f"telco/{pod}"))[-1]


def container_of(where: Kubectl, pod: str, name: str = "nat") -> str:
    statuses = json.loads(where("get", "pod", pod, "-o", "json"))["status"]["containerStatuses"]
    status = next(status for status in statuses if status["name"] == name)
    return str(status["containerID"]).removeprefix("containerd://")


def sandbox_of(pod: str) -> str:
    """The id of the pod's pause container."""
    listed = in_node("ctr", "-n", "k8s.io", "containers", "ls", f"labels.io.kubernetes.pod.name=={pod}", "-q").split()
    infos = [json.loads(in_node("ctr", "-n", "k8s.io", "containers", "info", one)) for one in listed]
    return next(str(i["ID"]) for i in infos if i["Labels"].get("io.cri-containerd.kind") == "sandbox")


def kill(container: str) -> None:
    in_node("ctr", "-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", container)


def ping(telco: Kubectl, *options: str) -> str:
    return telco("exec", name_of(telco, "client"), "--", "ping", "-i", "0.2", "-W", "2", *options, SERVER)


def hook(pod: dict[str, Any]) -> int:
    """Calls the pod's own PreStop hook from its node; the HTTP status."""
    action = pod["spec"]["containers"][0]["lifecycle"]["preStop"]["httpGet"]
    script = (
        "import http.client;"
        f"c=http.client.HTTPConnection('127.0.0.1',{action['port']},timeout=60);"
        f"c.request('GET',{action['path']!r});"
        "print(c.getresponse().status)"
    )
    return int(in_node("python3", "-c", script))


def test_a_process_that_is_killed_is_steered_away_from_and_comes_back(two_nats: Kubectl) -> None:
    victim = name_of(two_nats, "nat")

    kill(container_of(two_nats, victim))
    transition = steered_away(victim)
    scale(two_nats, "nat", 2)

    assert transition["cause"].startswith("a container stopped")
    assert transition["after_ms"] < STEERED_MS
    ping(two_nats, "-c", "5")


def test_a_pod_deleted_by_force_leaves_the_targets_at_once(two_nats: Kubectl) -> None:
    victim = name_of(two_nats, "nat")

    two_nats("delete", "pod", victim, "--grace-period=0", "--force")
    out = eventually(
        lambda: (
            said("replica steered away from", pod=f"telco/{victim}")
            or said("replica out of all targets", pod=f"telco/{victim}")
        ),
        seconds=30,
    )
    scale(two_nats, "nat", 2)

    assert out[0]["after_ms"] < STEERED_MS
    ping(two_nats, "-c", "5")


def test_a_sandbox_that_is_killed_is_steered_away_from_and_its_pod_joins_with_new_links(two_nats: Kubectl) -> None:
    victim = name_of(two_nats, "nat")

    kill(sandbox_of(victim))
    transition = steered_away(victim)
    eventually(lambda: said("replica in all its targets", pod=f"telco/{victim}")[1:])

    assert transition["after_ms"] < STEERED_MS
    ping(two_nats, "-c", "5")


def test_an_interface_shut_inside_a_pod_takes_it_out_until_it_is_up_again(two_nats: Kubectl) -> None:
    victim = name_of(two_nats, "nat")

    two_nats("exec", victim, "--", "ip", "link", "set", "outside", "down")
    transition = steered_away(victim)
    reason = eventually(lambda: _wired(two_nats, victim) == "InterfaceDown")
    two_nats("exec", victim, "--", "ip", "link", "set", "outside", "up")
    eventually(lambda: _wired(two_nats, victim) == "Serving")
    events = two_nats("get", "events", f"--field-selector=involvedObject.name={victim}", "-o", "name")

    assert transition["cause"].startswith("an interface is down")
    assert transition["after_ms"] < STEERED_MS
    assert reason
    assert events


def _wired(telco: Kubectl, pod: str) -> str:
    conditions = json.loads(telco("get", "pod", pod, "-o", "json"))["status"]["conditions"]
    return str(next((c["reason"] for c in conditions if c["type"] == "sfc.dev/wired"), ""))


def test_a_rolling_update_never_has_fewer_serving_replicas_than_asked_for(two_nats: Kubectl) -> None:
    before = {pod["metadata"]["name"] for pod in pods(two_nats, "nat")}
    began = datetime.now(UTC)

    two_nats("rollout", "restart", "deployment/nat")
    two_nats("rollout", "status", "deployment/nat", "--timeout=600s")
    eventually(lambda: not before & {pod["metadata"]["name"] for pod in pods(two_nats, "nat")})
    joined = [(moment(line), 1) for line in said("replica in all its targets")]
    left = [(moment(line), -1) for line in said("replica out of all targets") + said("replica steered away from")]

    serving = list(accumulate((step for at, step in sorted(joined + left) if at > began), initial=len(before)))
    assert len(serving) == 5
    assert min(serving) == len(before) == 2


def moment(line: dict[str, Any]) -> datetime:
    """When the data path was written, from a line of the agent's log; seconds since 1970."""
    return datetime.fromisoformat(line["since"]) + timedelta(milliseconds=line["after_ms"])


def test_a_hook_that_no_deletion_explains_drains_nothing_and_is_reported(two_nats: Kubectl) -> None:
    pod = pods(two_nats, "nat")[0]
    name = pod["metadata"]["name"]
    refused = metric("sfc_drain_hooks_total")

    statuses = {hook(pod) for _ in range(3)}
    events = eventually(lambda: "HookRefused" in two_nats("events", f"--for=pod/{name}"))

    assert statuses == {409}
    assert metric("sfc_drain_hooks_total") == refused + 3
    assert events
    assert _wired(two_nats, name) == "Serving"
    assert not said("replica out of all targets", pod=f"telco/{name}")


def test_a_hook_is_believed_while_the_api_server_is_away_and_undone_when_it_is_back(two_nats: Kubectl) -> None:
    first, last = pods(two_nats, "nat")
    moved = {"pod": f"telco/{first['metadata']['name']}"}
    joined = len(said("replica in all its targets", **moved))

    testbed("api-server", "stop")
    try:
        believed = hook(first)
        spared = threading.Thread(target=hook, args=(last,), daemon=True)
        spared.start()
        spared.join(5)
        held = spared.is_alive()
    finally:
        testbed("api-server", "start")
    eventually(lambda: said("replica in all its targets", **moved)[joined:])
    spared.join(30)

    assert believed == 200
    assert held, "the last replica waits: nothing confirms its drain"
    assert said("replica out of all targets", **moved)
    assert not said("replica out of all targets", pod=f"telco/{last['metadata']['name']}")
    assert not spared.is_alive()
    ping(two_nats, "-c", "5")


SICK = "/dev/sick"
LIVENESS = {"exec": {"command": ["test", "!", "-e", SICK]}, "periodSeconds": 1, "failureThreshold": 1}


@pytest.fixture
def probed(two_nats: Kubectl) -> Iterator[Kubectl]:
    """The translators have a native sidecar, and each of their containers a liveness probe."""
    functions = yaml.safe_load_all((EXAMPLES / "functions.yaml").read_text())
    image = next(d for d in functions if d["metadata"]["name"] == "nat")["spec"]["template"]["spec"]["containers"][0]
    sidecar = {key: image[key] for key in ("image", "imagePullPolicy") if key in image} | {
        "name": "side",
        "command": ["sh", "-c", "trap exit TERM; sleep infinity & wait"],  # a first process heeds no signal by default
        "restartPolicy": "Always",
        "livenessProbe": LIVENESS,
    }
    spec = {"containers": [{"name": "nat", "livenessProbe": LIVENESS}], "initContainers": [sidecar]}
    two_nats("patch", "deployment", "nat", "--patch", json.dumps({"spec": {"template": {"spec": spec}}}))
    two_nats("rollout", "status", "deployment/nat", "--timeout=600s")
    yield two_nats
    two_nats("rollout", "undo", "deployment/nat")
    two_nats("rollout", "status", "deployment/nat", "--timeout=600s")


@pytest.mark.parametrize("container", ["nat", "side"])
def test_a_container_that_fails_its_liveness_probe_restarts_at_once_and_its_replica_serves_again(
    probed: Kubectl, container: str
) -> None:
    """The kubelet calls the hook for the restart. With the drain deadline it would last half a minute."""
    name = name_of(probed, "nat")
    eventually(lambda: _wired(probed, name) == "Serving")
    began = time.monotonic()

    probed("exec", name, "-c", container, "--", "touch", SICK)
    eventually(lambda: _restarts(probed, name, container) == 1)
    seconds = time.monotonic() - began
    eventually(lambda: _wired(probed, name) == "Serving")

    uid = json.loads(probed("get", "pod", name, "-o", "json"))["metadata"]["uid"]
    assert said("hook answered", outcome="refused", pod_uid=uid)
    assert not said("replica out of all targets", pod=f"telco/{name}")
    if container == "nat":  # the sidecar is back before the kubelet reports that it had stopped
        causes = ("a container stopped; ", "its containers are not ready; ")
        assert steered_away(name)["cause"].startswith(causes)
    assert seconds < 25
    ping(probed, "-c", "5")


def _restarts(telco: Kubectl, pod: str, container: str) -> int:
    status = json.loads(telco("get", "pod", pod, "-o", "json"))["status"]
    found = (*status["containerStatuses"], *status.get("initContainerStatuses", ()))
    return int(next(each["restartCount"] for each in found if each["name"] == container))


def test_an_agent_rollout_meets_every_hook_and_goes_on_with_drains_and_traffic(two_nats: Kubectl) -> None:
    """A replica with a busy session drains when the rollout begins. Others are deleted during the whole rollout."""
    busy = name_of(two_nats, "nat")
    before = agents()

    with traffic(two_nats) as account, followed(two_nats, busy) as words:
        time.sleep(2)
        two_nats("delete", "pod", busy, "--wait=false")
        eventually(lambda: said("replica out of all targets", pod=f"telco/{busy}"))
        SYSTEM("rollout", "restart", "daemonset/sfc-node")
        deleted = []
        while len(deleted) < 2 or not _rolled_out():
            scale(two_nats, "firewall", 2)
            deleted.append(name_of(two_nats, "firewall"))
            two_nats("delete", "pod", deleted[-1])
    scale(two_nats, "firewall", 1)

    stopped = next((line for line in words if "SIGTERM received" in line), "")
    assert agents() != before
    assert (account["packets"]["lost"], account["connections"]["broken"]) == (0, 0), account
    assert stopped


def _rolled_out() -> bool:
    return "successfully rolled out" in SYSTEM("rollout", "status", "daemonset/sfc-node", "--watch=false")


@contextmanager
def followed(telco: Kubectl, pod: str) -> Iterator[list[str]]:
    """Follows a pod's log, which is complete at the end of the block or half a minute later."""
    command = [*KUBECTL, "--namespace=telco", "logs", "-f", pod]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines: list[str] = []
    try:
        yield lines
        output, _ = process.communicate(timeout=300)
        lines += output.splitlines()
    finally:
        process.kill()


def test_an_agent_that_is_killed_again_and_again_loses_no_drain_and_no_packet(two_nats: Kubectl) -> None:
    """The hook of a leaving replica with busy sessions is held all the time, until the drain's own deadline."""
    (leaving, uid), deadline = identity(pods(two_nats, "nat")[0]), 45
    two_nats("patch", "sfc", "edge", "--type=merge", "--patch", _drain_deadline(deadline))

    with traffic(two_nats) as account, busy_flows(two_nats), followed(two_nats, leaving) as words:
        time.sleep(2)
        two_nats("delete", "pod", leaving, "--wait=false")
        eventually(lambda: said("replica out of all targets", pod=f"telco/{leaving}"))
        _kill_agent_and_wait(agents()[-1])
        early = said("hook answered", outcome="drained", pod_uid=uid)  # while the first container's log is there
        _kill_agent_and_wait(agents()[-1])
        eventually(lambda: leaving not in [pod["metadata"]["name"] for pod in all_pods(two_nats)])
    two_nats("patch", "sfc", "edge", "--type=merge", "--patch", _drain_deadline(30))

    stopped = next(line for line in words if "SIGTERM received" in line)
    answered = next(iter([*early, *said("hook answered", outcome="drained", pod_uid=uid)]))
    assert (account["packets"]["lost"], account["connections"]["broken"]) == (0, 0), account
    assert stopped
    # Not before its own deadline, and then once an agent is there: a busy machine takes a minute to start one.
    assert deadline <= answered["drained_seconds"] < deadline + 90


BUSY = f"""
import contextlib, select, socket, sys
flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(40)]
for flow in flows:
    flow.connect(({SERVER!r}, 7000))
while not select.select([sys.stdin], [], [], 0.5)[0]:
    for flow in flows:
        with contextlib.suppress(OSError):  # an ICMP error about an earlier one
            flow.send(b"busy")
"""
"""So many flows that each replica has one; they never pause for as long as the drain waits for a silent one."""


@contextmanager
def busy_flows(telco: Kubectl) -> Iterator[None]:
    """Sessions that last for the whole block."""
    command = [*KUBECTL, "--namespace=telco", "exec", "-i", name_of(telco, "client"), "--", "python3", "-c", BUSY]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        yield
        process.communicate("", timeout=60)
    finally:
        process.kill()


def identity(pod: dict[str, Any]) -> tuple[str, str]:
    """Name and UID."""
    return pod["metadata"]["name"], pod["metadata"]["uid"]


def _drain_deadline(seconds: int) -> str:
    return json.dumps({"spec": {"drain": {"deadlineSeconds": seconds}}})


def _kill_agent_and_wait(agent: str) -> None:
    killed = container_of(SYSTEM, agent, "node")
    kill(killed)
    eventually(lambda: _ready(agent) and container_of(SYSTEM, agent, "node") != killed)


def _ready(agent: str) -> bool:
    status = json.loads(SYSTEM("get", "pod", agent, "-o", "json"))["status"]
    return all(container["ready"] for container in status["containerStatuses"])


def all_pods(telco: Kubectl) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(telco("get", "pods", "-o", "json"))["items"]
    return found

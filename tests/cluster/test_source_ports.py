"""Replicas that share an address, on a real Kubernetes: each has its own source ports, or waits for them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.cluster.lease import DURATION_SECONDS
from kube.api import ApiError
from tests.cluster.conftest import KUBECTL, SYSTEM, Kubectl, as_bearer, eventually

Json = dict[str, Any]

CHAIN = """
apiVersion: sfc.dev/v1alpha1
kind: ServiceFunctionChain
metadata: {name: pair}
spec:
  stages:
  - name: client
    interfaces: [{name: lan, addresses: [10.1.0.2/24], sourcePorts: {slices: 2}}]
  - name: server
    interfaces: [{name: wan, addresses: [10.1.0.1/24]}]
  drain: {deadlineSeconds: 1}
"""
CLIENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, labels: {sfc.dev/chain: pair, sfc.dev/stage: client}}
spec:
  replicas: 3
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      containers:
      - name: client
        image: localhost/sfc/nf:dev
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'trap "exit 0" TERM; sleep infinity & wait']
        env:
        - name: SOURCE_PORTS
          valueFrom: {fieldRef: {fieldPath: "metadata.annotations['sfc.dev/source-ports']"}}
        - name: NUMBER
          valueFrom: {fieldRef: {fieldPath: "metadata.annotations['sfc.dev/replica-number']"}}
"""
HALVES = {"1024-33279", "33280-65535"}
ANNOTATION = "sfc.dev/source-ports"


@pytest.fixture(scope="module")
def three(installed: None, kubectl: Kubectl) -> Iterator[Kubectl]:
    """Three replicas of a stage with two slices."""
    kubectl("apply", "-f", "-", stdin=CHAIN)
    eventually(lambda: kubectl.try_("apply", "-f", "-", stdin=CLIENT).returncode == 0)
    yield kubectl
    kubectl("delete", "deployment/client", "sfc/pair", "--timeout=120s")


def pods(kubectl: Kubectl) -> list[dict[str, Any]]:
    """The pods that do not terminate."""
    found = json.loads(kubectl("get", "pods", "-o", "json", "-l", "app=client"))["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def ports(pod: dict[str, Any]) -> str | None:
    found: str | None = pod["metadata"]["annotations"].get(ANNOTATION)
    return found


def running(kubectl: Kubectl) -> list[dict[str, Any]]:
    return [pod for pod in pods(kubectl) if pod["status"]["phase"] == "Running"]


def condition(obj: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((c for c in obj.get("status", {}).get("conditions", []) if c["type"] == kind), {})


def chain_condition(kubectl: Kubectl) -> dict[str, Any]:
    return condition(json.loads(kubectl("get", "sfc", "pair", "-o", "json")), "SourcePortsAssigned")


def waiting(kubectl: Kubectl) -> list[dict[str, Any]]:
    """The pods whose condition reports that they wait."""
    return [p for p in pods(kubectl) if condition(p, "sfc.dev/wired").get("reason") == "NoFreeSourcePorts"]


def settled(kubectl: Kubectl) -> bool:
    """Whether two replicas run, with both slices, and one waits."""
    return len(waiting(kubectl)) == 1 and {ports(pod) for pod in running(kubectl)} == HALVES


def test_sockets_and_function_of_a_replica_have_the_ports_of_its_slice(three: Kubectl) -> None:
    eventually(lambda: settled(three))

    for pod in running(three):
        name = pod["metadata"]["name"]
        assert three("exec", name, "--", "sh", "-c", "echo $SOURCE_PORTS").strip() == ports(pod)
        limits = three("exec", name, "--", "cat", "/proc/sys/net/ipv4/ip_local_port_range")
        assert "-".join(limits.split()) == ports(pod)
        assert three("exec", name, "--", "sh", "-c", "echo $NUMBER").strip() == str(
            sorted(HALVES).index(ports(pod) or "")
        )


def test_a_replica_without_a_slice_waits_and_says_why_and_so_does_the_chain(three: Kubectl) -> None:
    eventually(lambda: settled(three))
    (pod,) = waiting(three)
    events = three("get", "events", f"--field-selector=involvedObject.name={pod['metadata']['name']}")

    assert ports(pod) is None
    assert "nodeName" not in pod["spec"]
    assert condition(pod, "PodScheduled")["reason"] == "SchedulingGated"
    message = condition(pod, "sfc.dev/wired")["message"]
    assert "stage client" in message
    assert "all 2 slices: raise sourcePorts.slices of client.lan" in message
    assert "NoFreeSourcePorts" in events
    assert eventually(lambda: chain_condition(three).get("status") == "False")
    assert "stage client: 1 pod without source ports" in chain_condition(three)["message"]


def test_a_waiting_replica_gets_the_slice_of_one_that_leaves_also_from_a_new_leader(three: Kubectl) -> None:
    eventually(lambda: settled(three))
    (patient,) = waiting(three)
    leaving, staying = running(three)

    SYSTEM("delete", "pod", "-l", "app.kubernetes.io/name=sfc-cluster-controller", "--grace-period=0", "--force")
    three("delete", "pod", leaving["metadata"]["name"])
    eventually(lambda: settled(three), seconds=90 + DURATION_SECONDS)  # a leader that is killed releases no lease

    now = {pod["metadata"]["name"]: ports(pod) for pod in running(three)}
    assert now == {staying["metadata"]["name"]: ports(staying), patient["metadata"]["name"]: ports(leaving)}


def test_with_fewer_replicas_nobody_waits(three: Kubectl) -> None:
    three("scale", "deployment/client", "--replicas=2")
    eventually(lambda: len(pods(three)) == len(running(three)) == 2)

    assert eventually(lambda: chain_condition(three).get("reason") == "SlicesSuffice")
    three("scale", "deployment/client", "--replicas=3")


def test_a_gate_that_somebody_else_opens_lets_no_pod_in_without_ports(three: Kubectl) -> None:
    eventually(lambda: settled(three))
    (pod,) = waiting(three)
    name = pod["metadata"]["name"]

    three("patch", "pod", name, "--type=json", "--patch", '[{"op": "remove", "path": "/spec/schedulingGates"}]')

    told = eventually(
        lambda: [
            event["message"]
            for event in json.loads(three("get", "events", "-o", "json"))["items"]
            if event["involvedObject"]["name"] == name and "has no source ports yet" in event["message"]
        ]
    )
    assert "delete the pod" in told[0]
    three("delete", "pod", name)


def bare_pod(**spec: Any) -> str:
    template = yaml.safe_load(CLIENT)["spec"]["template"]["spec"]
    labels = {"sfc.dev/chain": "pair", "sfc.dev/stage": "client"}
    metadata = {"name": "bare", "labels": labels, "annotations": {ANNOTATION: "1024-65535"}}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template | spec})


def test_ports_that_somebody_else_wrote_are_removed_with_a_warning(three: Kubectl) -> None:
    made = three.try_("apply", "-f", "-", stdin=bare_pod())
    pod = json.loads(three("get", "pod", "bare", "-o", "json"))
    three("delete", "pod", "bare", "--timeout=60s")

    assert made.returncode == 0, made.stderr
    assert f'annotation {ANNOTATION}: "1024-65535" is removed' in made.stderr
    assert ports(pod) is None


def test_a_pod_that_names_its_node_is_refused_with_the_remedy(three: Kubectl) -> None:
    refused = three.try_("apply", "-f", "-", stdin=bare_pod(nodeName="node1"))

    assert refused.returncode != 0
    assert 'spec.nodeName: "node1"' in refused.stderr
    assert "spec.nodeSelector" in refused.stderr


def test_interfaces_of_a_stage_cannot_differ_in_slices(three: Kubectl) -> None:
    chain = yaml.safe_load(CHAIN)
    interfaces = chain["spec"]["stages"][0]["interfaces"]
    interfaces.insert(0, {"name": "uplink", "sourcePorts": {"slices": 3}})

    refused = three.try_("apply", "-f", "-", stdin=json.dumps(chain))

    assert refused.returncode != 0
    assert "sourcePorts.slices differs" in refused.stderr


def test_the_cluster_controller_can_change_no_other_pod_and_nothing_else_of_those_that_wait(
    three: Kubectl, tmp_path: Path
) -> None:
    eventually(lambda: settled(three))
    controller = as_bearer(tmp_path, "sfc-cluster-controller")
    image = {"spec": {"containers": [{"name": "client", "image": "elsewhere/else:1"}]}}
    mark = {"metadata": {"annotations": {"a": "b"}}}
    (patient,), (serving, _) = waiting(three), running(three)

    def patch(pod: Json, change: Json) -> None:
        path = f"/api/v1/namespaces/{three.namespace}/pods/{pod['metadata']['name']}"
        controller.patch(path, change, "application/strategic-merge-patch+json")

    with pytest.raises(ApiError, match="changes nothing of a pod's spec but its scheduling gate"):
        patch(patient, image)
    with pytest.raises(ApiError, match="writes to pods of a chain that have no node yet"):
        patch(serving, mark)


def twin(stage: str, replicas: int, command: list[str]) -> str:
    """A Deployment of chain `twins`, on one node."""
    deployment = yaml.safe_load(CLIENT)
    labels = {"sfc.dev/chain": "twins", "sfc.dev/stage": stage}
    deployment["metadata"] = {"name": f"twin-{stage}", "labels": labels}
    deployment["spec"] |= {"replicas": replicas, "selector": {"matchLabels": {"app": f"twin-{stage}"}}}
    template = deployment["spec"]["template"]
    template["metadata"]["labels"] = {"app": f"twin-{stage}"}
    template["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "node1"}
    template["spec"]["containers"][0]["command"] = command
    return json.dumps(deployment)


SEND = """
import socket, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 5000))
for _ in range(60):
    sock.sendto(b"x", ("10.1.0.1", 7000))
    time.sleep(0.05)
"""


def test_replicas_that_use_the_same_port_are_named_in_an_event_of_each(three: Kubectl) -> None:
    chain = yaml.safe_load(CHAIN)
    chain["metadata"]["name"] = "twins"
    del chain["spec"]["stages"][0]["interfaces"][0]["sourcePorts"]
    sleep = yaml.safe_load(CLIENT)["spec"]["template"]["spec"]["containers"][0]["command"]
    three("apply", "-f", "-", stdin=json.dumps(chain))
    for stage, replicas, command in (("client", 2, sleep), ("server", 1, ["/opt/nf/server"])):
        manifest = twin(stage, replicas, command)
        eventually(lambda manifest=manifest: three.try_("apply", "-f", "-", stdin=manifest).returncode == 0)  # type: ignore[misc]
    for stage in ("client", "server"):
        three("rollout", "status", f"deployment/twin-{stage}", "--timeout=120s")
    clients = three("get", "pods", "-l", "app=twin-client", "-o", "name").split()

    sending = [
        subprocess.Popen([*KUBECTL, f"--namespace={three.namespace}", "exec", pod, "--", "python3", "-c", SEND])
        for pod in clients
    ]
    assert [process.wait(60) for process in sending] == [0, 0]

    def told() -> dict[str, str]:
        found = json.loads(three("get", "events", "--field-selector=reason=SharedSourcePorts", "-o", "json"))["items"]
        return {f"pod/{event['involvedObject']['name']}": event["message"] for event in found}

    assert eventually(lambda: set(told()) == set(clients), seconds=60)
    one, other = clients
    assert other.removeprefix("pod/") in told()[one]
    assert "sourcePorts: {slices: N} on interface lan of stage client" in told()[one]
    three("delete", "deployment/twin-client", "deployment/twin-server", "sfc/twins", "--timeout=120s")

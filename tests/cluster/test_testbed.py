"""The testbed is a real Kubernetes: real nodes, real rights, no way out of the machine."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from testbed.__main__ import DEFAULT_KUBERNETES

from .conftest import KUBECONFIG, KUBECTL, Kubectl, testbed

FAR_AWAY = "192.0.2.1"  # RFC 5737: an address that is never in use
PEERS = """
apiVersion: v1
kind: Service
metadata: {{name: peers}}
spec:
  selector: {{app: peer}}
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {{name: extra}}
spec:
  config: |
    {{"cniVersion": "1.0.0", "name": "extra", "type": "bridge", "bridge": "extra",
      "capabilities": {{"ips": true}}, "ipam": {{"type": "static"}}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: peer1
  labels: {{app: peer}}
  annotations:
    k8s.v1.cni.cncf.io/networks: '[{{"name": "extra", "interface": "extra0", "ips": ["10.77.0.5/24"]}}]'
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers: [{{name: peer, image: {image}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: peer2, labels: {{app: peer}}}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  containers: [{{name: peer, image: {image}}}]
"""


@pytest.fixture(scope="module")
def peers(kubectl: Kubectl, peer_image: str) -> dict[str, str]:
    """The addresses of a pod on each node, and of the Service `peers` in front of both."""
    kubectl("create", "--filename=-", stdin=PEERS.format(image=peer_image))
    kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/peer1", "pod/peer2")
    pods = {name: kubectl("get", "pod", name, "--output=jsonpath={.status.podIP}") for name in ("peer1", "peer2")}
    return pods | {"service": kubectl("get", "service", "peers", "--output=jsonpath={.spec.clusterIP}")}


def asking(address: str, port: int) -> list[str]:
    """A shell command that prints a TCP server's output, and fails without an answer."""
    return ["timeout", "5", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port} && cat <&3"]


def in_pod(kubectl: Kubectl, pod: str, command: list[str]) -> "subprocess.CompletedProcess[str]":
    return kubectl.try_("exec", pod, "--", *command)


def in_node(node: str, command: list[str]) -> "subprocess.CompletedProcess[str]":
    return testbed("exec", node, *command)


def as_user(kubeconfig: str, *arguments: str, node: str = "node1") -> "subprocess.CompletedProcess[str]":
    """kubectl inside a node with one of the node's own kubeconfigs."""
    kubectl = Path(KUBECTL[0]).readlink()
    return in_node(node, [str(kubectl), f"--kubeconfig={kubeconfig}", *arguments])


def test_all_nodes_are_ready_and_run_the_chosen_version(kubectl: Kubectl) -> None:
    minor = os.environ.get("KUBERNETES") or DEFAULT_KUBERNETES

    versions = json.loads(kubectl("version", "--output=json"))
    nodes = json.loads(kubectl("get", "nodes", "--output=json"))["items"]

    ready = {
        node["metadata"]["name"]: [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"]
        for node in nodes
    }
    assert ready == {"node1": ["True"], "node2": ["True"]}
    running = [versions[side]["gitVersion"] for side in ("serverVersion", "clientVersion")]
    running += [node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes]
    assert [version.rpartition(".")[0] for version in running] == [f"v{minor}"] * 4


@pytest.mark.parametrize(("source", "target"), [("peer1", "peer2"), ("peer2", "peer1")])
def test_a_pod_reaches_a_pod_on_the_other_node(
    kubectl: Kubectl, peers: dict[str, str], source: str, target: str
) -> None:
    answer = in_pod(kubectl, source, asking(peers[target], 8080))

    assert answer.stdout.strip() == target, answer.stderr


@pytest.mark.parametrize("source", ["peer1", "peer2"])
def test_a_pod_reaches_both_pods_behind_a_service(kubectl: Kubectl, peers: dict[str, str], source: str) -> None:
    ask = f"for attempt in $(seq 40); do cat </dev/tcp/{peers['service']}/80; done"

    answers = in_pod(kubectl, source, ["timeout", "20", "bash", "-c", ask])

    assert set(answers.stdout.split()) == {"peer1", "peer2"}, answers.stderr


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_a_node_reaches_a_service_as_the_api_server_reaches_webhooks(peers: dict[str, str], node: str) -> None:
    answer = in_node(node, asking(peers["service"], 80))

    assert answer.stdout.strip() in {"peer1", "peer2"}, answer.stderr


def test_multus_adds_an_interface_with_the_address_the_annotation_gives(
    kubectl: Kubectl, peers: dict[str, str]
) -> None:
    pod = json.loads(kubectl("get", "pod", "peer1", "--output=json"))

    networks = json.loads(pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"])
    extra = [network for network in networks if network.get("interface") == "extra0"]
    assert [network["ips"] for network in extra] == [["10.77.0.5"]]


def test_logs_of_a_pod_can_be_read(kubectl: Kubectl, peers: dict[str, str]) -> None:
    assert kubectl("logs", "peer2") == ""


def test_pod_security_refuses_a_privileged_pod_in_a_restricted_namespace(kubectl: Kubectl, peer_image: str) -> None:
    kubectl("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/enforce=restricted")

    refused = kubectl.try_("run", "privileged", f"--image={peer_image}", "--privileged")

    kubectl("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/enforce-")
    assert refused.returncode != 0
    assert 'violates PodSecurity "restricted' in refused.stderr


@pytest.mark.parametrize(
    "request_",
    [
        ("get", "secret", "--namespace=kube-system", "any"),
        ("label", "node", "node2", "made-by=node1"),
        ("label", "node", "node1", "node-restriction.kubernetes.io/made-by=node1"),
        ("delete", "node", "node2"),
    ],
    ids=" ".join,
)
def test_a_kubelet_may_not_touch_what_is_not_its_own(cluster: None, request_: tuple[str, ...]) -> None:
    refused = as_user("/etc/kubernetes/kubelet.kubeconfig", *request_)

    assert refused.returncode != 0
    assert "forbidden" in refused.stderr.lower()


def test_a_kubelet_may_read_its_own_node(cluster: None) -> None:
    allowed = as_user("/etc/kubernetes/kubelet.kubeconfig", "get", "node", "node1", "--output=name")

    assert allowed.stdout.strip() == "node/node1", allowed.stderr


def test_multus_has_its_own_rights_and_no_more(kubectl: Kubectl) -> None:
    multus = "/etc/cni/net.d/multus.d/multus.kubeconfig"
    questions = ["get pods", "list secrets", "get secrets", "create pods", "delete pods", "list pods"]

    answers = [
        as_user(multus, "auth", "can-i", *question.split(), "--all-namespaces").stdout.strip() for question in questions
    ]

    assert dict(zip(questions, answers, strict=True)) == dict.fromkeys(questions, "no") | {"get pods": "yes"}


def test_a_node_sees_no_key_of_another_node_or_of_the_administrator(cluster: None) -> None:
    keys = in_node("node2", ["sh", "-c", "cd /etc/kubernetes && ls *.key"])
    state = in_node("node2", ["ls", str(KUBECONFIG.readlink().parent)])

    assert keys.stdout.split() == ["kube-proxy.key", "kubelet.key"]
    assert (state.returncode, state.stdout) == (0, "")


def test_nothing_a_node_writes_reaches_the_machine(cluster: None) -> None:
    folders = "/etc /opt /usr/local /var/lib /run /tmp /root"

    in_node("node1", ["sh", "-c", f"for folder in {folders}; do echo mine >$folder/from-node1; done"])

    assert in_node("node1", ["cat", "/etc/from-node1"]).stdout == "mine\n"
    assert subprocess.run(f"ls {folders} | grep from-node1", shell=True, check=False).returncode == 1


def machine_address() -> str:
    """An address of the machine itself, outside the testbed."""
    links = subprocess.run(["ip", "-json", "-4", "address"], capture_output=True, text=True, check=True).stdout
    found = [info["local"] for link in json.loads(links) if link["ifname"] != "lo" for info in link["addr_info"]]
    return found[0] if found else FAR_AWAY


@pytest.mark.parametrize("address", [FAR_AWAY, machine_address()])
def test_neither_pods_nor_nodes_have_a_route_out_of_the_machine(
    kubectl: Kubectl, peers: dict[str, str], address: str
) -> None:
    began = time.monotonic()

    attempts = [in_pod(kubectl, "peer1", asking(address, 80)), in_node("node1", asking(address, 80))]

    assert ["No route to host" in attempt.stderr for attempt in attempts] == [True, True], attempts
    assert time.monotonic() - began < 40, "a connection that cannot be made should fail at once"


def test_up_leaves_a_running_cluster_alone(cluster: None) -> None:
    before = testbed("status").stdout

    again = testbed("up")

    assert again.returncode == 0
    assert testbed("status").stdout == before

"""Where our components run, what they write to their logs, and who may do what with chains."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import CHECKOUT, SYSTEM, Kubectl, eventually, example_chain, with_token

Json = dict[str, Any]

HANG_UP = """
import socket, ssl, struct, sys
lax = ssl._create_unverified_context()
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    for sent in (b"", b"GET /healthz HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n", b"\\x16\\x03\\x01", b"no HTTP\\r\\n\\r\\n"):
        for secured in (False, True):
            try:
                s = socket.create_connection((host, int(port)), 5)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset when it is closed
                s = lax.wrap_socket(s) if secured and port in ("8443", "9811", "9812") else s
                s.sendall(sent)
                s.close()
            except OSError:
                pass
"""
"""Connects to each place as probes and scanners do, and hangs up without reading."""


def containers() -> list[tuple[str, str]]:
    """(pod, container) of all that runs in our namespace, or ran there."""
    return [
        (pod["metadata"]["name"], container["name"])
        for pod in json.loads(SYSTEM("get", "pods", "-o", "json"))["items"]
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
    ]


def test_logs_are_json_lines_whoever_hangs_up(installed: None) -> None:
    ports = {"sfc-webhook": (8080, 8081, 8443, 9811, 9812), "sfc-cluster-controller": (8080, 9811), "sfc-node": (9811,)}
    pods = json.loads(SYSTEM("get", "pods", "-o", "json"))["items"]
    places = ["127.0.0.1:9808", "127.0.0.1:9809", "127.0.0.1:9810"] + [
        f"{pod['status']['podIP']}:{port}"
        for pod in pods
        for port in ports.get(pod["metadata"]["labels"].get("app.kubernetes.io/name", ""), ())
        if pod["status"].get("podIP")
    ]
    command = [sys.executable, "-m", "testbed", "exec", "node1", "/usr/bin/python3", "-c", HANG_UP, *places]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)

    logs = {(pod, name): SYSTEM.try_("logs", pod, "-c", name).stdout for pod, name in containers()}

    assert sum(map(len, logs.values())) > 0
    strange = {of: line for of, text in logs.items() for line in text.splitlines() if not _is_record(line)}
    assert strange == {}


def _is_record(line: str) -> bool:
    try:
        return {"level", "message"} <= json.loads(line).keys()
    except (ValueError, AttributeError):
        return False


@pytest.fixture
def strange_nodes(installed: None) -> Iterator[dict[str, Json]]:
    """Nodes that exist as objects only: of another architecture, and of another system."""
    made = {
        "arm-1": {"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"},
        "windows-1": {"kubernetes.io/os": "windows", "kubernetes.io/arch": "amd64"},
    }
    for name, labels in made.items():
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        Kubectl()("create", "-f", "-", stdin=json.dumps(node))
    yield made
    Kubectl()("delete", "node", *made)


def test_nodes_of_another_system_or_architecture_get_no_agent_and_hold_up_no_rollout(
    strange_nodes: dict[str, Json], kubectl: Kubectl
) -> None:
    template = {
        "metadata": {"labels": {"on": "every-node"}},
        "spec": {"tolerations": [{"operator": "Exists"}], "containers": [{"name": "idle", "image": "none"}]},
    }
    selector = {"matchLabels": {"on": "every-node"}}
    spec = {"selector": selector, "template": template}
    everywhere = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "everywhere"}, "spec": spec}
    kubectl("create", "-f", "-", stdin=json.dumps(everywhere))
    eventually(lambda: set(strange_nodes) <= _nodes_of(kubectl, "on=every-node"))  # the controller has seen the nodes

    SYSTEM("rollout", "status", "daemonset/sfc-node", "--timeout=90s")

    assert _nodes_of(SYSTEM, "app.kubernetes.io/part-of=sfc") & set(strange_nodes) == set()
    wanted = SYSTEM("get", "daemonset", "sfc-node", "-o", "jsonpath={.status.desiredNumberScheduled}")
    assert wanted == "2"


def _nodes_of(where: Kubectl, label: str) -> set[str]:
    """The nodes for which pods are made: a DaemonSet's controller names the node by an affinity."""
    pods = json.loads(where("get", "pods", "-l", label, "-o", "json"))["items"]
    text = [json.dumps(pod["spec"].get("affinity", {})) + str(pod["spec"].get("nodeName")) for pod in pods]
    return {name for name in ("arm-1", "windows-1", "node1", "node2") if any(name in each for each in text)}


@contextmanager
def somebody(kubectl: Kubectl, role: str, folder: Path) -> Iterator[Kubectl]:
    """Somebody with a ClusterRole of Kubernetes in the namespace."""
    kubectl("create", "serviceaccount", role)
    kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--serviceaccount={kubectl.namespace}:{role}")
    folder.mkdir()
    yield Kubectl(kubectl.namespace, with_token(folder, kubectl("create", "token", role)))


def test_the_roles_of_every_cluster_view_edit_and_admin_hold_for_chains(
    installed: None, kubectl: Kubectl, tmp_path: Path
) -> None:
    chain = json.dumps(example_chain(name="edge", namespace=str(kubectl.namespace)))
    with (
        somebody(kubectl, "admin", tmp_path / "admin") as admin,
        somebody(kubectl, "edit", tmp_path / "edit") as edit,
        somebody(kubectl, "view", tmp_path / "view") as view,
    ):
        eventually(lambda: admin.try_("auth", "can-i", "create", "servicefunctionchains.sfc.dev").returncode == 0)

        admin("apply", "-f", "-", stdin=chain)
        shown = eventually(lambda: view("get", "sfc,xc", "-o", "name").split()[1:])
        refused = view.try_("delete", "sfc", "edge")
        written_by_hand = admin.try_("delete", "xc", "--all")
        edit("annotate", "sfc", "edge", "changed=by-edit")
        edit("delete", "sfc", "edge")

    assert all(name.startswith("crossconnection.sfc.dev/edge.") for name in shown)
    assert "forbidden" in refused.stderr
    assert "forbidden" in written_by_hand.stderr

"""The rights of each component, as the API server grants them: these, and no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kube.api import MERGE_PATCH, ApiError, ApiServer
from tests.cluster.conftest import SYSTEM, Kubectl, as_bearer, eventually, example_chain

Json = dict[str, Any]
Rights = set[tuple[str, str, str]]
"""(resource, names to which the right is restricted, verb)"""

CHAINS, CONNECTIONS = "servicefunctionchains.sfc.dev", "crossconnections.sfc.dev"
NETWORKS = "network-attachment-definitions.k8s.cni.cncf.io"
CONFIGURATIONS = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")


def rights(resources: str, verbs: str, names: str = "") -> Rights:
    restricted = names.split() or [""]
    return {(r, name, verb) for r in resources.split() for name in restricted for verb in verbs.split()}


REVIEWS = rights("tokenreviews.authentication.k8s.io subjectaccessreviews.authorization.k8s.io", "create")
EVERYWHERE = {
    "sfc-webhook": REVIEWS | rights(f"{CHAINS} namespaces", "list watch"),
    "sfc-node": REVIEWS
    | rights(f"{CHAINS} {CONNECTIONS} pods", "list watch")
    | rights(f"{CONNECTIONS}/status pods/status", "patch")
    | rights("events", "create patch"),
    "sfc-cluster-controller": REVIEWS
    | rights(f"{CHAINS} {CONNECTIONS} {NETWORKS} pods", "list watch")
    | rights(f"{CONNECTIONS} {NETWORKS}", "create patch delete")
    | rights(f"{CHAINS}/status {CONNECTIONS}/status pods pods/status", "patch")
    | rights("events", "get create patch")
    | rights(" ".join(f"{c}.admissionregistration.k8s.io" for c in CONFIGURATIONS), "get patch", "sfc"),
}
IN_OUR_NAMESPACE = {
    "sfc-webhook": set(),
    "sfc-node": set(),
    "sfc-cluster-controller": rights(
        "secrets", "get update", "sfc-webhook-ca sfc-webhook-tls sfc-metrics-tls sfc-drain-key"
    )
    | rights("leases.coordination.k8s.io", "get update", "sfc-cluster-controller")
    | rights("secrets leases.coordination.k8s.io", "create"),
}


def listed(account: str, namespace: str) -> Rights:
    """`kubectl auth can-i --list`, without the rows about URLs."""
    who = f"--as=system:serviceaccount:sfc-system:{account}"
    head, *rows = Kubectl(namespace)("auth", "can-i", "--list", who).splitlines()
    columns = [head.index(title) for title in ("Resources", "Non-Resource URLs", "Resource Names", "Verbs")]
    found: Rights = set()
    for row in rows:
        resource, _, names, verbs = (
            row[start:end].strip() for start, end in zip(columns, [*columns[1:], None], strict=True)
        )
        if resource:
            found |= rights(resource, verbs.strip("[]"), names.strip("[]"))
    return found


@pytest.mark.parametrize("account", EVERYWHERE)
@pytest.mark.parametrize("namespace", ["default", "sfc-system"])
def test_component_may_do_what_it_needs_and_nothing_else(installed: None, account: str, namespace: str) -> None:
    of_anybody = listed("default", namespace)

    found = listed(account, namespace) - of_anybody

    assert found == EVERYWHERE[account] | (IN_OUR_NAMESPACE[account] if namespace == "sfc-system" else set())


@pytest.fixture(scope="module")
def agent_on(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ApiServer]:
    """A client of the API server as a node's agent, with a token like the agent's own, bound to its pod."""
    agents = json.loads(SYSTEM("get", "pods", "-l", "app.kubernetes.io/name=sfc-node", "-o", "json"))["items"]
    pods = {a["spec"]["nodeName"]: a["metadata"]["name"] for a in agents}
    folder = tmp_path_factory.mktemp("agents")

    def agent(node: str) -> ApiServer:
        return as_bearer(folder, "sfc-node", "--bound-object-kind=Pod", f"--bound-object-name={pods[node]}")

    return agent


@pytest.fixture(scope="module")
def pods(installed: None, kubectl: Kubectl) -> Iterator[dict[str, str]]:
    """The status path of a pod on each node. The pods need not run."""
    eventually(lambda: kubectl.try_("get", "serviceaccount", "default").returncode == 0)
    for node in ("node1", "node2"):
        spec = {"nodeName": node, "containers": [{"name": "idle", "image": "none", "imagePullPolicy": "Never"}]}
        kubectl("create", "-f", "-", stdin=json.dumps(pod(f"on-{node}", spec)))
    yield {n: f"/api/v1/namespaces/{kubectl.namespace}/pods/on-{n}/status" for n in ("node1", "node2")}


def pod(name: str, spec: Json) -> Json:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"mine": "kept"}}, "spec": spec}


WIRED = {"status": {"conditions": [{"type": "sfc.dev/wired", "status": "True"}]}}


def test_a_node_agent_writes_the_status_of_pods_of_its_own_node(
    agent_on: Callable[[str], ApiServer], pods: dict[str, str]
) -> None:
    for node in ("node1", "node2"):
        agent_on(node).patch(pods[node], WIRED, "application/strategic-merge-patch+json")


@pytest.mark.parametrize(("own", "other"), [("node1", "node2"), ("node2", "node1")])
def test_a_node_agent_cannot_touch_pods_of_another_node(
    agent_on: Callable[[str], ApiServer], pods: dict[str, str], own: str, other: str
) -> None:
    with pytest.raises(ApiError, match=f'pods of its own node only; its token is for node "{own}"') as refused:
        agent_on(own).patch(pods[other], WIRED, "application/strategic-merge-patch+json")

    assert refused.value.status == 422


def test_a_token_that_is_bound_to_no_node_writes_no_status(
    installed: None, pods: dict[str, str], tmp_path: Path
) -> None:
    unbound = as_bearer(tmp_path, "sfc-node")

    with pytest.raises(ApiError, match='its token is for node ""'):
        unbound.patch(pods["node1"], WIRED, "application/strategic-merge-patch+json")


@pytest.mark.parametrize("field", ["labels", "annotations"])
def test_a_node_agent_cannot_relabel_pods_by_way_of_their_status(
    agent_on: Callable[[str], ApiServer], pods: dict[str, str], field: str
) -> None:
    with pytest.raises(ApiError, match="status, not labels, annotations or finalizers"):
        agent_on("node1").patch(pods["node1"], {"metadata": {field: {"mine": "changed"}}}, MERGE_PATCH)


@pytest.mark.parametrize("verb", ["spec", "delete"])
def test_a_node_agent_can_neither_change_nor_delete_a_pod(
    agent_on: Callable[[str], ApiServer], pods: dict[str, str], verb: str
) -> None:
    path = pods["node1"].removesuffix("/status")
    agent = agent_on("node1")

    with pytest.raises(ApiError) as refused:
        agent.delete(path) if verb == "delete" else agent.patch(path, {"spec": {}}, MERGE_PATCH)

    assert refused.value.status == 403


@pytest.fixture(scope="module")
def connection(installed: None, kubectl: Kubectl) -> str:
    """The status path of a CrossConnection."""
    assert kubectl.namespace
    kubectl("apply", "-f", "-", stdin=json.dumps(example_chain(namespace=kubectl.namespace)))
    name = eventually(lambda: kubectl("get", "xc", "-o", "name").split("\n")[0]).rpartition("/")[2]
    return f"/apis/sfc.dev/v1alpha1/namespaces/{kubectl.namespace}/crossconnections/{name}/status"


def status(path: str, **content: Any) -> Json:
    name = path.split("/")[-2]
    return {
        "apiVersion": "sfc.dev/v1alpha1",
        "kind": "CrossConnection",
        "metadata": {"name": name},
        "status": content,
    }


def test_a_node_agent_writes_its_own_entry_of_a_cross_connection(
    agent_on: Callable[[str], ApiServer], connection: str
) -> None:
    for node in ("node1", "node2"):
        entry = {"name": node, "upstream": [], "downstream": []}
        written = agent_on(node).apply(connection, status(connection, nodes=[entry]), f"tests-{node}")

    assert {entry["name"] for entry in written["status"]["nodes"]} == {"node1", "node2"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param({"nodes": [{"name": "node3", "upstream": []}]}, "own entry", id="another node's entry"),
        pytest.param({"upstream": {"end": "a.b", "serving": 9, "draining": 0}}, "nothing else", id="the summary"),
    ],
)
def test_a_node_agent_cannot_write_what_others_report(
    agent_on: Callable[[str], ApiServer], connection: str, content: Json, message: str
) -> None:
    with pytest.raises(ApiError, match=message):
        agent_on("node1").apply(connection, status(connection, **content), "tests-forger")

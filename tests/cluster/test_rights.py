"""The rights of each component, as the API server grants them: these, and no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.cluster import plan
from kube.api import MERGE_PATCH, ApiError, ApiServer
from tests.cluster.conftest import KUBECONFIG, SYSTEM, Kubectl, as_bearer, eventually, example_chain

Json = dict[str, Any]
Rights = set[tuple[str, str, str]]
"""(resource, names to which the right is restricted, verb)"""

CHAINS, CONNECTIONS = "servicefunctionchains.sfc.dev", "crossconnections.sfc.dev"
NETWORKS = "network-attachment-definitions.k8s.cni.cncf.io"
CONFIGURATIONS = " ".join(
    f"{kind}webhookconfigurations.admissionregistration.k8s.io" for kind in ("mutating", "validating")
)


def rights(resources: str, verbs: str, names: str = "") -> Rights:
    restricted = names.split() or [""]
    return {(r, name, verb) for r in resources.split() for name in restricted for verb in verbs.split()}


APPS = "deployments.apps statefulsets.apps daemonsets.apps replicasets.apps"
WORKLOADS = f"{APPS} jobs.batch cronjobs.batch replicationcontrollers"
REVIEWS = rights("tokenreviews.authentication.k8s.io subjectaccessreviews.authorization.k8s.io", "create")
EVERYWHERE = {
    "sfc-webhook": REVIEWS | rights(f"{CHAINS} namespaces", "list watch"),
    "sfc-node": REVIEWS
    | rights(f"{CHAINS} {CONNECTIONS} pods", "list watch")
    | rights(f"{CONNECTIONS}/status pods/status", "patch")
    | rights("events", "create patch"),
    "sfc-cluster-controller": REVIEWS
    | rights(f"{CHAINS} {CONNECTIONS} {NETWORKS} pods nodes {WORKLOADS}", "list watch")
    | rights(f"{CONNECTIONS} {NETWORKS}", "create patch")
    | rights(CONNECTIONS, "delete")
    | rights(f"{CHAINS}/status {CONNECTIONS}/status pods pods/status", "patch")
    | rights("events", "get create patch"),
    "sfc-install": rights(CONFIGURATIONS, "get update", "sfc")
    | rights(CONFIGURATIONS, "create")
    | rights("namespaces", "get", "sfc-system"),
}
IN_OUR_NAMESPACE = {
    "sfc-webhook": set(),
    "sfc-node": set(),
    "sfc-cluster-controller": rights("secrets", "get update", "sfc-statement-key")
    | rights("configmaps", "get update", "sfc-statement-keys")
    | rights("leases.coordination.k8s.io", "get update", "sfc-cluster-controller")
    | rights("secrets configmaps leases.coordination.k8s.io", "create"),
    "sfc-install": rights(
        "secrets", "get update", "sfc-webhook-ca sfc-webhook-tls sfc-metrics-tls sfc-webhook-door sfc-hash-key"
    )
    | rights("secrets", "create")
    | rights("deployments.apps", "get", "sfc-webhook")
    | rights("pods", "list"),
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
        pytest.param({"nodeCount": 9}, "nothing else", id="the count of nodes"),
    ],
)
def test_a_node_agent_cannot_write_what_others_report(
    agent_on: Callable[[str], ApiServer], connection: str, content: Json, message: str
) -> None:
    with pytest.raises(ApiError, match=message):
        agent_on("node1").apply(connection, status(connection, **content), "tests-forger")


def test_the_entry_of_a_node_that_does_not_exist_any_more_is_withdrawn_and_no_other_one(connection: str) -> None:
    administrator = ApiServer.from_environment(str(KUBECONFIG))
    replica = {"pod": "long-gone", "uid": "of-no-pod", "state": "serving"}
    for node, manager in (("node2", "tests-node2"), ("node9", "sfc-node-node9")):
        entry = {"name": node, "upstream": [replica], "downstream": []}
        administrator.apply(connection, status(connection, nodes=[entry]), manager)

    def nodes() -> set[str]:
        return {each["name"] for each in administrator.get(connection)["status"]["nodes"]}

    eventually(lambda: "node9" not in nodes(), seconds=30)
    assert "node2" in nodes()


# --- the cluster controller -------------------------------------------------------------------------------------------

ANYWHERE = "/apis/k8s.cni.cncf.io/v1/namespaces/{}/network-attachment-definitions"
CONFIG = json.dumps(plan.NETWORK_CONFIG)


@pytest.fixture(scope="module")
def controller(installed: None, tmp_path_factory: pytest.TempPathFactory) -> ApiServer:
    """A client of the API server with a token of the cluster controller's account."""
    return as_bearer(tmp_path_factory.mktemp("controller"), "sfc-cluster-controller")


def network(config: str = CONFIG, **metadata: Any) -> Json:
    labels = {"app.kubernetes.io/managed-by": "sfc-cluster-controller"}
    named = {"name": "sfc", "labels": labels, **metadata}
    kind = "NetworkAttachmentDefinition"
    return {"apiVersion": "k8s.cni.cncf.io/v1", "kind": kind, "metadata": named, "spec": {"config": config}}


def test_the_cluster_controller_writes_no_webhook_configuration(controller: ApiServer) -> None:
    for kind in ("mutating", "validating"):
        path = f"/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations"
        for attempt in (
            lambda path=path: controller.get(f"{path}/sfc"),
            lambda path=path: controller.patch(f"{path}/sfc", {"webhooks": []}, MERGE_PATCH),
            lambda path=path: controller.create(path, {"metadata": {"name": "mine"}}),
        ):
            with pytest.raises(ApiError) as refused:
                attempt()
            assert refused.value.status == 403


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        pytest.param(network(name="other"), "no network but sfc", id="another name"),
        pytest.param(network(CONFIG.replace("static", "host-local")), "no other configuration", id="another config"),
        pytest.param(network('{"type": "host-device", "name": "sfc"}'), "no other configuration", id="a node's device"),
        pytest.param(network(labels={"a": "b"}), "no labels", id="labels"),
        pytest.param(network(annotations={"a": "b"}), "no labels", id="annotations"),
        pytest.param(network(finalizers=["a.b/c"]), "no labels", id="finalizers"),
        pytest.param(
            network(ownerReferences=[{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "u"}]),
            "belongs to chains only",
            id="another owner",
        ),
    ],
)
def test_the_cluster_controller_makes_no_network_but_its_own(
    controller: ApiServer, kubectl: Kubectl, obj: Json, reason: str
) -> None:
    with pytest.raises(ApiError, match=reason):
        controller.create(ANYWHERE.format(kubectl.namespace), obj)


def test_the_cluster_controller_neither_changes_nor_deletes_the_networks_of_others(
    controller: ApiServer, kubectl: Kubectl
) -> None:
    kubectl("create", "namespace", f"{kubectl.namespace}-net")
    place = f"{ANYWHERE.format(f'{kubectl.namespace}-net')}/sfc"
    admin = Kubectl(f"{kubectl.namespace}-net")
    admin("create", "-f", "-", stdin=json.dumps(network('{"type": "bridge"}', labels={"mine": "true"})))

    with pytest.raises(ApiError, match="somebody else's"):
        controller.apply(place, network(), "tests")
    with pytest.raises(ApiError) as refused:
        controller.delete(place)

    assert refused.value.status == 403
    Kubectl()("delete", "namespace", f"{kubectl.namespace}-net", "--wait=false")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"metadata": {"annotations": {"mine": "changed"}}}, "no annotations", id="an annotation"),
        pytest.param({"metadata": {"annotations": {"mine": None}}}, "no annotations", id="without an annotation"),
        pytest.param({"metadata": {"labels": {"app": "db"}}}, "no labels", id="a label"),
        pytest.param({"metadata": {"finalizers": ["a.b/c"]}}, "no labels, finalizers", id="a finalizer"),
        pytest.param(
            {"spec": {"schedulingGates": [{"name": "of.another/gate", "$patch": "delete"}]}},
            "no scheduling gate but",
            id="the gate of another",
        ),
        pytest.param({"spec": {"nodeSelector": {"a": "b"}}}, "nothing of a pod's spec", id="where it may run"),
        pytest.param({"spec": {"terminationGracePeriodSeconds": 1}}, "spec|Forbidden", id="how long it may end"),
        pytest.param({"spec": {"tolerations": [{"operator": "Exists"}]}}, "spec|Forbidden", id="what it tolerates"),
        pytest.param(
            {"spec": {"containers": [{"name": "idle", "image": "evil"}]}}, "nothing of a pod's spec", id="its image"
        ),
    ],
)
def test_the_cluster_controller_changes_nothing_of_a_pod_but_what_pods_wait_for(
    controller: ApiServer, gated: str, change: Json, reason: str
) -> None:
    with pytest.raises(ApiError, match=reason):
        controller.patch(gated, change, "application/strategic-merge-patch+json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"status": {"phase": "Succeeded"}}, "no status of a pod but", id="its phase"),
        pytest.param({"status": {"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]}}, "no status", id="its address"),
        pytest.param(
            {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, "no status of a pod but", id="Ready"
        ),
        pytest.param({"metadata": {"annotations": {"mine": "x"}}}, "none by status", id="an annotation"),
        pytest.param({"metadata": {"labels": {"app": "db"}}}, "no labels", id="a label"),
    ],
)
def test_the_cluster_controller_writes_no_status_but_its_own_condition(
    controller: ApiServer, gated: str, change: Json, reason: str
) -> None:
    with pytest.raises(ApiError, match=reason):
        controller.patch(f"{gated}/status", change, "application/strategic-merge-patch+json")


def test_the_cluster_controller_writes_what_it_has_to(controller: ApiServer, gated: str) -> None:
    strategic = "application/strategic-merge-patch+json"
    waits = {"type": "sfc.dev/wired", "status": "False", "reason": "NoFreeSourcePorts", "message": "waits"}

    controller.patch(f"{gated}/status", {"status": {"conditions": [waits]}}, strategic)
    patched = controller.patch(
        gated,
        {
            "metadata": {"annotations": {"sfc.dev/source-ports": "1024-5055"}},
            "spec": {"schedulingGates": [{"name": "of.another/gate"}]},
        },
        MERGE_PATCH,
    )

    assert patched["metadata"]["annotations"]["sfc.dev/source-ports"] == "1024-5055"
    assert patched["spec"]["schedulingGates"] == [{"name": "of.another/gate"}]


@pytest.fixture
def gated(installed: None, kubectl: Kubectl) -> Iterator[str]:
    """The path of a pod that waits behind our gate and another one. The webhook is kept out of the namespace."""
    eventually(lambda: kubectl.try_("get", "serviceaccount", "default").returncode == 0)
    kubectl("label", "namespace", str(kubectl.namespace), "sfc.dev/injection=disabled", "--overwrite")
    gates = [{"name": "sfc.dev/source-ports"}, {"name": "of.another/gate"}]
    made = pod("gated", {"schedulingGates": gates, "containers": [{"name": "idle", "image": "none"}]})
    made["metadata"] |= {"labels": {"sfc.dev/chain": "none", "app": "web"}, "annotations": {"mine": "kept"}}
    eventually(lambda: kubectl.try_("create", "-f", "-", stdin=json.dumps(made)).returncode == 0)
    yield f"/api/v1/namespaces/{kubectl.namespace}/pods/gated"
    kubectl("delete", "pod", "gated", "--grace-period=0", "--force")
    kubectl("label", "namespace", str(kubectl.namespace), "sfc.dev/injection-")


def crossing(**metadata: Any) -> Json:
    ends = {"upstream": {"stage": "a", "interface": "o"}, "downstream": {"stage": "b", "interface": "i"}}
    owner = {
        "apiVersion": "sfc.dev/v1alpha1",
        "kind": "ServiceFunctionChain",
        "name": "c",
        "uid": "u",
        "controller": True,
    }
    named = {"name": "c.a.o.b.i", "labels": {"sfc.dev/chain": "c"}, "ownerReferences": [owner], **metadata}
    return {
        "apiVersion": "sfc.dev/v1alpha1",
        "kind": "CrossConnection",
        "metadata": named,
        "spec": {"chain": "c", **ends},
    }


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        pytest.param(crossing(name="x"), "called by its chain and its ends", id="another name"),
        pytest.param(crossing(ownerReferences=[]), "belongs to its chain only", id="no owner"),
        pytest.param(
            crossing(
                ownerReferences=[
                    {"apiVersion": "apps/v1", "kind": "Deployment", "name": "c", "uid": "u", "controller": True}
                ]
            ),
            "belongs to its chain only",
            id="another owner",
        ),
        pytest.param(crossing(labels={"sfc.dev/chain": "c", "x": "y"}), "no labels", id="labels"),
    ],
)
def test_the_cluster_controller_makes_cross_connections_of_chains_only(
    controller: ApiServer, kubectl: Kubectl, obj: Json, reason: str
) -> None:
    with pytest.raises(ApiError, match=reason):
        controller.create(f"/apis/sfc.dev/v1alpha1/namespaces/{kubectl.namespace}/crossconnections", obj)


def test_the_cluster_controller_writes_the_summary_of_cross_connections_and_nothing_else(
    controller: ApiServer, connection: str
) -> None:
    marks = {"labels": {"mine": "x"}, "annotations": {"mine": "x"}, "finalizers": ["a.b/c"]}

    written = controller.patch(connection, {"metadata": marks}, MERGE_PATCH)
    with pytest.raises(ApiError, match="belongs to the node agents"):
        nodes = [{"name": "node9", "upstream": [], "downstream": []}]
        controller.patch(connection, {"status": {"nodes": nodes}}, MERGE_PATCH)

    assert "mine" not in str(written["metadata"].get("labels")) + str(written["metadata"].get("annotations"))
    assert "finalizers" not in written["metadata"]


def test_the_cluster_controller_gets_no_token_of_another_account(controller: ApiServer) -> None:
    notes = {"kubernetes.io/service-account.name": "sfc-install"}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "sfc-statement-key", "annotations": notes},
    }
    secrets = "/api/v1/namespaces/sfc-system/secrets"

    with pytest.raises(ApiError, match="no Secrets but of the type Opaque"):
        controller.create(secrets, secret)
    with pytest.raises(ApiError, match="but its own"):
        controller.create(secrets, {**secret, "type": "Opaque", "metadata": {"name": "sfc-webhook-ca2"}})
    for name in ("sfc-webhook-ca", "sfc-webhook-tls", "sfc-webhook-door", "sfc-hash-key"):
        with pytest.raises(ApiError) as refused:
            controller.get(f"{secrets}/{name}")
        assert refused.value.status == 403


def test_the_cluster_controller_writes_no_events_but_its_own(controller: ApiServer, kubectl: Kubectl) -> None:
    about = {"kind": "Pod", "namespace": kubectl.namespace, "name": "x"}
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "forged", "namespace": kubectl.namespace},
        "involvedObject": about,
        "source": {"component": "kubelet"},
        "reason": "Killing",
        "message": "x",
    }

    with pytest.raises(ApiError, match="no events but its own"):
        controller.create(f"/api/v1/namespaces/{kubectl.namespace}/events", event)

"""Every kind of workload, written in all the ways that users write them, on a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.cluster.conftest import Kubectl, eventually, example_chain

Json = dict[str, Any]

LABELS = {"sfc.dev/chain": "edge", "sfc.dev/stage": "nat"}
NETWORKS, DRAIN_ID = "k8s.v1.cni.cncf.io/networks", "sfc.dev/drain-id"
SPEC = {
    "containers": [{"name": "nat", "image": "localhost/none", "imagePullPolicy": "Never"}],
    "nodeSelector": {"example.com/there-is": "no-such-node"},
}
TEMPLATE = {"metadata": {"labels": {"app": "nat"}}, "spec": SPEC}
JOB_TEMPLATE = {**TEMPLATE, "spec": {**SPEC, "restartPolicy": "Never"}}
SELECTED = {"selector": {"matchLabels": {"app": "nat"}}, "template": TEMPLATE}
WORKLOADS = {
    "Deployment": ("apps/v1", {**SELECTED, "replicas": 0}),
    "StatefulSet": ("apps/v1", {**SELECTED, "replicas": 0, "serviceName": "nat"}),
    "DaemonSet": ("apps/v1", SELECTED),
    "ReplicaSet": ("apps/v1", {**SELECTED, "replicas": 0}),
    "ReplicationController": ("v1", {"selector": {"app": "nat"}, "template": TEMPLATE, "replicas": 0}),
    "Job": ("batch/v1", {"suspend": True, "template": JOB_TEMPLATE}),
    "CronJob": ("batch/v1", {"schedule": "@yearly", "jobTemplate": {"spec": {"template": JOB_TEMPLATE}}}),
}


@pytest.fixture(scope="module")
def telco(installed: None, kubectl: Kubectl) -> Iterator[Kubectl]:
    """A namespace with the example chain, and no workload."""
    assert kubectl.namespace
    eventually(lambda: kubectl.try_("get", "serviceaccount", "default").returncode == 0)
    kubectl("apply", "-f", "-", stdin=json.dumps(example_chain(namespace=kubectl.namespace)))
    return kubectl


def workload(kind: str, labels: dict[str, str]) -> Json:
    version, spec = WORKLOADS[kind]
    metadata = {"name": f"nat-{uuid4().hex[:6]}", "labels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def pod(name: str) -> Json:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": LABELS}, "spec": SPEC}


def template_labels(obj: Json) -> dict[str, str]:
    spec = obj["spec"]["jobTemplate"]["spec"] if obj["kind"] == "CronJob" else obj["spec"]
    labels: dict[str, str] = spec["template"]["metadata"].get("labels", {})
    return {key: value for key, value in labels.items() if key in LABELS}


def get(telco: Kubectl, obj: Json) -> Json:
    found: Json = json.loads(telco("get", obj["kind"], obj["metadata"]["name"], "-o", "json"))
    return found


@pytest.mark.parametrize("kind", WORKLOADS)
def test_a_dry_run_shows_the_labels_in_the_template_and_leaves_no_trace(telco: Kubectl, kind: str) -> None:
    obj = workload(kind, LABELS)

    shown = json.loads(telco("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(obj)))

    assert template_labels(shown) == LABELS
    assert "NotFound" in telco.try_("get", kind, obj["metadata"]["name"]).stderr


@pytest.mark.parametrize("kind", WORKLOADS)
def test_labelling_carries_and_unlabelling_restores(telco: Kubectl, kind: str) -> None:
    obj = workload(kind, {})
    telco("create", "-f", "-", stdin=json.dumps(obj))
    before = get(telco, obj)["spec"]
    name = obj["metadata"]["name"]

    telco("label", kind, name, *(f"{key}={value}" for key, value in LABELS.items()))
    labelled = template_labels(get(telco, obj))
    telco("label", kind, name, *(f"{key}-" for key in LABELS))

    assert labelled == LABELS
    assert get(telco, obj)["spec"] == before
    telco("delete", kind, name, "--wait=false")


@pytest.mark.parametrize("mode", ["--server-side=true", "--server-side=false"])
def test_applying_again_changes_nothing_and_applying_without_labels_takes_them_out(telco: Kubectl, mode: str) -> None:
    obj = workload("Deployment", LABELS)
    bare = {**obj, "metadata": {"name": obj["metadata"]["name"]}}

    telco("apply", mode, "-f", "-", stdin=json.dumps(obj))
    first = get(telco, obj)
    telco("apply", mode, "-f", "-", stdin=json.dumps(obj))
    again = get(telco, obj)
    telco("apply", mode, "-f", "-", stdin=json.dumps(bare))

    assert template_labels(first) == LABELS
    assert again["metadata"]["generation"] == first["metadata"]["generation"], "nothing rolls"
    assert template_labels(get(telco, obj)) == {}


def test_a_job_that_was_started_says_that_it_is_too_late(telco: Kubectl) -> None:
    obj = workload("Job", {})
    obj["spec"] = {**obj["spec"], "suspend": False}
    telco("create", "-f", "-", stdin=json.dumps(obj))
    eventually(lambda: get(telco, obj).get("status", {}).get("startTime"))

    done = telco.try_("label", "job", obj["metadata"]["name"], *(f"{key}={value}" for key, value in LABELS.items()))

    assert done.returncode == 0
    assert "Warning: the template of a Job that was started cannot change" in done.stderr
    telco("delete", "job", obj["metadata"]["name"], "--wait=false")


def test_a_rollback_changes_no_membership_unseen(telco: Kubectl) -> None:
    obj = workload("Deployment", {})
    telco("create", "-f", "-", stdin=json.dumps(obj))
    name = obj["metadata"]["name"]
    labels = [f"{key}={value}" for key, value in LABELS.items()]

    def label(*changes: str) -> str:
        """Returns when the Deployment has the ReplicaSet of its template, to which a rollback can go."""
        done = telco.try_("label", "deployment", name, *changes)
        assert done.returncode == 0, done.stderr
        telco("rollout", "status", "deployment", name, "--timeout=60s")
        return done.stderr

    telco("rollout", "status", "deployment", name, "--timeout=60s")
    label(*labels)
    kept = telco.try_("rollout", "undo", "deployment", name)
    after_labelling = template_labels(get(telco, obj))
    label(*(f"{key}-" for key in LABELS))
    without = template_labels(get(telco, obj))
    back = telco.try_("rollout", "undo", "deployment", name)
    after_unlabelling = template_labels(get(telco, obj))
    label(*labels)
    label(*(f"{key}-" for key in LABELS))

    assert "Warning: the pod template keeps the labels sfc.dev/chain and sfc.dev/stage" in kept.stderr
    assert after_labelling == LABELS
    assert without == {}
    assert f"its pods become replicas; to take them out: kubectl label deployment {name} " in back.stderr
    assert after_unlabelling == LABELS
    assert template_labels(get(telco, obj)) == {}, "what the warning says takes them out"
    telco("delete", "deployment", name, "--wait=false")


def test_labels_that_reach_no_pod_are_answered_at_once(telco: Kubectl) -> None:
    labels = [f"{key}={value}" for key, value in LABELS.items()]
    owner = json.loads(telco("get", "serviceaccount", "default", "-o", "json"))["metadata"]
    owned, plain = workload("Deployment", {}), pod("runs-already")
    reference = {
        "apiVersion": "example.com/v1",
        "kind": "Gateway",
        "name": "edge",
        "uid": owner["uid"],
        "controller": True,
    }
    owned["metadata"]["ownerReferences"] = [reference]
    plain["metadata"]["labels"] = {}
    by_hand = workload("Deployment", {})
    template = {**TEMPLATE, "metadata": {**TEMPLATE["metadata"], "annotations": {NETWORKS: "sfc@lan"}}}  # type: ignore[dict-item]
    by_hand["spec"] = {**by_hand["spec"], "template": template}
    hand_made = {**pod("by-hand"), "metadata": {"name": "by-hand", "annotations": {NETWORKS: "sfc@lan"}}}
    telco("create", "-f", "-", stdin=json.dumps(plain))

    def said(obj: Json, *changes: str, dry: str = "--dry-run=server") -> str:
        if changes:
            return telco.try_("label", obj["kind"], obj["metadata"]["name"], dry, *changes).stderr
        return telco.try_("create", "-f", "-", dry, stdin=json.dumps(obj)).stderr

    owned["metadata"]["labels"] = LABELS
    assert 'do not reach its pods: Gateway "edge" owns it' in said(owned)
    assert "a running pod does not become a replica by the labels" in said(plain, *labels)
    for obj in (by_hand, hand_made):
        assert 'network "sfc" is written by hand' in said(obj)
    telco("label", "namespace", str(telco.namespace), "sfc.dev/injection=disabled")
    try:
        assert "the namespace has the label sfc.dev/injection=disabled" in eventually(lambda: said(plain, *labels))
        assert "the namespace has the label sfc.dev/injection=disabled" in said(workload("Deployment", LABELS))
        chain = {**example_chain(namespace=str(telco.namespace)), "metadata": {"name": "other"}}
        assert "the chain is not checked and gets no replicas" in said(chain)
    finally:
        telco("label", "namespace", str(telco.namespace), "sfc.dev/injection-")
    telco("delete", "pod", "runs-already", "--grace-period=0", "--force")


def test_what_multus_or_the_kernel_would_refuse_later_is_refused_at_once_with_the_remedy(telco: Kubectl) -> None:
    def refusal(annotations: dict[str, str] | None = None, *sysctls: Json) -> str:
        obj = pod("refused")
        obj["metadata"]["annotations"] = annotations or {}
        obj["spec"] = {**SPEC, "securityContext": {"sysctls": list(sysctls)}}
        done = telco.try_("create", "--dry-run=server", "-f", "-", stdin=json.dumps(obj))
        assert done.returncode, done.stdout
        return done.stderr

    assert "write namespace and name apart" in refusal({NETWORKS: '[{"name": "other/n6-net"}]'})
    for name, value in (
        ("net.ipv4.ip_local_reserved_ports", "1024-60000"),
        ("net/ipv4/ip_unprivileged_port_start", "5000"),
    ):
        assert "remove the sysctl, or sourcePorts" in refusal(None, {"name": name, "value": value})


def test_a_default_of_kubernetes_and_another_way_to_write_a_value_are_no_complaint(telco: Kubectl) -> None:
    chain = example_chain(name="other", namespace=str(telco.namespace))
    chain["spec"]["drain"]["deadlineSeconds"] = 60
    interface = chain["spec"]["stages"][2]["interfaces"][0]
    interface |= {"addresses": ["10.1.0.1/24", "fd50::1/64"], "mac": "02:aa:00:00:00:01"}
    telco("apply", "-f", "-", stdin=json.dumps(chain))
    obj = workload("Deployment", {})
    telco("create", "-f", "-", stdin=json.dumps(obj))
    labels = ["sfc.dev/chain=other", "sfc.dev/stage=nat"]

    labelled = telco.try_("label", "deployment", obj["metadata"]["name"], *labels)
    message = eventually(lambda: _ready_message(telco, "other", "has 0 replicas"))
    telco("scale", "deployment", obj["metadata"]["name"], "--replicas=1")
    eventually(lambda: _replicas(telco, "other") == 1)
    interface |= {"addresses": ["FD50::1/64", "10.1.0.1/24"], "mac": "02:AA:00:00:00:01"}
    again = telco.try_("apply", "-f", "-", stdin=json.dumps(chain))

    assert labelled.returncode == 0
    assert "terminationGracePeriodSeconds" not in labelled.stderr
    assert "scale it up" in message
    assert again.returncode == 0, again.stderr
    telco("delete", "deployment", obj["metadata"]["name"], "--wait=false")
    telco("delete", "sfc", "other")


def _ready_message(telco: Kubectl, chain: str, words: str) -> str:
    """The message of the chain's condition Ready, once it has these words."""
    status = json.loads(telco("get", "sfc", chain, "-o", "json")).get("status", {})
    messages = (str(c["message"]) for c in status.get("conditions", ()) if c["type"] == "Ready")
    return next((message for message in messages if words in message), "")


def _replicas(telco: Kubectl, chain: str) -> int:
    """How many replicas stage "nat" of the chain has by its status."""
    stages = json.loads(telco("get", "sfc", chain, "-o", "json")).get("status", {}).get("stages", ())
    return sum(stage["replicas"] for stage in stages if stage["name"] == "nat")


def test_a_dry_run_of_a_pod_shows_the_injection_and_leaves_no_trace(telco: Kubectl) -> None:
    shown = json.loads(telco("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(pod("dry"))))

    assert [e["interface"] for e in json.loads(shown["metadata"]["annotations"][NETWORKS])] == ["inside", "outside"]
    assert shown["spec"]["containers"][0]["lifecycle"]["preStop"]["httpGet"]["host"] == "127.0.0.1"
    assert "NotFound" in telco.try_("get", "pod", "dry").stderr


def test_copies_for_debugging_are_replicas_of_their_own_or_none(telco: Kubectl) -> None:
    telco("create", "-f", "-", stdin=json.dumps(pod("original")))
    copy = ("debug", "original", "--image=localhost/none", "--attach=false", "--profile=general")

    telco(*copy, "--copy-to=without-labels")
    telco(*copy, "--copy-to=with-labels", "--keep-labels", "--keep-annotations")

    original, without, labelled = (
        json.loads(telco("get", "pod", name, "-o", "json")) for name in ("original", "without-labels", "with-labels")
    )
    ids = [obj["metadata"]["annotations"][DRAIN_ID] for obj in (original, labelled)]
    assert ids[0] != ids[1]
    assert ids[0] not in json.dumps(labelled["spec"])
    assert not LABELS.keys() & without["metadata"].get("labels", {}).keys()
    assert "sfc.dev" not in json.dumps(
        [without["metadata"].get("annotations", {}), without["spec"].get("readinessGates", [])]
    )
    assert "/drain/" not in json.dumps(without["spec"])
    telco("delete", "pod", "without-labels", "with-labels", "original", "--grace-period=0", "--force")


def test_an_ephemeral_container_is_added_and_left_alone(telco: Kubectl) -> None:
    telco("create", "-f", "-", stdin=json.dumps(pod("debugged")))

    def spec() -> Json:
        found: Json = json.loads(telco("get", "pod", "debugged", "-o", "json"))["spec"]
        return found

    eventually(lambda: "schedulingGates" not in spec())  # then it has source ports, and no other component changes it
    before = spec()

    telco("debug", "debugged", "--image=localhost/none", "--attach=false", "--profile=general", "--container=look")

    after = spec()
    assert [container["name"] for container in after.pop("ephemeralContainers")] == ["look"]
    assert after == before
    telco("delete", "pod", "debugged", "--grace-period=0", "--force")


def test_addresses_stay_while_a_stage_has_replicas_and_a_deletion_says_whom_it_hits(telco: Kubectl) -> None:
    telco("create", "-f", "-", stdin=json.dumps(pod("replica")))

    eventually(lambda: _replicas(telco, "edge") == 1)
    moved = example_chain(namespace=str(telco.namespace))
    moved["spec"]["stages"][2]["interfaces"][0]["addresses"] = ["10.1.0.9/24"]

    refused = telco.try_("apply", "-f", "-", stdin=json.dumps(moved))
    deleted = telco.try_("delete", "sfc", "edge", "--dry-run=server")

    assert 'cannot change from "10.1.0.1/24" while stage "nat" has replicas (1)' in refused.stderr
    assert deleted.returncode == 0
    assert 'stages that still have replicas: "nat" (1)' in deleted.stderr
    telco("delete", "pod", "replica", "--grace-period=0", "--force")
    eventually(lambda: _replicas(telco, "edge") == 0)
    telco("apply", "-f", "-", stdin=json.dumps(moved))

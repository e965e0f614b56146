"""What a chain says about a stage whose labels are there and whose replicas are not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from controller.cluster import status
from controller.cluster.snapshot import pod_of
from controller.cluster.workloads import KINDS, Workload, collections, workload_of
from kube import lean
from sfc.validation.checks import parse
from tests.unit import objects

Json = dict[str, Any]

CHAIN = parse(objects.chain())
LABELS = {"sfc.dev/chain": "edge", "sfc.dev/stage": "nat"}
LABEL_ONE = "label a workload sfc.dev/chain=edge,sfc.dev/stage="


def obj(text: str, *, carried: bool = True, owner: str = "", kind: str = "Deployment") -> Json:
    """A labelled workload with this spec (and status, if it has one), as the watch of its kind gives it."""
    found: Json = {"kind": kind, "metadata": {"name": "nat", "namespace": "telco", "labels": LABELS}}
    parts = yaml.safe_load(text) or {}
    found["status"] = parts.pop("status", {})
    template = {"metadata": {"labels": {"app": "nat", **(LABELS if carried else {})}}, "spec": {"containers": []}}
    found["spec"] = parts | (
        {"jobTemplate": {"spec": {"template": template}}} if kind == "CronJob" else {"template": template}
    )
    if owner:
        found["metadata"]["ownerReferences"] = [{"kind": owner, "name": "nat", "controller": True}]
    event = lean.WORKLOAD.event(json.dumps({"type": "ADDED", "object": found}).encode())
    read: Json = event["object"]
    return read


def pod(name: str, annotations: Json, wired: str = "False") -> Json:
    metadata = {"name": name, "namespace": "telco", "uid": name, "resourceVersion": "1", "labels": LABELS}
    conditions = [{"type": "sfc.dev/wired", "status": wired}]
    return {
        "metadata": {**metadata, "annotations": annotations},
        "spec": {"nodeName": "n1"},
        "status": {"conditions": conditions},
    }


def said(workloads: list[Workload], pods: tuple[Json, ...] = ()) -> str:
    """What the chain's condition says of its stage nat, if the others serve."""
    counts = status.stage_counts(CHAIN, map(pod_of, pods), workloads)
    condition = status.chain_ready(CHAIN, [c for c in counts if c.name == "nat"], [], [], None)
    return str(condition.of({"metadata": {}}, datetime(2027, 1, 1, tzinfo=UTC))["message"])


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (obj("replicas: 0"), "Deployment nat has the labels, but has 0 replicas: scale it up"),
        (
            obj("replicas: 2", owner="Gateway", carried=False),
            "Deployment nat has the labels, but Gateway nat writes its pod template: write them into the pod template "
            "of Gateway nat",
        ),
        (
            obj("replicas: 2", kind="ReplicaSet", owner="Deployment", carried=False),
            "ReplicaSet nat has the labels, but Deployment nat writes its pod template: label Deployment nat",
        ),
        (
            obj("replicas: 2", carried=False),
            "Deployment nat has the labels, but its pod template has not, because nobody asked the webhook (does the "
            "namespace have the label sfc.dev/injection=disabled?): write the labels again",
        ),
        (obj("{replicas: 2, paused: true}"), "Deployment nat has the labels, but is paused or suspended: resume it"),
        (obj("{suspend: true}", kind="Job"), "Job nat has the labels, but is paused or suspended: resume it"),
        (obj("{suspend: true}", kind="CronJob"), "CronJob nat has the labels, but is paused or suspended: resume it"),
        (obj("{schedule: '@daily'}", kind="CronJob"), "CronJob nat makes a pod at its next time"),
        (
            obj("{status: {conditions: [{type: Complete, status: 'True'}]}}", kind="Job"),
            "Job nat is over: create it anew",
        ),
        (
            obj("{status: {desiredNumberScheduled: 0}}", kind="DaemonSet"),
            "DaemonSet nat has the labels, but fits no node: see its nodeSelector",
        ),
        (
            obj("{replicas: 2, updateStrategy: {type: OnDelete}}", kind="StatefulSet"),
            "StatefulSet nat has the labels, but does not replace its running pods: delete them",
        ),
        (
            obj("replicas: 2", kind="ReplicaSet"),
            "ReplicaSet nat has the labels, but does not replace its running pods: delete them",
        ),
        (
            obj("replicas: 2", kind="ReplicationController"),
            "ReplicationController nat has the labels, but does not replace its running pods: delete them",
        ),
        (
            obj("replicas: 2"),
            "Deployment nat has the labels, but no pod: see kubectl describe deployment nat",
        ),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_a_stage_whose_labels_are_there_says_what_keeps_its_pods_away(workload: Json, words: str) -> None:
    message = said([workload_of(workload)])

    assert message == f"no pod for nat: {words}"


def test_without_a_labelled_workload_the_chain_asks_for_labels() -> None:
    other = {
        **obj("replicas: 0"),
        "metadata": {"name": "x", "namespace": "telco", "labels": LABELS | {"sfc.dev/stage": "x"}},
    }

    for workloads in ([], [workload_of(other)]):
        assert said(workloads).startswith(f"no pod for nat: {LABEL_ONE}nat, or scale up one")


def test_what_an_owner_carried_into_its_workload_is_the_owners_affair() -> None:
    """A ReplicaSet that its Deployment scaled down keeps the labels of its time."""
    former = workload_of(obj("replicas: 0", kind="ReplicaSet", owner="Deployment"))

    assert said([former]).startswith(f"no pod for nat: {LABEL_ONE}nat")
    assert said([former, workload_of(obj("replicas: 0"))]) == (
        "no pod for nat: Deployment nat has the labels, but has 0 replicas: scale it up"
    )


def test_running_pods_that_were_labelled_later_are_not_taken_for_replicas() -> None:
    replica = pod("nat-1", {"k8s.v1.cni.cncf.io/networks": '[{"name":"sfc"}]'})
    strangers = (pod("web-1", {}), pod("web-2", {"k8s.v1.cni.cncf.io/networks": "sfc@lan"}))

    assert said([], strangers) == (
        "no serving replica of nat: its pods (web-1, web-2) were not made as replicas; they ran already when they were "
        "labelled, or nobody asked the webhook (does the namespace have the label sfc.dev/injection=disabled?): label "
        "their workload, or create them anew"
    )
    assert said([], (*strangers, replica)).startswith("no serving replica of nat: see kubectl describe pods")


def test_a_stage_that_serves_says_nothing_about_its_workloads() -> None:
    serving = pod("nat-1", {}, wired="True")

    assert said([workload_of(obj("replicas: 0"))], (serving,)) == "every stage has a replica that serves"


def test_every_kind_that_the_webhook_carries_labels_into_is_watched_by_its_label() -> None:
    watched = collections()

    assert {kind.plural for kind in KINDS} == set(watched)
    assert watched["cronjobs"].path == "/apis/batch/v1/cronjobs"
    assert watched["replicationcontrollers"].path == "/api/v1/replicationcontrollers"
    assert {collection.params["labelSelector"] for collection in watched.values()} == {"sfc.dev/chain"}

"""Replicas whose readiness depends on traffic through their chain, on a real Kubernetes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.conftest import Kubectl, eventually
from tests.cluster.tenants import NF_IMAGE

Json = dict[str, Any]

ADDRESSES = {"one": "10.1.0.1", "other": "10.1.0.2"}
CHAIN = {
    "apiVersion": "sfc.dev/v1alpha1",
    "kind": "ServiceFunctionChain",
    "metadata": {"name": "pair"},
    "spec": {
        "stages": [
            {"name": name, "interfaces": [{"name": "lan", "addresses": [f"{address}/24"]}]}
            for name, address in ADDRESSES.items()
        ],
        "drain": {"deadlineSeconds": 1},
    },
}


def pod(stage: str, asked: str) -> Json:
    """A replica that is ready once it reaches an address through the chain."""
    probe = {"exec": {"command": ["ping", "-c", "1", "-W", "1", asked]}, "periodSeconds": 1, "timeoutSeconds": 3}
    container = {"name": "nf", "image": NF_IMAGE, "imagePullPolicy": "Never", "command": ["sleep", "infinity"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": stage, "labels": {"sfc.dev/chain": "pair", "sfc.dev/stage": stage}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "node1"},
            "containers": [{**container, "readinessProbe": probe}],
        },
    }


@pytest.fixture
def pair(installed: None, kubectl: Kubectl) -> Iterator[Kubectl]:
    """Two stages, each with a replica whose probe reaches that of the other."""
    eventually(lambda: kubectl.try_("get", "serviceaccount", "default").returncode == 0)
    kubectl("apply", "-f", "-", stdin=json.dumps(CHAIN))
    for stage, asked in zip(ADDRESSES, reversed(ADDRESSES.values()), strict=True):
        manifest = json.dumps(pod(stage, asked))
        eventually(lambda manifest=manifest: kubectl.try_("apply", "-f", "-", stdin=manifest).returncode == 0)  # type: ignore[misc]
    yield kubectl
    kubectl("delete", "pod", "--all", "--now")
    kubectl("delete", "sfc", "pair")


def wired(kubectl: Kubectl, stage: str) -> str:
    path = '{.status.conditions[?(@.type=="sfc.dev/wired")].message}'
    return kubectl("get", "pod", stage, "-o", f"jsonpath={path}")


def test_two_stages_that_wait_for_each_other_say_so_and_come_up_once_one_of_them_is_published(pair: Kubectl) -> None:
    for stage, other in zip(ADDRESSES, reversed(ADDRESSES), strict=True):
        eventually(lambda stage=stage, other=other: f"stage {other} on this node waits" in wired(pair, stage))  # type: ignore[misc]
    ready = pair("get", "pods", "-o", 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}')
    change = [{"op": "add", "path": "/spec/stages/0/publishNotReadyAddresses", "value": True}]

    refused = pair.try_("patch", "sfc", "pair", "--type=json", "-p", json.dumps([{**change[0], "value": "yes"}]))
    pair("patch", "sfc", "pair", "--type=json", "-p", json.dumps(change))
    pair("wait", "pod/one", "pod/other", "--for=condition=Ready", "--timeout=60s")

    assert ready.split() == ["False", "False"]
    assert "publishNotReadyAddresses" in refused.stderr
    pair("wait", "sfc/pair", "--for=condition=Ready", "--timeout=30s")

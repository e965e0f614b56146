"""What the API server refuses to the cluster controller, and what it does for one object only, on a real Kubernetes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kube.api import ApiError, ApiServer
from kube.objects import CONNECTIONS
from tests.cluster.conftest import KUBECONFIG, Kubectl, eventually, example_chain

QUOTA = ("crossconnections.sfc.dev", "network-attachment-definitions.k8s.cni.cncf.io")


def ready(kubectl: Kubectl) -> dict[str, Any]:
    chain = json.loads(kubectl("get", "sfc", "edge", "-o", "json"))
    conditions = chain.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == "Ready"), {"reason": "", "message": ""})


def events(kubectl: Kubectl) -> set[str]:
    found = json.loads(kubectl("get", "events", "-o", "json"))["items"]
    return {event["reason"] for event in found if event["involvedObject"]["name"] == "edge"}


def test_a_quota_is_named_by_condition_and_event_and_deletions_meet_only_what_they_mean(
    installed: None, kubectl: Kubectl
) -> None:
    hard = ",".join(f"count/{kind}=0" for kind in QUOTA)
    kubectl("create", "quota", "none", f"--hard={hard}")
    eventually(lambda: kubectl("get", "quota", "none", "-o", "jsonpath={.status.used}"))

    eventually(
        lambda: (
            kubectl.try_(
                "apply", "-f", "-", stdin=json.dumps(example_chain(name="edge", namespace=str(kubectl.namespace)))
            ).returncode
            == 0
        )
    )

    eventually(
        lambda: "NetworkAttachmentDefinition sfc" in ready(kubectl)["message"] or " more: " in ready(kubectl)["message"]
    )
    said = ready(kubectl)
    assert said["reason"] == "ObjectsRefused"
    assert "exceeded quota: none" in said["message"]
    eventually(lambda: "ObjectsRefused" in events(kubectl))
    assert "CrossConnectionsCreated" not in events(kubectl)

    kubectl("delete", "quota", "none")

    eventually(lambda: ready(kubectl)["reason"] == "StageEmpty")
    eventually(lambda: "CrossConnectionsCreated" in events(kubectl))
    name = kubectl("get", "xc", "-o", "jsonpath={.items[0].metadata.name}")
    path = CONNECTIONS.path(kubectl.namespace or "", name)
    api = ApiServer.from_environment(str(KUBECONFIG))
    with pytest.raises(ApiError) as caught:
        api.delete(path, uid="of-another-one")
    assert caught.value.status == 409
    kubectl("get", "xc", name)

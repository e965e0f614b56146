"""Admission of a pod or a workload costs what its size costs, whatever it is made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sfc.chain import Hook
from tests.statements import SIGNER
from tests.unit.growth import steps
from tests.unit.test_webhook_golden import find
from webhook import review
from webhook.decide import mutate
from webhook.decide.model import AdmissionRequest, Decision

Json = dict[str, Any]
LABELS = {"sfc.dev/chain": "edge", "sfc.dev/stage": "nat"}


def pod(count: int) -> Json:
    """So many of everything that admission looks at."""
    networks = [{"name": f"net-{i}", "interface": f"n{i}", "ips": ["10.9.0.1/24"]} for i in range(count)]
    term = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}
    preferred = [{"weight": 1, "podAffinityTerm": term} for _ in range(count)]
    return {
        "metadata": {
            "name": "nat-1",
            "labels": LABELS,
            "annotations": {"k8s.v1.cni.cncf.io/networks": json.dumps(networks)},
        },
        "spec": {
            "containers": [{"name": f"c{i}", "env": [{"name": "A", "value": "b"}]} for i in range(count)],
            "initContainers": [{"name": f"i{i}", "restartPolicy": "Always"} for i in range(count // 4)],
            "readinessGates": [{"conditionType": f"example.com/{i}"} for i in range(count)],
            "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}},
            "securityContext": {"sysctls": [{"name": f"net.ipv4.a{i}", "value": "1"} for i in range(count)]},
        },
    }


def deployment(count: int) -> Json:
    template = pod(count)
    template["metadata"].pop("labels")
    return {"kind": "Deployment", "metadata": {"name": "nat", "labels": LABELS}, "spec": {"template": template}}


def envelope(obj: Json, operation: str) -> bytes:
    request = {"uid": "u", "operation": operation, "namespace": "telco", "object": obj, "oldObject": obj}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def of_pod(request: AdmissionRequest) -> Decision:
    return mutate.pod(request, find, Hook.HTTP_GET, SIGNER.sign)


def of_workload(request: AdmissionRequest) -> Decision:
    return mutate.workload(request, find, Hook.HTTP_GET)


@pytest.mark.parametrize(
    ("make", "operation", "decide"),
    [(pod, "CREATE", of_pod), (deployment, "CREATE", of_workload), (deployment, "UPDATE", of_workload)],
)
def test_four_times_the_object_costs_four_times_the_work(
    make: Callable[[int], Json], operation: str, decide: Callable[[AdmissionRequest], Decision]
) -> None:
    small, large = envelope(make(90), operation), envelope(make(360), operation)

    assert b'"allowed": true' in review.review(large, decide).body
    assert steps(lambda: review.review(large, decide)) <= 4.4 * steps(lambda: review.review(small, decide))

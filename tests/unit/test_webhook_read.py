"""What is read of an object, and the path of what has the wrong type."""

from __future__ import annotations

from typing import Any

import pytest

from webhook.decide import read
from webhook.decide.model import AdmissionRequest, Container, Malformed, Membership, Pod

PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def test_a_pod_is_read_into_a_value() -> None:
    term = {"weight": 1, "podAffinityTerm": {"topologyKey": "zone"}}
    hook = {"exec": {"command": ["drain"]}}
    obj = {
        "metadata": {"generateName": "nat-", "labels": {"sfc.dev/stage": "nat"}, "annotations": {"a": "b"}},
        "spec": {
            "containers": [{"name": "nat", "lifecycle": {"preStop": hook}}],
            "initContainers": [{"name": "proxy", "restartPolicy": "Always"}, {"name": "setup"}],
            "readinessGates": [{"conditionType": "x"}],
            "schedulingGates": [{"name": "y"}],
            "terminationGracePeriodSeconds": 45,
            "affinity": {
                "podAffinity": {PREFERRED: [term]},
                "podAntiAffinity": {REQUIRED: [{"topologyKey": "kubernetes.io/hostname"}]},
            },
            "hostNetwork": True,
            "nodeName": "n1",
            "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]},
        },
    }

    assert read.pod(obj) == Pod(
        labels=Membership(None, "nat"),
        annotations={"a": "b"},
        containers=(Container("nat", hook, True),),
        init_containers=(Container("proxy", {}, True), Container("setup", {}, False)),
        readiness_gates=({"conditionType": "x"},),
        scheduling_gates=({"name": "y"},),
        grace_seconds=45,
        preferences=(term,),
        rules_for_nodes=True,
        host_network=True,
        node_name="n1",
        sysctls={"net.ipv4.tcp_syncookies": "1"},
    )


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("net/ipv4/conf/eth0.1/x", "net.ipv4.conf.eth0/1.x"),
        ("net.ipv4.conf.eth0/1.x", "net.ipv4.conf.eth0/1.x"),
        ("a", "a"),
    ],
)
def test_a_sysctl_has_one_name_however_it_is_written(written: str, read_as: str) -> None:
    obj = {"spec": {"securityContext": {"sysctls": [{"name": written, "value": "1"}]}}}

    assert read.pod(obj).sysctls == {read_as: "1"}


@pytest.mark.parametrize("obj", [{}, {"metadata": None, "spec": None}, {"metadata": {"labels": None}, "spec": {}}])
def test_what_is_absent_or_null_is_empty(obj: dict[str, Any]) -> None:
    assert read.pod(obj) == Pod(Membership(None, None), {}, (), (), (), (), None, (), False, False, None, {})


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        ({"metadata": []}, "object.metadata must be an object"),
        ({"metadata": {"labels": "x"}}, "object.metadata.labels must be an object"),
        ({"metadata": {"labels": {"sfc.dev/chain": 7}}}, "object.metadata.labels[sfc.dev/chain] must be a string"),
        ({"metadata": {"annotations": []}}, "object.metadata.annotations must be an object"),
        ({"spec": 1}, "object.spec must be an object"),
        ({"spec": {"containers": {}}}, "object.spec.containers must be a list"),
        ({"spec": {"containers": [{}, 1]}}, "object.spec.containers[1] must be an object"),
        (
            {"spec": {"initContainers": [{}, {"lifecycle": 1}]}},
            "object.spec.initContainers[1].lifecycle must be an object",
        ),
        (
            {"spec": {"containers": [{"lifecycle": {"preStop": []}}]}},
            "object.spec.containers[0].lifecycle.preStop must be an object",
        ),
        ({"spec": {"containers": [{"livenessProbe": 1}]}}, "object.spec.containers[0].livenessProbe must be an object"),
        ({"spec": {"readinessGates": [None]}}, "object.spec.readinessGates[0] must be an object"),
        ({"spec": {"schedulingGates": 1}}, "object.spec.schedulingGates must be a list"),
        (
            {"spec": {"terminationGracePeriodSeconds": "30"}},
            "object.spec.terminationGracePeriodSeconds must be an integer",
        ),
        ({"spec": {"affinity": {"podAffinity": 1}}}, "object.spec.affinity.podAffinity must be an object"),
        (
            {"spec": {"affinity": {"podAntiAffinity": {REQUIRED: [1]}}}},
            f"object.spec.affinity.podAntiAffinity.{REQUIRED}[0] must be an object",
        ),
        (
            {"spec": {"affinity": {"podAffinity": {PREFERRED: [{}, {"podAffinityTerm": 1}]}}}},
            f"object.spec.affinity.podAffinity.{PREFERRED}[1].podAffinityTerm must be an object",
        ),
        ({"spec": {"securityContext": {"sysctls": 1}}}, "object.spec.securityContext.sysctls must be a list"),
    ],
)
def test_the_wrong_type_is_malformed_at_its_path(obj: dict[str, Any], message: str) -> None:
    with pytest.raises(Malformed) as error:
        read.pod(obj)

    assert str(error.value) == message


@pytest.mark.parametrize(
    ("obj", "old", "message"),
    [
        ({"spec": {"template": 1}}, {}, "object.spec.template must be an object"),
        ({}, {"spec": {"template": {"metadata": 1}}}, "oldObject.spec.template.metadata must be an object"),
        (
            {"kind": "CronJob", "spec": {"jobTemplate": {"spec": []}}},
            {},
            "object.spec.jobTemplate.spec must be an object",
        ),
        ({}, {"metadata": {"labels": 1}}, "oldObject.metadata.labels must be an object"),
        ({"kind": "Job"}, {"status": 1}, "oldObject.status must be an object"),
    ],
)
def test_the_path_of_a_workloads_part_begins_at_its_object(
    obj: dict[str, Any], old: dict[str, Any], message: str
) -> None:
    with pytest.raises(Malformed) as error:
        read.workload(AdmissionRequest("u-1", "UPDATE", "telco", obj, old))

    assert str(error.value) == message


def test_the_path_of_a_templates_part_begins_at_the_workload() -> None:
    obj = {"spec": {"template": {"spec": {"containers": 1}}}}

    with pytest.raises(Malformed, match=r"object\.spec\.template\.spec\.containers must be a list"):
        read.template(obj, ("spec", "template"))


@pytest.mark.parametrize(
    ("old", "changed"),
    [
        ({"spec": {"replicas": 1, "template": {"metadata": {"labels": {"sfc.dev/stage": "nat"}}}}}, False),
        ({"spec": {"template": {}}}, False),
        ({"spec": {"template": {"metadata": {"labels": {"app": "x"}}}}}, True),
        ({"metadata": {"labels": {"sfc.dev/stage": "nat"}}, "spec": {"template": {}}}, True),
    ],
)
def test_a_workload_has_changed_when_our_labels_or_anything_else_of_the_template_differs(
    old: dict[str, Any], changed: bool
) -> None:
    obj: dict[str, Any] = {"metadata": {"labels": {"app": "x"}}, "spec": {"replicas": 2, "template": {}}}

    assert read.workload(AdmissionRequest("u-1", "UPDATE", "telco", obj, old)).changed is changed

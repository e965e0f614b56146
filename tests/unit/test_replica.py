"""From a pod's object to a replica."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller.node.plane.replica import replica_of
from kube import lean
from tests.unit.objects import pod


def test_a_pod_without_both_labels_is_not_labelled() -> None:
    half, bare = pod("nat-1", "nat"), pod("nat-1", "nat")
    del half["metadata"]["labels"]["sfc.dev/stage"]
    del bare["metadata"]["labels"]

    assert [replica_of(one).labelled for one in (pod("nat-1", "nat"), half, bare)] == [True, False, False]


def test_readiness_is_that_of_the_containers_not_of_the_pod() -> None:
    gated = pod("nat-1", "nat")
    gated["status"]["conditions"].append({"type": "Ready", "status": "False"})

    replica = replica_of(gated)

    assert replica.ready


@pytest.mark.parametrize(
    ("status", "stopped"),
    [
        ({}, False),
        ({"containerStatuses": [{"state": {"terminated": {"exitCode": 0}}}]}, True),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 3}]}, True),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}, "restartCount": 0}]}, False),
        ({"containerStatuses": [{"state": {"running": {}}}, {"state": {"terminated": {}}}]}, True),
        ({"phase": "Failed"}, True),
    ],
)
def test_a_replica_has_stopped_when_a_container_that_ran_does_not_any_more(
    status: dict[str, Any], stopped: bool
) -> None:
    replica = replica_of(pod("nat-1", "nat", **status))

    assert replica.stopped is stopped


@pytest.mark.parametrize(
    ("state", "restarts", "stopped"),
    [
        ({"terminated": {"exitCode": 137}}, 0, True),
        ({"waiting": {"reason": "CrashLoopBackOff"}}, 3, True),
        ({"waiting": {"reason": "PodInitializing"}}, 0, False),
        ({"running": {}}, 3, False),
    ],
)
def test_a_native_sidecar_counts_like_a_container_and_an_init_container_that_has_done_its_work_does_not(
    state: dict[str, Any], restarts: int, stopped: bool
) -> None:
    statuses = [
        {"name": "setup", "state": {"terminated": {"exitCode": 0}}},
        {"name": "proxy", "state": state, "restartCount": restarts},
    ]
    obj = pod("nat-1", "nat", initContainerStatuses=statuses)
    obj["spec"] = {"initContainers": [{"name": "setup"}, {"name": "proxy", "restartPolicy": "Always"}]}
    (read,) = lean.POD.page(json.dumps({"items": [obj]}).encode())["items"]

    replica = replica_of(read)

    assert replica.stopped is stopped


@pytest.mark.parametrize(
    ("policy", "exit_codes", "finished"),
    [
        ("Never", [0], True),
        ("OnFailure", [0, 0], True),
        ("Never", [0, 1], False),
        ("Always", [0], False),
        ("Never", [], False),
    ],
)
def test_a_replica_has_finished_when_its_containers_ended_without_an_error_and_nobody_starts_them_again(
    policy: str, exit_codes: list[int], finished: bool
) -> None:
    containers = [{"state": {"terminated": {"exitCode": code}}} for code in exit_codes]
    job = pod("nat-1", "nat", containerStatuses=[*containers, {"state": {"running": {}}}])
    job["spec"] = {"restartPolicy": policy}

    replica = replica_of(job)

    assert replica and replica.finished is finished


def test_the_interfaces_are_those_that_the_webhook_asked_for() -> None:
    wired = pod("nat-1", "nat")
    networks = [{"name": "other", "interface": "eth9"}, {"name": "sfc", "namespace": "telco", "interface": "inside"}]
    unreadable = pod("nat-2", "nat")
    wired["metadata"]["annotations"] = {"k8s.v1.cni.cncf.io/networks": json.dumps(networks)}
    unreadable["metadata"]["annotations"] = {"k8s.v1.cni.cncf.io/networks": "{"}

    found = [replica_of(one) for one in (wired, unreadable)]

    assert [one.interfaces for one in found] == [{"inside"}, set()]

"""The power of all nodes fails, and returns in a cluster that enforces Pod Security `restricted` by default.

The webhook is configured, but no pod of it runs. Everything must recover by itself, and the project can be installed
again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.admission_load import deployment
from tests.cluster.conftest import SYSTEM, Kubectl, eventually, example_chain, install, testbed, wait_installed

ADMITTED = "jsonpath={.status.replicas}"


@pytest.fixture(scope="module")
def waiting(installed: None, kubectl: Kubectl) -> Kubectl:
    """A namespace with a labelled Deployment. As for all network functions, its level of Pod Security is privileged."""
    assert kubectl.namespace
    Kubectl()("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/enforce=privileged")
    eventually(lambda: kubectl.try_("get", "serviceaccount", "default").returncode == 0)
    kubectl("apply", "-f", "-", stdin=json.dumps(example_chain(namespace=kubectl.namespace)))
    eventually(lambda: kubectl.try_("create", "-f", "-", stdin=json.dumps(deployment(1))).returncode == 0)
    eventually(lambda: kubectl("get", "deployment", "load-1", "-o", ADMITTED) == "1")
    return kubectl


@pytest.fixture(scope="module")
def power_cut(waiting: Kubectl) -> Iterator[Kubectl]:
    """Cuts the power after all pods of ours and of the stage were deleted: all must be created and admitted again."""
    SYSTEM("delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false")
    waiting("delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false")
    done = testbed("restart", "--pod-security=restricted")
    assert done.returncode == 0, done.stderr
    yield waiting
    done = testbed("restart")
    assert done.returncode == 0, done.stderr
    wait_installed()


def test_everything_comes_back_by_itself(power_cut: Kubectl) -> None:
    wait_installed()

    annotations = "jsonpath={.items[*].metadata.annotations}"
    eventually(lambda: "sfc.dev/drain-id" in power_cut("get", "pods", "-l", "sfc.dev/chain", "-o", annotations))


def test_the_cluster_enforces_restricted_by_default(power_cut: Kubectl) -> None:
    refused = Kubectl("default").try_("run", "careless", "--image=any", "--dry-run=server")

    assert 'violates PodSecurity "restricted' in refused.stderr


def test_the_project_installs_where_restricted_is_the_default(power_cut: Kubectl) -> None:
    callers = json.loads(SYSTEM("get", "configmap", "sfc-webhook-callers", "-o", "json"))
    Kubectl()("delete", "--kustomize", "deploy", "--ignore-not-found", "--timeout=120s")  # the Job goes by itself

    install()
    tell_of_callers(callers)

    assert SYSTEM("get", "pods", "-o", "name").count("sfc-node") == 2


def tell_of_callers(callers: dict[str, Any]) -> None:
    """Does what docs/operations.md asks for after the namespace was deleted."""
    callers["metadata"] = {field: callers["metadata"][field] for field in ("name", "namespace")}
    Kubectl()("create", "-f", "-", stdin=json.dumps(callers))
    SYSTEM("rollout", "restart", "deployment/sfc-webhook")
    wait_installed()

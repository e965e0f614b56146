"""The webhook is part of every request for labelled objects, so its failures must not harm the cluster.

Labelled pods are admitted while one of its replicas is up, none is ever admitted without its injection, and other
objects are never affected, whatever happens to its replicas and certificates. SFC_ADMISSION_ROTATIONS=10 gives the full
proof (about 4 minutes); by default certificates are rotated twice.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from kube.api import ApiServer
from tests.cluster.admission_load import AdmissionLoad, deployment, injected, pod
from tests.cluster.conftest import (
    KUBECONFIG,
    SYSTEM,
    Kubectl,
    eventually,
    example_chain,
    scrape,
    testbed,
    wait_installed,
)

ROTATIONS = int(os.environ.get("SFC_ADMISSION_ROTATIONS", "2"))
PODS_PER_MINUTE = 200
COMPONENTS = ("sfc-webhook", "sfc-cluster-controller", "sfc-node")
PROCESSES = ("^python3 -m webhook$", "^python3 -m webhook --health-port=8081 --metrics-port=9812$")
PORTS = (9811, 9812)
KILL = 'pid=$(pgrep -f "$0"); kill -KILL "$pid"; while [ -e "/proc/$pid" ]; do sleep 0.05; done'
"""A killed process keeps its connections until the kernel has removed it."""
WEBHOOK = "app.kubernetes.io/name=sfc-webhook"

Json = dict[str, Any]


@pytest.fixture(scope="module")
def api() -> ApiServer:
    return ApiServer.from_environment(str(KUBECONFIG))


@pytest.fixture(scope="module")
def chained(installed: None, kubectl: Kubectl) -> Kubectl:
    """A namespace with the example chain, and no workload."""
    assert kubectl.namespace
    eventually(lambda: kubectl.try_("get", "serviceaccount", "default").returncode == 0)
    kubectl("apply", "-f", "-", stdin=json.dumps(example_chain(namespace=kubectl.namespace)))
    return kubectl


def replicas() -> list[Json]:
    """The webhook's pods that are Ready and do not terminate."""
    found = json.loads(SYSTEM("get", "pods", "-l", WEBHOOK, "-o", "json"))["items"]
    return [p for p in found if "deletionTimestamp" not in p["metadata"] and ready(p)]


def ready(obj: Json) -> bool:
    conditions = obj["status"].get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def names(pods: list[Json]) -> list[str]:
    return [p["metadata"]["name"] for p in pods]


def both_are_up() -> None:
    SYSTEM("rollout", "status", "deployment/sfc-webhook", "--timeout=120s")
    eventually(lambda: len(replicas()) == 2)


def test_replicas_are_spread_over_the_nodes(installed: None) -> None:
    both_are_up()

    assert {p["spec"]["nodeName"] for p in replicas()} == {"node1", "node2"}


def test_no_key_on_a_node_can_be_read_by_everybody(installed: None) -> None:
    keys = "-path '*kubernetes.io~secret*' -type f \\( -name tls.key -o -name key \\)"
    look = f"find /var/lib/kubelet/pods {keys} -printf '%m\\n'"

    modes = [mode for node in ("node1", "node2") for mode in testbed("exec", node, "sh", "-c", look).stdout.split()]

    assert len(modes) >= 4, "two of each webhook replica at least"
    assert set(modes) <= {"440", "400"}


def test_images_of_webhook_and_cluster_controller_have_no_shell(installed: None) -> None:
    for component in ("sfc-webhook", "sfc-cluster-controller"):
        done = SYSTEM.try_("exec", f"deployment/{component}", "--", "sh", "-c", "true")

        assert '"sh": executable file not found' in done.stderr


def test_no_admission_fails_while_a_replica_is_up(chained: Kubectl, capsys: pytest.CaptureFixture[str]) -> None:
    """Replicas crash, are killed, drain, are rolled out, and get new certificates: one after the other, under load."""
    assert chained.namespace
    load = AdmissionLoad(str(KUBECONFIG), chained.namespace, PODS_PER_MINUTE)
    load.start()
    try:
        crash_each(load)
        for disturb in (kill_each, drain_each, roll_out, install_again, rotate):
            disturb()
            both_are_up()
    finally:
        account = load.stop()

    with capsys.disabled():
        print(
            f"\n{account.created} created in {account.seconds:.0f} s ({account.per_minute:.0f} a minute), "
            f"{len(account.failures)} failed, slowest {account.slowest:.2f} s; "
            f"{len(account.pods)} chain pods, {len(account.uninjected)} uninjected"
        )
    assert account.failures == []
    assert account.uninjected == set()
    assert len(account.pods) >= account.created - 1
    assert account.per_minute > 0.95 * PODS_PER_MINUTE


def crash_each(load: AdmissionLoad) -> None:
    """Kills one process after the other by SIGKILL. A request in flight would be lost with its process, so there must
    be none at that moment."""
    for node in ("node1", "node2"):
        for process in PROCESSES:
            with load.asking:
                done = testbed("exec", node, "sh", "-euc", KILL, process)
            assert done.returncode == 0, done.stderr
            eventually(lambda: len(replicas()) < 2)
            both_are_up()


def kill_each() -> None:
    """Deletes each replica without a grace period."""
    for name in names(replicas()):
        SYSTEM("delete", "pod", name, "--force", "--grace-period=0")
        both_are_up()


def drain_each() -> None:
    for node in ("node1", "node2"):
        try:
            Kubectl()("drain", node, f"--pod-selector={WEBHOOK}", "--delete-emptydir-data", "--timeout=120s")
        finally:
            Kubectl()("uncordon", node)
        both_are_up()


def roll_out() -> None:
    SYSTEM("rollout", "restart", "deployment/sfc-webhook")


def install_again() -> None:
    """Applies the same manifests again. caBundles, which they do not contain, must stay."""
    Kubectl()("apply", "--kustomize", "deploy")


def run_install() -> None:
    """Does what the CronJob does every night."""
    name = f"tests-{uuid4().hex[:8]}"
    SYSTEM("create", "job", "--from=cronjob/sfc-install", name)
    SYSTEM("wait", f"job/{name}", "--for=condition=Complete", "--timeout=300s")
    SYSTEM("delete", "job", name)


def rotate() -> None:
    """Deletes the authority and the certificate in turn. New ones are made while the old ones are in use."""
    for turn in range(ROTATIONS):
        before = shown()
        secret = ("sfc-webhook-ca", "sfc-webhook-tls")[turn % 2]
        SYSTEM("delete", "secret", secret)
        run_install()
        eventually(lambda before=before: shown() not in (None, before))
        for name in names(replicas()):  # the kubelet looks at a pod's Secrets when the pod changes, or once a minute
            SYSTEM("annotate", "pod", name, f"tests.sfc.dev/turn={turn}", "--overwrite")
        eventually(lambda: {served(name, port) for name in names(replicas()) for port in PORTS} == {expires()})


def shown() -> str | None:
    """The certificate in the Secret."""
    done = SYSTEM.try_("get", "secret", "sfc-webhook-tls", "-o", "jsonpath={.data.tls\\.crt}")
    return done.stdout or None


def expires() -> str:
    return SYSTEM("get", "secret", "sfc-webhook-tls", "-o", "jsonpath={.metadata.annotations.sfc\\.dev/expires}")


def served(name: str, port: int) -> str:
    """The expiry of the certificate that a replica's process serves, from the metrics at this port."""
    text = scrape(name, port)
    found = re.search(r"^sfc_served_certificate_expiry_timestamp_seconds (\S+)$", text, re.MULTILINE)
    assert found
    return datetime.fromtimestamp(float(found[1]), UTC).isoformat()


def test_lost_trust_comes_back_by_the_install_job(chained: Kubectl) -> None:
    configuration = "mutatingwebhookconfiguration/sfc"
    removal = [{"op": "remove", "path": "/webhooks/1/clientConfig/caBundle"}]
    Kubectl()("patch", configuration, "--type=json", "--patch", json.dumps(removal))
    refused = chained.try_("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod("distrusted")))

    run_install()

    eventually(
        lambda: chained.try_("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod("trusted"))).returncode == 0,
        seconds=20,
    )

    assert "failed to verify certificate" in refused.stderr


def test_no_component_logs_a_secret(installed: None) -> None:
    found = json.loads(SYSTEM("get", "secrets", "-o", "json"))["items"]
    values = {value for secret in found for field, value in secret["data"].items() if not field.endswith(".crt")}
    plain = [base64.b64decode(value) for value in values]

    logs = [
        SYSTEM("logs", "-l", f"app.kubernetes.io/name={name}", "--all-containers", "--tail=-1") for name in COMPONENTS
    ]

    assert len(values) >= 3
    assert all(logs)
    for log in logs:
        assert "PRIVATE" not in log
        assert not any(value in log for value in (*values, *(key.hex() for key in plain)))


@pytest.fixture(scope="module")
def webhook_down(chained: Kubectl) -> Iterator[Kubectl]:
    """Removes both replicas; yields kubectl in the chain's namespace."""
    SYSTEM("scale", "deployment/sfc-webhook", "--replicas=0")
    eventually(lambda: not json.loads(SYSTEM("get", "pods", "-l", WEBHOOK, "-o", "json"))["items"])
    yield chained
    SYSTEM("scale", "deployment/sfc-webhook", "--replicas=2")
    wait_installed()


@pytest.mark.parametrize(
    "obj", [pod("replica"), deployment(1), example_chain(name="other")], ids=lambda o: str(o["kind"])
)
def test_without_the_webhook_what_is_ours_is_refused_and_never_half_done(webhook_down: Kubectl, obj: Json) -> None:
    refused = webhook_down.try_("create", "-f", "-", stdin=json.dumps(obj | {"metadata": ours(obj, webhook_down)}))

    assert refused.returncode != 0
    assert "failed calling webhook" in refused.stderr


def ours(obj: Json, kubectl: Kubectl) -> Json:
    metadata: Json = obj["metadata"] | {"namespace": kubectl.namespace}
    return metadata


def unlabelled(obj: Json) -> Json:
    return obj | {"metadata": {"name": obj["metadata"]["name"]}}


@pytest.mark.parametrize(
    ("obj", "namespace"),
    [
        pytest.param(unlabelled(pod("plain")), "default", id="an unlabelled pod"),
        pytest.param(unlabelled(deployment(2)), "default", id="an unlabelled Deployment"),
        pytest.param(pod("labelled"), "kube-system", id="even a labelled pod of kube-system"),
        pytest.param(deployment(3), "kube-system", id="even a labelled Deployment of kube-system"),
        pytest.param(pod("labelled"), "kube-public", id="even a labelled pod of kube-public"),
        pytest.param(pod("labelled"), "kube-node-lease", id="even a labelled pod of kube-node-lease"),
        pytest.param(pod("labelled"), "sfc-system", id="even a labelled pod of our own namespace"),
        pytest.param(pod("labelled"), "opted-out", id="even a labelled pod of a namespace that opted out"),
    ],
)
def test_without_the_webhook_everything_else_is_created(
    webhook_down: Kubectl, opted_out: None, obj: Json, namespace: str
) -> None:
    elsewhere = Kubectl(namespace)

    created = elsewhere.try_("create", "-f", "-", stdin=json.dumps(obj))

    elsewhere("delete", "--grace-period=0", "--force", "--ignore-not-found", "-f", "-", stdin=json.dumps(obj))
    assert created.returncode == 0, created.stderr


@pytest.fixture(scope="module")
def opted_out(cluster: None) -> Iterator[None]:
    Kubectl()("create", "namespace", "opted-out")
    Kubectl()("label", "namespace", "opted-out", "sfc.dev/injection=disabled")
    eventually(lambda: Kubectl("opted-out").try_("get", "serviceaccount", "default").returncode == 0)
    yield
    Kubectl()("delete", "namespace", "opted-out", "--wait=false")


def test_without_the_webhook_mirror_pods_are_created(webhook_down: Kubectl) -> None:
    """Mirror pods are a kubelet's reports of pods that it read from files."""
    mirror = pod("mirror")
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "1234"}
    mirror["spec"] |= {"nodeName": "node1"}

    created = webhook_down.try_("create", "--dry-run=server", "-f", "-", stdin=json.dumps(mirror))

    assert created.returncode == 0, created.stderr


def test_without_the_webhook_our_own_components_can_write(webhook_down: Kubectl) -> None:
    as_controller = ("--as=system:serviceaccount:sfc-system:sfc-cluster-controller", "--as-group=system:masters")

    created = webhook_down.try_("create", "--dry-run=server", *as_controller, "-f", "-", stdin=json.dumps(pod("own")))

    assert created.returncode == 0, created.stderr


def test_without_the_webhook_labelled_objects_can_be_deleted_and_lose_finalizers(webhook_down: Kubectl) -> None:
    """Otherwise namespaces could not be deleted."""
    held = deployment(4)
    held["metadata"]["finalizers"] = ["tests.sfc.dev/hold"]
    as_controller = ("--as=system:serviceaccount:sfc-system:sfc-cluster-controller", "--as-group=system:masters")
    webhook_down("create", *as_controller, "-f", "-", stdin=json.dumps(held))

    webhook_down("delete", "deployment", "load-4", "--wait=false")
    webhook_down("patch", "deployment", "load-4", "--type=merge", '--patch={"metadata":{"finalizers":null}}')

    eventually(lambda: webhook_down.try_("get", "deployment", "load-4").returncode != 0)


def test_what_was_refused_is_admitted_when_the_webhook_is_back(webhook_down: Kubectl, api: ApiServer) -> None:
    SYSTEM("scale", "deployment/sfc-webhook", "--replicas=2")
    wait_installed()

    made = api.create(f"/api/v1/namespaces/{webhook_down.namespace}/pods?dryRun=All", pod("replica"))

    assert injected(made)

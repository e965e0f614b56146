"""One two-node cluster for all cluster tests; those that destroy it run last."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from kube.api import ApiServer

CHECKOUT = Path(__file__).resolve().parents[2]
LAST = "test_testbed_lifecycle.py"

TESTBED = os.environ.setdefault("SFC_TESTBED", "sfc-tests")
"""The name of the tests' own testbed, so that a cluster of the demo, for example, stays as it is."""
KUBECONFIG = CHECKOUT / "build" / TESTBED / "kubeconfig"
EXAMPLES = CHECKOUT / "deploy" / "examples"
IMAGES = {
    "localhost/sfc/webhook:dev": ("deploy/webhook.Dockerfile", "."),
    "localhost/sfc/cluster-controller:dev": ("deploy/cluster-controller.Dockerfile", "."),
    "localhost/sfc/controller:dev": ("deploy/controller.Dockerfile", "."),
    "localhost/sfc/nf:dev": ("deploy/examples/nf/Dockerfile", "deploy/examples/nf"),
}
PROGRAM = str(KUBECONFIG.parent / "bin" / "kubectl")
KUBECTL = (PROGRAM, f"--kubeconfig={KUBECONFIG}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cluster: needs root and a running testbed, which it brings up")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
    items.sort(key=lambda item: item.path.name == LAST)


def testbed(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Runs the testbed's command line; a failure does not raise."""
    command = [sys.executable, "-m", "testbed", *map(str, arguments)]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


testbed.__test__ = False  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl in one namespace, or in the objects' own; as the administrator, or as the user of another kubeconfig."""

    namespace: str | None = None
    kubeconfig: Path = KUBECONFIG

    def try_(self, *arguments: str | Path, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Runs kubectl; a failure does not raise."""
        command = [PROGRAM, f"--kubeconfig={self.kubeconfig}"]
        command += [f"--namespace={self.namespace}"] if self.namespace else []
        command += map(str, arguments)
        return subprocess.run(command, cwd=CHECKOUT, input=stdin, capture_output=True, text=True, check=False)

    def __call__(self, *arguments: str | Path, stdin: str | None = None) -> str:
        done = self.try_(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {arguments}: {done.stderr}"
        return done.stdout


SYSTEM = Kubectl("sfc-system")


def eventually(look: Callable[[], Any], seconds: float = 300) -> Any:
    """Asks until an answer is true, and returns it. AssertionError with the last answer when the time is over."""
    until = time.monotonic() + seconds
    while not (answer := look()):
        assert time.monotonic() < until, f"not so within {seconds} s; last answer: {answer!r}"
        time.sleep(0.25)
    return answer


def example_chain(**metadata: str) -> dict[str, Any]:
    chains = yaml.safe_load_all((EXAMPLES / "chain.yaml").read_text())
    chain: dict[str, Any] = next(c for c in chains if c["kind"] == "ServiceFunctionChain")
    chain["metadata"] |= metadata
    return chain


@pytest.fixture(scope="session")
def cluster() -> None:
    done = testbed("up", "--nodes", "2")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def images(cluster: None) -> None:
    """Builds the project's images and loads them into every node."""
    for name, (dockerfile, context) in IMAGES.items():
        done = testbed("build-image", "-t", name, "-f", dockerfile, context)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def installed(images: None) -> None:
    """The project of this checkout, also in a cluster where an earlier run has left another one."""
    left = SYSTEM.try_("get", "daemonset/sfc-node").returncode == 0
    install()
    if left:  # its pods run the images from before, whose names are the same
        SYSTEM("rollout", "restart", "deployment,daemonset")
        wait_installed()


def install() -> None:
    Kubectl()("apply", "--kustomize", "deploy")
    wait_installed()


def wait_installed() -> None:
    for workload in ("deployment/sfc-cluster-controller", "deployment/sfc-webhook", "daemonset/sfc-node"):
        SYSTEM("rollout", "status", workload, "--timeout=180s")
    configurations = ("mutatingwebhookconfiguration/sfc", "validatingwebhookconfiguration/sfc")
    eventually(lambda: Kubectl().try_("get", *configurations).returncode == 0)
    probe = json.dumps(example_chain(name="probe", namespace="default"))
    eventually(lambda: Kubectl().try_("apply", "--dry-run=server", "-f", "-", stdin=probe).returncode == 0)
    eventually(_metrics_served, seconds=180)


def _metrics_served() -> bool:
    """True when the kubelets have brought the certificate for metrics to all who serve them."""
    ours = "app.kubernetes.io/name in (sfc-node, sfc-webhook, sfc-cluster-controller)"
    found = json.loads(SYSTEM("get", "pods", "-o", "json", "-l", ours))["items"]
    alive = [pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]]
    try:
        return all(ask_metrics(name, 9811, None)[0] == 401 for name in alive)
    except AssertionError:
        return False


@pytest.fixture(scope="session")
def peer_image(cluster: None) -> str:
    """An image whose pods answer every TCP connection on port 8080 with their name."""
    name = "localhost/sfc-testbed/peer:dev"
    folder = Path(__file__).with_name("peer")
    done = testbed("build-image", "-t", name, "-f", folder / "Dockerfile", folder)
    assert done.returncode == 0, done.stderr
    return name


METRICS_ACCOUNT = ("default", "tests-metrics")
"""Namespace and name of an account that may read metrics."""
SCRAPE = """
import http.client, json, socket, ssl, sys
host, port, token, authority = json.load(sys.stdin)
trust = ssl.create_default_context(cadata=authority)
connection = http.client.HTTPSConnection(host, port, timeout=20)
plain = socket.create_connection((host, port), 20)
connection.sock = trust.wrap_socket(plain, server_hostname="sfc-metrics.sfc-system.svc")
connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"} if token else {})
answer = connection.getresponse()
print(answer.status)
print(answer.read().decode())
"""
"""Reads metrics as Prometheus does, from a node."""


def scrape(pod: str, port: int = 9811) -> str:
    """The metrics of a pod of ours, with a token that may read them, and the certificate verified."""
    namespace, name = METRICS_ACCOUNT
    account = Kubectl(namespace)
    account.try_("create", "serviceaccount", name)
    role = ("--clusterrole=sfc-metrics-reader", f"--serviceaccount={namespace}:{name}")
    Kubectl().try_("create", "clusterrolebinding", "tests-metrics", *role)
    status, text = ask_metrics(pod, port, account("create", "token", name).strip())
    assert status == 200, text
    return text


def ask_metrics(pod: str, port: int, token: str | None) -> tuple[int, str]:
    """HTTP status and body."""
    address = SYSTEM("get", "pod", pod, "-o", "jsonpath={.status.podIP}")
    found = SYSTEM("get", "secret", "sfc-metrics-tls", "-o", "jsonpath={.data.ca\\.crt}")
    question = json.dumps([address, port, token, base64.b64decode(found).decode()])
    command = [sys.executable, "-m", "testbed", "exec", "node1", "/usr/bin/python3", "-c", SCRAPE]
    done = subprocess.run(command, cwd=CHECKOUT, input=question, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    status, _, text = done.stdout.partition("\n")
    return int(status), text


@pytest.fixture(scope="module")
def kubectl(cluster: None) -> Iterator[Kubectl]:
    """kubectl in a namespace of the test module, which is deleted after it."""
    namespace = f"test-{uuid4().hex[:8]}"
    Kubectl()("create", "namespace", namespace)
    yield Kubectl(namespace)
    Kubectl()("delete", "namespace", namespace, "--wait=false")


def as_bearer(folder: Path, account: str, *options: str) -> ApiServer:
    """A client of the API server as one of our components, with a token of its service account."""
    return ApiServer.from_environment(str(with_token(folder, SYSTEM("create", "token", account, *options))))


def with_token(folder: Path, token: str) -> Path:
    """A kubeconfig in this folder whose user has the token and nothing else."""
    kubeconfig = json.loads(KUBECONFIG.read_text())
    kubeconfig["users"][0]["user"] = {"token": token.strip()}
    file = folder / "kubeconfig"
    file.write_text(json.dumps(kubeconfig))
    return file

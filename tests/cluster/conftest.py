"""One two-node cluster for all cluster tests; those that destroy it run last."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LAST = "test_testbed_lifecycle.py"

TESTBED = os.environ.setdefault("SFC_TESTBED", "sfc-tests")
"""A testbed of the tests' own: whatever else runs on the machine, a demo's cluster say, stays as it is."""
KUBECONFIG = CHECKOUT / "build" / TESTBED / "kubeconfig"
KUBECTL = (str(KUBECONFIG.parent / "bin" / "kubectl"), f"--kubeconfig={KUBECONFIG}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cluster: needs root and a running testbed, which it brings up")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
    items.sort(key=lambda item: item.path.name == LAST)


def testbed(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Runs the testbed's command line, whatever its outcome."""
    command = [sys.executable, "-m", "testbed", *map(str, arguments)]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


testbed.__test__ = False  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl as the administrator, in one namespace, or in those that the objects name."""

    namespace: str | None = None

    def try_(self, *arguments: str | Path, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Whatever the outcome."""
        command = [*KUBECTL]
        command += [f"--namespace={self.namespace}"] if self.namespace else []
        command += map(str, arguments)
        return subprocess.run(command, cwd=CHECKOUT, input=stdin, capture_output=True, text=True, check=False)

    def __call__(self, *arguments: str | Path, stdin: str | None = None) -> str:
        done = self.try_(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {arguments}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def cluster() -> None:
    done = testbed("up", "--nodes", "2")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def peer_image(cluster: None) -> str:
    """A pod that answers every TCP connection on port 8080 with its name."""
    name = "localhost/sfc-testbed/peer:dev"
    folder = Path(__file__).with_name("peer")
    done = testbed("build-image", "-t", name, "-f", folder / "Dockerfile", folder)
    assert done.returncode == 0, done.stderr
    return name


@pytest.fixture(scope="module")
def kubectl(cluster: None) -> Iterator[Kubectl]:
    """kubectl in a namespace that lasts as long as the test module."""
    namespace = f"test-{uuid4().hex[:8]}"
    Kubectl()("create", "namespace", namespace)
    yield Kubectl(namespace)
    Kubectl()("delete", "namespace", namespace, "--wait=false")

"""A real Kubernetes for a benchmark, with the project on it, from the testbed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
TESTBED = os.environ.setdefault("SFC_TESTBED", "sfc-bench")
"""A testbed of the benchmarks' own: whatever else runs on the machine stays as it is."""
KUBECONFIG = CHECKOUT / "build" / TESTBED / "kubeconfig"
IMAGES = {
    "localhost/sfc/webhook:dev": ("deploy/webhook.Dockerfile", "."),
    "localhost/sfc/cluster-controller:dev": ("deploy/cluster-controller.Dockerfile", "."),
    "localhost/sfc/controller:dev": ("deploy/controller.Dockerfile", "."),
    "localhost/sfc/nf:dev": ("deploy/examples/nf/Dockerfile", "deploy/examples/nf"),
}
WORKLOADS = ("deployment/sfc-cluster-controller", "deployment/sfc-webhook", "daemonset/sfc-node")
PATIENCE_SECONDS = 60.0
PART_OF = {"app.kubernetes.io/part-of": "sfc-benchmarks"}
"""Labels of the namespaces that benchmarks make."""


@contextmanager
def running(manifest: Path, namespace: str, nodes: int = 1) -> Iterator[None]:
    """The cluster, the project, and the chains in `manifest`, all in that namespace and Ready.

    KEEP_CLUSTER=1 in the environment keeps all of it, for a look and for the next benchmark.
    """
    try:
        _bring_up(manifest, namespace, nodes)
        yield
    finally:
        if "KEEP_CLUSTER" not in os.environ:
            testbed("down")


def _bring_up(manifest: Path, namespace: str, nodes: int) -> None:
    testbed("up", "--nodes", str(nodes))
    for image, (dockerfile, context) in IMAGES.items():
        build(image, dockerfile, context)
    kubectl("delete", "namespace", "--timeout=180s", f"--selector={'='.join(*PART_OF.items())}")
    kubectl("apply", "--kustomize", "deploy")
    for workload in WORKLOADS:
        kubectl("--namespace=sfc-system", "rollout", "status", workload, "--timeout=180s")
    until(lambda: try_kubectl("apply", "--filename", str(manifest)), "the webhook answers")
    kubectl(f"--namespace={namespace}", "wait", "sfc", "--all", "--for=condition=Ready", "--timeout=180s")


def build(image: str, dockerfile: str, context: str) -> None:
    testbed("build-image", "-t", image, "-f", dockerfile, context)


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not so within {seconds:.0f} s: {what}")
        time.sleep(0.02)


def kubectl(*arguments: str) -> str:
    return run(*_kubectl(arguments))


def try_kubectl(*arguments: str) -> bool:
    return subprocess.run(_kubectl(arguments), cwd=CHECKOUT, capture_output=True, check=False).returncode == 0


def in_node(*command: str) -> str:
    return testbed("exec", "node1", *command)


def testbed(*arguments: str) -> str:
    return run(sys.executable, "-m", "testbed", *arguments)


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _kubectl(arguments: tuple[str, ...]) -> list[str]:
    return [str(KUBECONFIG.parent / "bin" / "kubectl"), f"--kubeconfig={KUBECONFIG}", *arguments]

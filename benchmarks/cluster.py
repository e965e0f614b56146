"""Brings up a real Kubernetes with the project on it, from the testbed, for a benchmark that needs one."""

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
"""The name of the benchmarks' own testbed, so that a cluster from `make cluster` stays as it is."""
KUBECONFIG = CHECKOUT / "build" / TESTBED / "kubeconfig"
IMAGES = {
    "localhost/sfc/webhook:dev": ("deploy/webhook.Dockerfile", "."),
    "localhost/sfc/cluster-controller:dev": ("deploy/cluster-controller.Dockerfile", "."),
    "localhost/sfc/controller:dev": ("deploy/controller.Dockerfile", "."),
    "localhost/sfc/nf:dev": ("deploy/examples/nf/Dockerfile", "deploy/examples/nf"),
}
WORKLOADS = ("deployment/sfc-cluster-controller", "deployment/sfc-webhook", "daemonset/sfc-node")
"""By name: the Dockerfile, and the folder that it copies from."""
PATIENCE_SECONDS = 60.0
PART_OF = {"app.kubernetes.io/part-of": "sfc-benchmarks"}
"""The label of all namespaces that benchmarks make."""


@contextmanager
def running(manifest: Path, namespace: str, nodes: int = 1) -> Iterator[None]:
    """Runs the cluster, the project, and the chains in `manifest`; yields when these are Ready.

    `namespace` is that of the chains. With KEEP_CLUSTER=1 in the environment all of it stays, for a look and for the
    next benchmark. RuntimeError when a step fails.
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
    """Builds an image and loads it into the cluster; paths are relative to the checkout."""
    testbed("build-image", "-t", image, "-f", dockerfile, context)


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Returns when the condition holds; RuntimeError, with `what`, when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"did not come true within {seconds:.0f} s: {what}")
        time.sleep(0.02)


def kubectl(*arguments: str) -> str:
    """Runs kubectl against the cluster; its standard output. RuntimeError when it fails."""
    return run(*_kubectl(arguments))


def try_kubectl(*arguments: str) -> bool:
    """Runs kubectl against the cluster; whether it succeeded."""
    return subprocess.run(_kubectl(arguments), cwd=CHECKOUT, capture_output=True, check=False).returncode == 0


def in_node(*command: str, node: str = "node1") -> str:
    """Runs a program inside a node; its standard output. RuntimeError when it fails."""
    return testbed("exec", node, *command)


def testbed(*arguments: str) -> str:
    """Runs `python -m testbed`; its standard output. RuntimeError when it fails."""
    return run(sys.executable, "-m", "testbed", *arguments)


def run(*command: str) -> str:
    """Runs a program in the checkout; its standard output. RuntimeError, with its last words, when it fails."""
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _kubectl(arguments: tuple[str, ...]) -> list[str]:
    return [str(KUBECONFIG.parent / "bin" / "kubectl"), f"--kubeconfig={KUBECONFIG}", *arguments]

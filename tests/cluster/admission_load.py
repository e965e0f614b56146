"""Creates labelled pods and Deployments at a steady rate, and checks every chain pod that results."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kube.api import ApiError, ApiServer

LABELS = {"sfc.dev/chain": "edge", "sfc.dev/stage": "nat"}
DEPLOYMENT_EVERY = 10
"""One creation in so many is a Deployment, whose pod a ReplicaSet creates."""


@dataclass(frozen=True, slots=True)
class Failure:
    second: float
    message: str


@dataclass(slots=True)
class Account:
    created: int = 0
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0
    pods: set[str] = field(default_factory=set)
    """Names of all chain pods that ever existed."""
    uninjected: set[str] = field(default_factory=set)

    @property
    def per_minute(self) -> float:
        return self.created / self.seconds * 60


class AdmissionLoad:
    """Runs from `start` to `stop`. No pod is scheduled, so the load is admission alone."""

    def __init__(self, kubeconfig: str, namespace: str, per_minute: float) -> None:
        self._creator = ApiServer.from_environment(kubeconfig)
        self._witness = ApiServer.from_environment(kubeconfig)
        self._namespace = namespace
        self._interval = 60.0 / per_minute
        self._stopped = threading.Event()
        self.asking = threading.Lock()
        """Held during each request. Whoever holds it knows that no request is in flight."""
        self._account = Account()
        loops = (self._create, self._look)
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in loops]

    def start(self) -> None:
        listed = self._witness.get(self._pods())
        self._version = listed["metadata"]["resourceVersion"]
        for thread in self._threads:
            thread.start()

    def stop(self) -> Account:
        """Ends the load. The watch continues for a while, because ReplicaSets may still create pods."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads)
        return self._account

    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/pods"

    def _deployments(self) -> str:
        return f"/apis/apps/v1/namespaces/{self._namespace}/deployments"

    def _create(self) -> None:
        began = time.monotonic()
        number = 0
        while not self._stopped.wait(max(0.0, began + number * self._interval - time.monotonic())):
            number += 1
            self._attempt(number, began)
        self._account.seconds = time.monotonic() - began

    def _attempt(self, number: int, began: float) -> None:
        whole = number % DEPLOYMENT_EVERY == 0
        path, obj = (self._deployments(), deployment(number)) if whole else (self._pods(), pod(f"pod-{number}"))
        try:
            with self.asking:
                asked = time.monotonic()
                self._creator.create(path, obj)
        except ApiError as error:
            self._account.failures.append(Failure(round(time.monotonic() - began, 1), str(error)))
            return
        self._account.slowest = max(self._account.slowest, time.monotonic() - asked)
        self._account.created += 1
        self._forget(number - DEPLOYMENT_EVERY * 2)

    def _forget(self, number: int) -> None:
        """Deletes an object made a few seconds ago, so that its ReplicaSet had time to make the pod."""
        whole = number % DEPLOYMENT_EVERY == 0
        path = f"{self._deployments()}/load-{number}" if whole else f"{self._pods()}/pod-{number}"
        try:
            self._creator.delete(path, {"gracePeriodSeconds": 0})
        except ApiError as error:
            assert error.status == 404, error

    def _look(self) -> None:
        while not self._stopped.is_set():
            params = {"resourceVersion": self._version, "labelSelector": "sfc.dev/chain", "timeoutSeconds": 5}
            for event in self._witness.watch(self._pods(), params, read_timeout=20):
                self._see(event["object"])

    def _see(self, seen: Mapping[str, Any]) -> None:
        self._version = seen["metadata"]["resourceVersion"]
        name = seen["metadata"]["name"]
        self._account.pods.add(name)
        if not injected(seen):
            self._account.uninjected.add(name)


def injected(seen: Mapping[str, Any]) -> bool:
    """Whether a pod has everything that the webhook injects into a replica."""
    annotations = seen["metadata"].get("annotations") or {}
    gates = [gate["conditionType"] for gate in seen["spec"].get("readinessGates", ())]
    return (
        '"chain":"edge"' in annotations.get("k8s.v1.cni.cncf.io/networks", "").replace(" ", "")
        and "sfc.dev/drain-id" in annotations
        and "sfc.dev/wired" in gates
        and all("preStop" in container.get("lifecycle", {}) for container in seen["spec"]["containers"])
    )


def pod(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": LABELS}, "spec": pod_spec()}


def pod_spec() -> dict[str, Any]:
    """The spec of a pod that stays Pending, because no scheduler has this name."""
    return {"schedulerName": "nobody", "containers": [{"name": "nf", "image": "nf"}]}


def deployment(number: int) -> dict[str, Any]:
    """A Deployment whose template has no labels of ours: the webhook adds them."""
    name = f"load-{number}"
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": LABELS},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec()},
        },
    }

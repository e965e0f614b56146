"""Two strangers on one cluster: a victim whose chain carries traffic, and an attacker with a namespace and a token.

The attacker may do in its own namespace what a tenant usually may: everything of the ClusterRole `edit`, to which
chains belong, and NetworkAttachmentDefinitions. It has no right on nodes or on objects of the cluster. `reads` adds the
ClusterRole `view` in other namespaces, because many clusters let their users read each other's pods.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.cluster.conftest import Kubectl, with_token
from tests.cluster.test_chain import pods, traffic

NF_IMAGE = "localhost/sfc/nf:dev"
"""Has Python 3, iproute2, ping and the functions of the example."""

Json = dict[str, Any]

_ACCOUNT = "tenant"
_ROLE: Json = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": _ACCOUNT},
    "rules": [
        {"apiGroups": ["k8s.cni.cncf.io"], "resources": ["network-attachment-definitions"], "verbs": ["*"]},
    ],
}


@dataclass(frozen=True, slots=True)
class Tenant:
    """A namespace of the cluster and somebody with rights in it."""

    namespace: str
    kubectl: Kubectl
    """As the tenant, with its token, in its namespace."""
    admin: Kubectl
    """As the cluster's administrator, in the tenant's namespace."""

    def pod(self, name: str, *command: str, labels: Json | None = None, **spec: Any) -> Json:
        """A pod of one container `nf`, to create with `apply`. `spec` are more fields of the pod's spec."""
        container = {"name": "nf", "image": NF_IMAGE, "imagePullPolicy": "Never", "command": list(command or _SLEEP)}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels or {}},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": "node1"},
                "terminationGracePeriodSeconds": 1,
                "containers": [container],
                **spec,
            },
        }

    def apply(self, *objects: Json) -> None:
        """Creates or changes objects as the tenant. Raises AssertionError with the API server's words when refused."""
        self.kubectl("apply", "-f", "-", stdin=_list(objects))

    def refusal(self, *objects: Json) -> str:
        """What the API server says when it refuses to create the objects. AssertionError when it accepts them."""
        done = self.kubectl.try_("create", "-f", "-", stdin=_list(objects))
        assert done.returncode != 0, f"accepted: {done.stdout}"
        return done.stderr

    def start(self, pod: Json, seconds: int = 60) -> str:
        """Creates a pod and waits until it is Ready; its name."""
        self.apply(pod)
        name: str = pod["metadata"]["name"]
        self.kubectl("wait", f"pod/{name}", "--for=condition=Ready", f"--timeout={seconds}s")
        return name

    def run(self, pod: str, *command: str) -> str:
        """Runs a command in the container `nf` of a pod; what it printed."""
        return self.kubectl("exec", pod, "-c", "nf", "--", *command)


@contextmanager
def tenant(folder: Path, reads: tuple[str, ...] = ()) -> Iterator[Tenant]:
    """A tenant in a new namespace, which is deleted afterwards. It may read the namespaces `reads`, too."""
    namespace = f"tenant-{uuid4().hex[:8]}"
    admin = Kubectl(namespace)
    Kubectl()("create", "namespace", namespace)
    try:
        Kubectl()("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged")
        admin("create", "serviceaccount", _ACCOUNT)
        account = f"--serviceaccount={namespace}:{_ACCOUNT}"
        admin("create", "-f", "-", stdin=json.dumps(_ROLE))
        admin("create", "rolebinding", "tenant-edit", "--clusterrole=edit", account)
        admin("create", "rolebinding", "tenant-chains", f"--role={_ACCOUNT}", account)
        for other in reads:
            Kubectl(other)("create", "rolebinding", f"{namespace}-view", "--clusterrole=view", account)
        config = with_token(folder, admin("create", "token", _ACCOUNT, "--duration=3h"))
        yield Tenant(namespace, Kubectl(namespace, config), admin)
    finally:
        for other in reads:
            Kubectl(other).try_("delete", "rolebinding", f"{namespace}-view")
        Kubectl()("delete", "namespace", namespace, "--wait=false")


@contextmanager
def complete(victim: Kubectl) -> Iterator[None]:
    """Traffic crosses the victim's chain during the block. AssertionError unless all of it arrived, exactly once."""
    with traffic(victim) as account:
        yield
    packets, connections = account["packets"], account["connections"]
    assert packets["sent"] > 0
    assert packets["sent"] == packets["received"], account
    assert (packets["lost"], connections["broken"]) == (0, 0), account


def serving(victim: Kubectl, stage: str) -> list[str]:
    """Names of the stage's pods that are in the targets of all their cross-connections, by their condition."""
    return [p["metadata"]["name"] for p in pods(victim, stage) if _wired(p)]


def _wired(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any((c["type"], c["status"]) == ("sfc.dev/wired", "True") for c in conditions)


def _list(objects: tuple[Json, ...]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


_SLEEP = ("sleep", "infinity")

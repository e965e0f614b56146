"""What a tenant with a namespace of its own can do to another one: nothing. Each test is an attack that once worked.

The victim is the example chain with traffic through it; the attacker has a namespace and a token of its own, and may
read the victim's pods.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster import test_chain
from tests.cluster.conftest import CHECKOUT, Kubectl, eventually
from tests.cluster.tenants import Json, Tenant, complete, serving, tenant
from tests.cluster.test_chain import scale
from tests.cluster.test_life import said

edge = test_chain.edge


@pytest.fixture
def victim(edge: Kubectl) -> Iterator[Kubectl]:
    """The example chain with two translators that serve."""
    scale(edge, "nat", 2)
    yield edge
    scale(edge, "nat", 1)


@pytest.fixture(scope="module")
def attacker(edge: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    with tenant(tmp_path_factory.mktemp("attacker"), reads=("telco",)) as found:
        yield found


# --- the tenants themselves -------------------------------------------------------------------------------------------


def test_a_tenant_has_rights_in_its_own_namespace_and_reads_the_victims_pods(victim: Kubectl, attacker: Tenant) -> None:
    with complete(victim):
        attacker.start(attacker.pod("idle"))
        seen = attacker.kubectl("get", "pods", "--namespace=telco", "-o", "name")
        refused = attacker.kubectl.try_("delete", "pods", "--namespace=telco", "--all")

    assert seen.count("pod/nat-") == 2
    assert "forbidden" in refused.stderr
    assert len(serving(victim, "nat")) == 2


# --- part 2: whoever can read a pod can drain it ----------------------------------------------------------------------

POLICY = "sfc-drain-hook"
DRAIN_PORT = 9810
REDIRECTING = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302)
        self.send_header("Location", sys.argv[1])
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Answer).serve_forever()
"""
CALLING = """
import http.client, sys
for _ in range(8):
    call = http.client.HTTPConnection("127.0.0.1", 9810, timeout=20)
    call.request("GET", sys.argv[1])
    print(call.getresponse().status)
"""


def drain_path(victim: Kubectl, pod: str) -> str:
    """The path of a pod's hook, as everybody who may read the pod sees it."""
    found = json.loads(victim("get", "pod", pod, "-o", "json"))
    return f"/drain/{found['metadata']['annotations']['sfc.dev/drain-id']}"


def asking(path: str, **where: Any) -> Json:
    return {"httpGet": {"host": "127.0.0.1", "port": DRAIN_PORT, "path": path, **where}, "periodSeconds": 1}


def with_container(pod: Json, **fields: Any) -> Json:
    pod["spec"]["containers"][0] |= fields
    return pod


def refusals(victim: Kubectl, pod: str) -> int:
    """How often the node agent has refused a hook of the pod."""
    uid = json.loads(victim("get", "pod", pod, "-o", "json"))["metadata"]["uid"]
    return len(said("hook answered", outcome="refused", pod_uid=uid))


@contextmanager
def without_the_policy() -> Iterator[None]:
    """What the node agent does by itself. The binding comes back with the next `apply`."""
    admin = Kubectl()
    admin("delete", "validatingadmissionpolicybinding", POLICY)
    try:
        yield
    finally:
        admin("apply", "-f", CHECKOUT / "deploy" / "hook-policy.yaml")


def test_no_pod_may_ask_the_port_of_the_drain_hooks(victim: Kubectl, attacker: Tenant) -> None:
    """Case 12, in all its spellings."""
    path = drain_path(victim, serving(victim, "nat")[0])
    get = asking(path)["httpGet"]
    named = {"ports": [{"name": "web", "containerPort": DRAIN_PORT}], "readinessProbe": asking(path, port="web")}
    tried: dict[str, Json] = {
        "livenessProbe.httpGet": {"livenessProbe": asking(path)},
        "readinessProbe.httpGet": named,
        "startupProbe.httpGet": {"startupProbe": asking(path, host="localhost")},
        "readinessProbe.tcpSocket": {"readinessProbe": {"tcpSocket": {"host": "::1", "port": DRAIN_PORT}}},
        "lifecycle.postStart.httpGet": {"lifecycle": {"postStart": {"httpGet": get}}},
        "lifecycle.preStop.httpGet": {"lifecycle": {"preStop": {"httpGet": {**get, "host": "victim.example"}}}},
    }
    sidecar = {"name": "side", "image": "none", "restartPolicy": "Always", "livenessProbe": asking(path)}
    in_the_nodes_network = {"readinessProbe": {"grpc": {"port": DRAIN_PORT}}}

    for place, fields in tried.items():
        refusal = attacker.refusal(with_container(attacker.pod("spelled"), **fields))
        assert f'container "nf": {place} asks port 9810' in refusal
    assert 'container "side": livenessProbe.httpGet' in attacker.refusal(attacker.pod("s", initContainers=[sidecar]))
    assert "readinessProbe.grpc" in attacker.refusal(
        with_container(attacker.pod("h", hostNetwork=True), **in_the_nodes_network)
    )


def test_a_replica_may_ask_its_own_hook_and_a_pod_its_own_port(victim: Kubectl, attacker: Tenant) -> None:
    own = {"tcpSocket": {"port": DRAIN_PORT}}
    identity = "0" * 32
    labels = {"sfc.dev/chain": "edge", "sfc.dev/stage": "nat"}
    hook = {"lifecycle": {"preStop": {"httpGet": asking(f"/drain/{identity}")["httpGet"]}}}

    def replica(annotated: str) -> Json:
        pod = with_container(attacker.pod("r", labels=labels), **hook)
        pod["metadata"]["annotations"] = {"sfc.dev/drain-id": annotated}
        return pod

    Kubectl()("label", "namespace", attacker.namespace, "sfc.dev/injection=disabled")
    try:
        dry_run = ("create", "--dry-run=server", "-f", "-")
        attacker.kubectl(*dry_run, stdin=json.dumps(with_container(attacker.pod("o"), readinessProbe=own)))
        attacker.kubectl(*dry_run, stdin=json.dumps(replica(identity)))
        refused = attacker.refusal(replica("1" * 32))
    finally:
        Kubectl()("label", "namespace", attacker.namespace, "sfc.dev/injection-")

    assert "lifecycle.preStop.httpGet asks port 9810" in refused


def test_a_probe_that_calls_a_victims_hook_drains_nothing(victim: Kubectl, attacker: Tenant) -> None:
    target = serving(victim, "nat")[0]
    path = drain_path(victim, target)
    before = refusals(victim, target)

    with without_the_policy(), complete(victim):
        eventually(lambda: _accepted(attacker, with_container(attacker.pod("probing"), livenessProbe=asking(path))))
        eventually(lambda: refusals(victim, target) > before + 2, seconds=60)
    attacker.kubectl("delete", "pod", "probing", "--wait=false")

    assert "HookRefused" in victim("events", f"--for=pod/{target}")
    assert target in serving(victim, "nat")
    assert not said("replica out of all targets", pod=f"telco/{target}")


def _accepted(attacker: Tenant, pod: Json) -> bool:
    """Whether the API server takes the pod. It notices after a moment that a policy is not bound any more."""
    return attacker.kubectl.try_("create", "-f", "-", stdin=json.dumps(pod)).returncode == 0


def test_a_redirect_to_a_victims_hook_which_no_policy_sees_drains_nothing(victim: Kubectl, attacker: Tenant) -> None:
    target, port = serving(victim, "nat")[0], 18080
    path = drain_path(victim, target)
    before = refusals(victim, target)
    command = ("python3", "-c", REDIRECTING, f"http://127.0.0.1:{DRAIN_PORT}{path}", str(port))

    with complete(victim):
        pod = attacker.pod("redirecting", *command, hostNetwork=True)
        attacker.apply(with_container(pod, readinessProbe=asking("/", port=port)))
        eventually(lambda: refusals(victim, target) > before, seconds=60)
    attacker.kubectl("delete", "pod", "redirecting", "--wait=false")

    assert target in serving(victim, "nat")


def test_a_pod_in_the_nodes_network_that_calls_all_hooks_again_and_again_delays_no_deletion(
    victim: Kubectl, attacker: Tenant
) -> None:
    caller = attacker.start(attacker.pod("calling", hostNetwork=True))
    target, leaving = serving(victim, "nat")
    uid = json.loads(victim("get", "pod", leaving, "-o", "json"))["metadata"]["uid"]

    with complete(victim):
        answers = attacker.run(caller, "python3", "-c", CALLING, drain_path(victim, target))
        attacker.run(caller, "python3", "-c", CALLING, drain_path(victim, leaving))
        victim("delete", "pod", leaving)
    attacker.kubectl("delete", "pod", caller, "--wait=false")

    assert set(answers.split()) == {"409"}
    assert target in serving(victim, "nat")
    assert said("replica out of all targets", pod=f"telco/{leaving}")[0]["after_ms"] < 1000
    assert said("hook answered", outcome="drained", pod_uid=uid)

"""What a tenant with a namespace of its own can do to another one: nothing. Each test is an attack that once worked.

The victim is the example chain with traffic through it; the attacker has a namespace and a token of its own, and may
read the victim's pods.
"""

from __future__ import annotations

import itertools
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kube.api import ApiError, ApiServer
from sfc.names import NETWORKS_ANNOTATION
from tests import flood
from tests.cluster import test_chain, test_life
from tests.cluster.admission_load import injected
from tests.cluster.conftest import CHECKOUT, KUBECONFIG, SYSTEM, Kubectl, eventually, example_chain, scrape
from tests.cluster.tenants import Json, Tenant, complete, serving, tenant
from tests.cluster.test_chain import in_node, pods, scale
from tests.cluster.test_life import said
from tests.unit import largest

edge = test_chain.edge
FLOODING = Path(flood.__file__)
BEARABLE_SECONDS = 1.0
"""For the median of admissions under attack; the API server waits for 5 s. Attacker, API server and webhook may share
two processors, so the ratio to the usual time is printed only; docs/benchmarks.md has it, measured with precedence."""


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


# --- parts 4, 9 and 11: the relay, metrics, and what the agent's pod can do -------------------------------------------

ASK = """
import json, ssl, sys, urllib.request
trust = ssl._create_unverified_context()
mine = open("/var/run/secrets/kubernetes.io/serviceaccount/token").read()
for url in sys.argv[1:]:
    for token in ("", mine, "made.up.token"):
        question = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
        try:
            with urllib.request.urlopen(question, timeout=5, context=trust) as answer:
                print(json.dumps([url, answer.status, answer.read().decode()]))
        except urllib.error.HTTPError as error:
            print(json.dumps([url, error.code, error.read().decode()]))
        except OSError as error:
            print(json.dumps([url, 0, str(error)]))
"""
"""Asks each URL without a token, with the pod's own and with a made-up one."""

FLOOD = """
import socket, ssl, sys, threading, time
host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
trust = ssl._create_unverified_context()
until, made = time.monotonic() + seconds, [0, 0]
def idle():
    held = []
    while time.monotonic() < until:
        try:
            held.append(socket.create_connection((host, port), 1))
            made[0] += 1
        except OSError:
            time.sleep(0.01)
        if len(held) > 500:
            held.pop(0).close()
def ask():
    number = 0
    while time.monotonic() < until:
        number += 1
        try:
            with trust.wrap_socket(socket.create_connection((host, port), 1)) as secured:
                secured.sendall(f"GET /metrics HTTP/1.1\\r\\nAuthorization: Bearer a.{number}.b\\r\\n\\r\\n".encode())
                made[1] += bool(secured.recv(100))
        except OSError:
            pass
threads = [threading.Thread(target=each) for each in (idle, idle, ask, ask)]
for each in threads: each.start()
for each in threads: each.join()
print(*made)
"""
"""Opens connections that say nothing, and asks with tokens that nobody has, as fast as it can; how many of each."""


def _components() -> dict[str, list[dict[str, Any]]]:
    """Our pods by the name of their component."""
    found = json.loads(SYSTEM("get", "pods", "-o", "json"))["items"]
    return {
        name: [pod for pod in found if pod["metadata"]["labels"].get("app.kubernetes.io/name") == name]
        for name in ("sfc-node", "sfc-webhook", "sfc-cluster-controller")
    }


def test_a_tenant_reads_nobodys_metrics(victim: Kubectl, attacker: Tenant) -> None:
    pod = attacker.start(attacker.pod("reader"))
    ports = {
        "sfc-node": (9808, 9809, 9810, 9811),
        "sfc-webhook": (8080, 8081, 9811, 9812),
        "sfc-cluster-controller": (8080, 9811),
    }
    addresses = {name: pods[0]["status"]["podIP"] for name, pods in _components().items()}
    urls = [
        f"{scheme}://{addresses[name]}:{port}{path}"
        for name, open_ports in ports.items()
        for port in open_ports
        for scheme, path in (("http", "/metrics"), ("https", "/metrics"), ("http", "/readyz"))
    ]

    with complete(victim):
        answers = [json.loads(line) for line in attacker.run(pod, "python3", "-c", ASK, *urls).splitlines()]
        allowed = scrape(_components()["sfc-node"][0]["metadata"]["name"])

    served = {url for url, status, _ in answers if status == 200}
    assert "sfc_links" in allowed
    assert all(url.endswith("/readyz") for url in served), served
    assert not any("telco" in text or "# HELP" in text for _, _, text in answers)
    for name, address in addresses.items():
        statuses = [status for url, status, _ in answers if url == f"https://{address}:9811/metrics"]
        assert statuses == [401, 403, 401], name


def _restarts(agent: str) -> str:
    """Of both containers of a node agent's pod."""
    return SYSTEM("get", "pod", agent, "-o", "jsonpath={.status.containerStatuses[*].restartCount}")


def test_a_flood_of_questions_for_metrics_disturbs_neither_drains_nor_joins_nor_prometheus(
    victim: Kubectl, attacker: Tenant
) -> None:
    agent = next(pod for pod in _components()["sfc-node"] if pod["spec"]["nodeName"] == "node1")
    name, address = agent["metadata"]["name"], agent["status"]["podIP"]
    pods = [attacker.start(attacker.pod(f"flood-{number}")) for number in range(2)]
    restarts = _restarts(name)

    with complete(victim), ThreadPoolExecutor() as pool:
        floods = [pool.submit(attacker.run, pod, "python3", "-c", FLOOD, address, "9811", "40") for pod in pods]
        time.sleep(3)
        scale(victim, "nat", 3)
        joined = test_life.said("replica in all its targets")[-1]
        text = scrape(name)
        scale(victim, "nat", 2)
        left = test_life.said("replica out of all targets")[-1]
        made = [flood.result().split() for flood in floods]

    assert "sfc_links" in text
    assert joined["after_ms"] < test_life.STEERED_MS, joined
    assert left["after_ms"] < test_life.STEERED_MS, left
    assert sum(int(idle) for idle, _ in made) > 1000, made
    assert _restarts(name) == restarts


RELAY_TRIES = """
import json, os, socket
def tried(act):
    try:
        return str(act())
    except OSError as error:
        return type(error).__name__
def connect(path):
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(path)
def write(path):
    with open(path, "w"):
        pass
print(json.dumps({
    "user": os.getuid(),
    "capabilities": next(l.split()[1] for l in open("/proc/self/status") if l.startswith("CapEff")),
    "cni": tried(lambda: connect("/run/sfc/cni.sock")),
    "leader's socket": tried(lambda: connect("/run/sfc/agent.sock")),
    "leader's lock": tried(lambda: write("/run/sfc/leader")),
    "token": tried(lambda: os.listdir("/var/run/secrets/kubernetes.io/serviceaccount")),
    "pins": tried(lambda: write("/sys/fs/bpf/sfc/v1/links")),
    "plugins": tried(lambda: write("/opt/cni/bin/sfc")),
    "own folder": tried(lambda: write("/run/sfc/hooks/mine")),
    "agent's hooks": tried(lambda: connect("/run/sfc/hooks/agent.sock")),
}))
"""


def test_the_relay_reaches_its_own_two_sockets_and_nothing_else(victim: Kubectl, attacker: Tenant) -> None:
    """Whoever takes the relay over has no more than a process with its user, in its container or on its node."""
    agent = test_life.agents()[-1]

    inside = json.loads(SYSTEM("exec", agent, "-c", "hooks", "--", "python", "-c", RELAY_TRIES))
    nobody = ("setpriv", "--reuid=19810", "--regid=19810", "--clear-groups", "--bounding-set=-all")
    outside = json.loads(in_node(*nobody, "/usr/bin/python3", "-c", RELAY_TRIES))

    for found in (inside, outside):
        assert (found["user"], int(found["capabilities"], 16)) == (19810, 0)
        lost = ("FileNotFoundError", "PermissionError", "OSError", "NotADirectoryError")
        refused = {key: value for key, value in found.items() if key not in ("user", "capabilities", "agent's hooks")}
        assert all(value in lost for value in refused.values()), refused
    assert inside["agent's hooks"] == "None"
    assert inside["cni"] == "FileNotFoundError"


# --- 5. the webhook answers API servers only --------------------------------------------------------------------------

ASK_WEBHOOK = """
import json, ssl, sys, urllib.request
address, *paths = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
labels = {"sfc.dev/chain": "edge", "sfc.dev/stage": "nat"}
pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "n"}]}}
request = {"uid": "u", "operation": "CREATE", "namespace": "telco", "object": pod}
review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
headers = {"Content-Type": "application/json"}
for path in paths:
    question = urllib.request.Request(f"https://{address}{path}", json.dumps(review).encode(), headers)
    try:
        print("answer:", urllib.request.urlopen(question, context=context, timeout=10).read())
    except OSError as error:
        print("none:", error)
"""


def webhook_address() -> str:
    return SYSTEM("get", "service", "sfc-webhook", "-o", "jsonpath={.spec.clusterIP}")


def right_path() -> str:
    """A path that API servers ask for. They show it to tenants in their errors, so an attacker may know it."""
    configuration = json.loads(Kubectl()("get", "mutatingwebhookconfiguration", "sfc", "-o", "json"))
    (path,) = [w["clientConfig"]["service"]["path"] for w in configuration["webhooks"] if w["name"] == "pods.sfc.dev"]
    return str(path)


def test_the_webhook_is_no_oracle(attacker: Tenant) -> None:
    paths = ("/mutate/pods", "/mutate/workloads", "/validate/chains", "/", "/docs", right_path())
    pod = attacker.start(attacker.pod("asks"))

    answers = attacker.run(pod, "python3", "-c", ASK_WEBHOOK, f"{webhook_address()}:443", *paths).splitlines()

    assert len(answers) == len(paths)
    assert all(answer.startswith("none:") for answer in answers), answers


def test_a_tenant_cannot_read_the_webhooks_path(attacker: Tenant) -> None:
    for what in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations", "secrets --namespace=sfc-system"):
        assert "forbidden" in attacker.kubectl.try_("get", *what.split()).stderr


def test_ten_thousand_hostile_connections_fail_no_admission(victim: Kubectl, attacker: Tenant) -> None:
    arguments = (webhook_address(), "443", "40", "10000")
    flooding = attacker.pod(
        "floods", "sh", "-c", 'python3 -c "$@"; sleep infinity', "-", FLOODING.read_text(), *arguments
    )
    flooding["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "500m"}}
    wanted = attacker.pod("wanted", labels={"sfc.dev/chain": "edge", "sfc.dev/stage": "nat"})
    api = ApiServer.from_environment(str(KUBECONFIG))

    def admit() -> float:
        """Seconds that a replica's admission takes, with all that the API server does for it."""
        started = time.perf_counter()
        wanted["metadata"]["namespace"] = "telco"
        assert injected(api.create("/api/v1/namespaces/telco/pods?dryRun=All", wanted))
        return time.perf_counter() - started

    before = [admit() for _ in range(60)]
    with complete(victim):
        attacker.start(flooding)
        during = []
        until = time.monotonic() + 120
        while not (counts := [line for line in attacker.kubectl("logs", "floods").splitlines() if "{" in line]):
            assert time.monotonic() < until
            during += [admit() for _ in range(5)]
            time.sleep(0.2)

    usual, flooded = statistics.median(before), statistics.median(during)
    print(f"usual {usual:.4f} s, in the flood {flooded:.4f} s, at most {max(during):.3f} s of {len(during)}; {counts}")
    assert json.loads(counts[0])["opened"] >= 10_000
    assert flooded < BEARABLE_SECONDS


# --- part 6: the largest that a tenant may write ----------------------------------------------------------------------

CHAINS = "/apis/sfc.dev/v1alpha1/namespaces/{}/servicefunctionchains"
PODS = "/api/v1/namespaces/{}/pods"
LARGEST = 20
"""So many chains of the largest size are changed one after the other, as fast as the API server takes them."""


class Flood:
    """Writes the largest chains, and pods with the largest annotations, again and again."""

    def __init__(self, attacker: Tenant) -> None:
        self._api = ApiServer.from_environment(str(attacker.kubectl.kubeconfig))
        self._namespace = attacker.namespace
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.written = 0
        self.failed: list[str] = []

    def __enter__(self) -> Flood:
        self._thread.start()
        eventually(lambda: self.written > LARGEST or len(self.failed) > LARGEST)
        assert self.written > LARGEST, self.failed[-1]
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(60)
        for i in range(LARGEST):
            self._api.delete(f"{CHAINS.format(self._namespace)}/largest-{i}")

    def _run(self) -> None:
        for turn in itertools.count():
            for i in range(LARGEST):
                if self._stopped.is_set():
                    return
                chain = largest.chain(name=f"largest-{i}", namespace=self._namespace)
                chain["spec"]["drain"]["deadlineSeconds"] = turn % 3600
                self._do(lambda chain=chain: self._apply(chain))
            annotated = self._labelled("flood", {"example.com/large": "x" * (250 << 10)})
            self._do(lambda obj=annotated: self._api.create(f"{PODS.format(self._namespace)}?dryRun=All", obj))

    def _do(self, write: Callable[[], object]) -> None:
        try:
            write()
            self.written += 1
        except ApiError as error:
            self.failed.append(str(error))

    def _apply(self, chain: Json) -> None:
        metadata = {"name": chain["metadata"]["name"], "namespace": self._namespace}
        path = f"{CHAINS.format(self._namespace)}/{metadata['name']}"
        self._api.apply(path, {**chain, "metadata": metadata}, "attacker")

    def _labelled(self, name: str, annotations: Json) -> Json:
        labels = {"sfc.dev/chain": "largest-0", "sfc.dev/stage": largest.chain()["spec"]["stages"][0]["name"]}
        spec = {"containers": [{"name": "nf", "image": "nf"}]}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels, "annotations": annotations},
            "spec": spec,
        }


def admission_seconds(labels: Json) -> float:
    """The median time to create a pod of the victim's, as a dry run."""
    api = ApiServer.from_environment(str(KUBECONFIG))
    spec = {"containers": [{"name": "nf", "image": "nf"}]}
    obj = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "labels": labels}, "spec": spec}
    seconds = []
    for _ in range(60):
        began = time.monotonic()
        api.create(f"{PODS.format('telco')}?dryRun=All", obj)
        seconds.append(time.monotonic() - began)
    return statistics.median(seconds)


REPLICA = {"sfc.dev/chain": "edge", "sfc.dev/stage": "nat"}


def joined(victim: Kubectl) -> float:
    """Scales the translators from two to four and back; the seconds until the new ones serve."""
    began = time.monotonic()
    scale(victim, "nat", 4)
    seconds = time.monotonic() - began
    assert len(serving(victim, "nat")) == 4
    scale(victim, "nat", 2)
    return seconds


def test_the_largest_chains_make_nobody_wait(
    victim: Kubectl, attacker: Tenant, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the API server itself takes longer is measured by pods that never come to the webhook."""
    usual, others, scaled = admission_seconds(REPLICA), admission_seconds({}), joined(victim)

    with Flood(attacker) as flood:
        slow, slow_others = admission_seconds(REPLICA), admission_seconds({})
        with complete(victim):
            took = joined(victim)

    with capsys.disabled():
        print(
            f"\nadmission {usual * 1e3:.1f} ms, {slow * 1e3:.1f} ms in the flood (without webhook {others * 1e3:.1f} "
            f"and {slow_others * 1e3:.1f}); scale-out {scaled:.1f} s, {took:.1f} s; {flood.written} written by the "
            f"attacker, {len(flood.failed)} refused"
        )
    assert flood.failed == []
    assert slow < BEARABLE_SECONDS
    assert took <= 2 * scaled + 20


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (largest.chain(interfaces=5, addresses=0, routes=0), "spec.stages: Invalid value: have too many interfaces"),
        (largest.chain(addresses=2, routes=0), "spec.stages: Invalid value: have too many addresses"),
        (largest.chain(routes=3), "spec.stages: Invalid value: have too many routes"),
    ],
)
def test_a_chain_beyond_the_bounds_is_refused_with_a_remedy(attacker: Tenant, chain: Json, message: str) -> None:
    chain["metadata"] = {"name": "beyond", "namespace": attacker.namespace}

    refused = attacker.refusal(chain)

    assert message in refused.replace("\n", " ")
    assert "are allowed; remove some, or divide the chain" in refused


# --- shared tables of a node ------------------------------------------------------------------------------------------

CROWDS, HUBS, PORTS, ADDRESSES = 6, 4, 8, 4
"""Chains; transparent stages in a row of each chain, interfaces of each, and addresses of each stage that hangs on one
of them: about as many as a chain may have. Together they want 18,096 neighbours, and 16,384 once were all that a node
had room for."""


def crowd(number: int) -> dict[str, Any]:
    """A valid chain that is one large segment: 29 cross-connections, each with 104 neighbours."""
    hubs = [[f"hub{at}.p{port}" for port in range(PORTS)] for at in range(HUBS)]
    joints = [[hubs[at][-1], hubs[at + 1][0]] for at in range(HUBS - 1)]
    free = [port for ports in hubs for port in ports if port not in {end for joint in joints for end in joint}]
    stages = [{"name": f"hub{at}", "interfaces": [{"name": f"p{port}"} for port in range(PORTS)]} for at in range(HUBS)]
    for at, _ in enumerate(free):
        addresses = [f"10.{100 + number}.{at}.{host + 1}/16" for host in range(ADDRESSES)]
        stages.append({"name": f"leaf{at}", "interfaces": [{"name": "eth", "addresses": addresses}]})
    links = [*joints, *([port, f"leaf{at}.eth"] for at, port in enumerate(free))]
    return {
        "apiVersion": "sfc.dev/v1alpha1",
        "kind": "ServiceFunctionChain",
        "metadata": {"name": f"crowd{number}"},
        "spec": {"stages": stages, "links": links},
    }


def test_chains_with_more_neighbours_than_a_node_remembers_keep_nobody_from_joining(
    victim: Kubectl, attacker: Tenant
) -> None:
    chains = [crowd(number)["metadata"]["name"] for number in range(CROWDS)]
    members = [
        (f"{chain}-{at}", {"sfc.dev/chain": chain, "sfc.dev/stage": f"hub{at}"})
        for chain in chains
        for at in range(HUBS)
    ]
    attacker.apply(*(crowd(number) for number in range(CROWDS)))
    with complete(victim):
        attacker.apply(*(attacker.pod(name, labels=labels) for name, labels in members))
        hubs = [f"pod/{name}" for name, _ in members]
        in_targets = '--for=jsonpath={.status.conditions[?(@.type=="sfc.dev/wired")].reason}=HopOpen'  # without leaves
        attacker.kubectl("wait", *hubs, in_targets, "--timeout=300s")
        scale(victim, "nat", 3)
        joined = serving(victim, "nat")
        scale(victim, "nat", 2)

    def told() -> bool:
        messages = attacker.kubectl("get", "events", "-o", "jsonpath={.items[*].message}")
        return all(f"CrossConnection {chain}.hub" in messages for chain in chains)

    assert len(joined) == 3
    eventually(told, seconds=60)
    connection = f"xc/{chains[0]}.hub0.p0.leaf0.eth"
    attacker.admin("wait", connection, "--for=condition=Degraded", "--timeout=30s")
    attacker.kubectl("delete", "--now", *hubs)
    attacker.kubectl("delete", "sfc", *chains)


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


# --- links are given to whom the webhook signed for -------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_chain(edge: Kubectl, attacker: Tenant) -> None:
    """The attacker has a chain of the same name and stages as the victim's, and so the network `sfc`."""
    attacker.apply(example_chain(name="edge", namespace=attacker.namespace))
    eventually(lambda: attacker.kubectl.try_("get", "net-attach-def", "sfc").returncode == 0)


def with_network(attacker: Tenant, name: str, networks: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """A pod whose author wrote the network annotation by hand."""
    pod = attacker.pod(name, labels=labels)
    pod["metadata"]["annotations"] = {NETWORKS_ANNOTATION: networks}
    return pod


def refused_additions(attacker: Tenant, name: str) -> tuple[int, str]:
    """How often the pod's sandbox failed, and what the attacker is told last."""
    selector = f"involvedObject.name={name},reason=FailedCreatePodSandBox"
    events = json.loads(attacker.kubectl("get", "events", f"--field-selector={selector}", "-o", "json"))["items"]
    latest = max(events, key=lambda event: str(event.get("lastTimestamp")), default={})
    return sum(event.get("count") or 1 for event in events), str(latest.get("message", ""))


def told(attacker: Tenant, name: str, more_than: int = 0) -> str:
    eventually(lambda: refused_additions(attacker, name)[0] > more_than)
    return refused_additions(attacker, name)[1]


def has_link(tenant: Kubectl, pod: str) -> bool:
    """Whether a link of the pod's node says that it is the pod's."""
    uid = tenant("get", "pod", pod, "-o", "jsonpath={.metadata.uid}")
    return uid in in_node("ip", "-d", "-o", "link")


def elements(victim: Kubectl, stage: str) -> list[dict[str, Any]]:
    """What the webhook wrote into a replica's network annotation."""
    found: list[dict[str, Any]] = json.loads(pods(victim, stage)[0]["metadata"]["annotations"][NETWORKS_ANNOTATION])
    return found


def test_a_pod_that_writes_the_network_by_hand_gets_no_link_and_is_told_to_label_its_workload(
    victim: Kubectl, attacker: Tenant, own_chain: None
) -> None:
    with complete(victim):
        attacker.apply(with_network(attacker, "by-hand", "sfc@lan"))
        said = told(attacker, "by-hand")

        assert "label its workload with sfc.dev/chain and sfc.dev/stage, and the webhook asks for the network" in said
        assert "capabilities" not in said
        assert not has_link(attacker.kubectl, "by-hand")


def test_arguments_that_nobody_signed_get_no_link(victim: Kubectl, attacker: Tenant, own_chain: None) -> None:
    """With all that made a link before: a MAC, a drain id, the names of a chain and a stage."""
    forged = [
        {
            "name": "sfc",
            "interface": "lan",
            "ips": ["10.1.0.2/24"],
            "mac": "02:00:5e:10:00:01",
            "cni-args": {"chain": "edge", "stage": "client", "drainId": "0" * 32},
        }
    ]

    with complete(victim):
        attacker.apply(with_network(attacker, "forged", json.dumps(forged)))
        said = told(attacker, "forged")

        assert "without a signature of the webhook: label its workload" in said
        assert not has_link(attacker.kubectl, "forged")


@pytest.mark.parametrize("network", ["own", "victims"])
def test_the_victims_statement_is_none_for_a_pod_of_another_namespace(
    victim: Kubectl, attacker: Tenant, own_chain: None, network: str
) -> None:
    """Copied whole from a pod of the victim, with the attacker's own network or, if Multus lets it, the victim's."""
    copied = [{**e, "namespace": attacker.namespace if network == "own" else "telco"} for e in elements(victim, "nat")]
    for element in copied:
        element["cni-args"].pop("sourcePorts", None)
    name = f"copied-{network}"

    with complete(victim):
        attacker.apply(with_network(attacker, name, json.dumps(copied)))
        said = told(attacker, name)

        said = said.replace('\\"', '"')  # quoted once more on its way through Multus and the kubelet
        assert f'K8S_POD_NAMESPACE is "{attacker.namespace}", but the webhook signed namespace "telco"' in said
        assert not has_link(attacker.kubectl, name)


def test_a_statement_that_was_made_out_to_the_attacker_is_none(
    victim: Kubectl, attacker: Tenant, own_chain: None
) -> None:
    copied = [{**e, "namespace": attacker.namespace} for e in elements(victim, "nat")]
    for element in copied:
        element["cni-args"]["namespace"] = attacker.namespace

    with complete(victim):
        attacker.apply(with_network(attacker, "made-out", json.dumps(copied)))

        assert "args.cni is not what the webhook signed" in told(attacker, "made-out")
        assert not has_link(attacker.kubectl, "made-out")


def test_labels_that_come_after_admission_gain_nothing(victim: Kubectl, attacker: Tenant, own_chain: None) -> None:
    labels = ("sfc.dev/chain=edge", "sfc.dev/stage=client")
    with complete(victim):
        attacker.apply(with_network(attacker, "late", "sfc@lan"))
        attacker.start(attacker.pod("later"))
        failures = refused_additions(attacker, "late")[0]
        for name in ("late", "later"):
            attacker.kubectl("label", "pod", name, *labels)
        told(attacker, "late", more_than=failures)
        eventually(lambda: wired(attacker.kubectl, "later")[0] == "NotLinked")

        assert not has_link(attacker.kubectl, "late")
        assert not has_link(attacker.kubectl, "later")
        assert serving(attacker.kubectl, "client") == []


def wired(kubectl: Kubectl, pod: str) -> tuple[str, str]:
    """Reason and message of the pod's condition; empty without one."""
    found = json.loads(kubectl("get", "pod", pod, "-o", "json"))["status"].get("conditions", [])
    condition = next((c for c in found if c["type"] == "sfc.dev/wired"), {})
    return condition.get("reason", ""), condition.get("message", "")


def test_a_copy_named_by_its_controller_has_a_drain_id_of_its_own(victim: Kubectl) -> None:
    """`kubectl get pod -o json` with `generateName`, as the controllers of debugging tools make it."""
    original = pods(victim, "firewall")[0]
    name, drain_id = (original["metadata"][key] for key in ("name", "annotations"))
    copy = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": original["metadata"]["generateName"],
            "labels": {"sfc.dev/chain": "edge", "sfc.dev/stage": "firewall"},
            "annotations": original["metadata"]["annotations"],
        },
        "spec": {key: value for key, value in original["spec"].items() if key != "nodeName"},
    }

    with complete(victim):
        made = json.loads(victim("create", "-o", "json", "-f", "-", stdin=json.dumps(copy)))["metadata"]
        victim("wait", f"pod/{made['name']}", "--for=condition=Ready", "--timeout=60s")
        assert made["annotations"]["sfc.dev/drain-id"] != drain_id["sfc.dev/drain-id"]
        assert drain_id["sfc.dev/drain-id"] not in json.dumps(made)

        victim("delete", "pod", made["name"], "--wait=true")

        assert wired(victim, name)[0] == "Serving"
        reasons = victim("get", "events", f"--field-selector=involvedObject.name={name}", "-o", "jsonpath={..reason}")
        assert not {"Draining", "Drained", "SteeredAway"} & set(reasons.split())


TWINS = {
    "stages": [
        {"name": "c", "interfaces": [{"name": "out", "addresses": ["10.77.1.2/24"]}]},
        {
            "name": "a",
            "interfaces": [
                {"name": "lan", "addresses": ["10.77.1.1/24"]},
                {"name": "far", "addresses": ["10.77.2.1/24"]},
            ],
        },
        {"name": "b", "interfaces": [{"name": "lan", "addresses": ["10.77.2.2/24"]}]},
    ]
}
"""Stages a and b call their interface alike."""
SESSIONS = """
import socket, sys
names = []
for _ in range(30):
    try:
        with socket.create_connection(("10.77.1.1", 8080), timeout=3) as s:
            names.append(s.recv(100).decode())
    except OSError as error:
        names.append(repr(error))
print(*names, sep=chr(10))
"""
"""Opens 30 sessions to stage a, one after the other, and prints who answered."""
GREETER = """
import os, socket
s = socket.create_server(("0.0.0.0", 8080))
while True:
    c, _ = s.accept()
    c.sendall(os.uname().nodename.encode())
    c.close()
"""


def test_a_replica_that_gets_the_labels_of_another_stage_leaves_and_gets_none_of_its_sessions(
    edge: Kubectl, attacker: Tenant
) -> None:
    tenant = attacker.kubectl
    attacker.apply(
        {
            "apiVersion": "sfc.dev/v1alpha1",
            "kind": "ServiceFunctionChain",
            "metadata": {"name": "twins", "namespace": attacker.namespace},
            "spec": TWINS,
        }
    )
    commands = {"c-1": (), "a-1": GREETER, "a-2": GREETER, "b-1": GREETER, "b-2": GREETER}
    for name, command in commands.items():
        labels = {"sfc.dev/chain": "twins", "sfc.dev/stage": name[0]}
        attacker.apply(attacker.pod(name, *(("python3", "-c", command) if command else ()), labels=labels))
    tenant("wait", *(f"pod/{name}" for name in commands), "--for=condition=Ready", "--timeout=120s")

    tenant("label", "--overwrite", "pod", "b-2", "sfc.dev/stage=a")
    eventually(lambda: wired(tenant, "b-2")[0] == "Relabelled")
    answered = attacker.run("c-1", "python3", "-c", SESSIONS).split("\n")[:-1]

    assert wired(tenant, "b-2")[1].startswith(
        "its interfaces were made for stage b of chain twins, its labels say stage a of chain twins: "
    )
    assert set(answered) == {"a-1", "a-2"}, answered
    assert len(answered) == 30
    said = tenant("get", "events", "--field-selector=involvedObject.name=b-2", "-o", "jsonpath={..message}")
    assert "its labels changed: it was made for stage b of chain twins, they say stage a of chain twins" in said
    tenant("label", "--overwrite", "pod", "b-2", "sfc.dev/stage=b")
    eventually(lambda: wired(tenant, "b-2")[0] == "Serving")

    tenant("label", "pod", "b-2", "sfc.dev/chain-")
    eventually(lambda: "its labels say no chain" in wired(tenant, "b-2")[1], seconds=10)
    said = tenant("get", "events", "--field-selector=involvedObject.name=b-2", "-o", "jsonpath={..message}")
    assert "it was made for stage b of chain twins, they say no chain" in said
    assert "deleted" not in said
    assert set(attacker.run("c-1", "python3", "-c", SESSIONS).split("\n")[:-1]) == {"a-1", "a-2"}

"""Throughput between real pods (the paper, V.B and Fig. 5): a client, transparent functions, a server.

Chains of 1 to 8 hops run on a real Kubernetes. Besides the interfaces of their chain, the pods get two more sets: one
joined by direct veth pairs, one by bridges of the node. So the three ways cross the same pods and differ only in their
wires. A function forwards frames between the two interfaces of a set by tc mirred. Then the function of the two-hop
chain is scaled, and its cross-connections are compared with the direct veth pairs of its first replica.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import cluster
from benchmarks.compiler import compiled
from benchmarks.happenings import container, has, leaving, processes
from benchmarks.lab import ALL_FRAMES, Enter, iperf_rate, mirred_between, serve_iperf
from benchmarks.report import BUILD, QUICK, Report, Rounds, Spread, machine, ratio

NAMESPACE = "pods"
ROUNDS = 2 if QUICK else 9
HOPS = (1, 2) if QUICK else (1, 2, 4, 8)
REPLICAS = (1, 4) if QUICK else (1, 4, 16, 32)
SCALED_HOPS = 2
TCP_BYTES = 200_000_000
FLOOD_SECONDS = 0.1
PING_SECONDS = 0.05
CONNECT_SECONDS = 0.2
READY_SECONDS = 180.0
IMAGE = "localhost/sfc/nf:dev"
UNITS = {
    "tcp": "TCP, Gbit/s",
    "tcp6": "TCP over IPv6, Gbit/s",
    "cpu": "CPU time, ms per Gbit of TCP",
    "pps": "64-byte packets, thousands per second",
    "connections": "TCP connections, one after the other, per second",
    "p50": "round trip, median, µs",
    "p90": "round trip, 90th percentile, µs",
    "p99": "round trip, 99th percentile, µs",
}
NOTES = (
    "All ways cross the same pods. Both ends of an iperf3 connection share one CPU; CPU time is the whole machine's, "
    "its other work included. For small packets, sender and way share one CPU; the receiving program has the other.",
)
FUNCTION = f"""
trap 'exit 0' TERM
pass() {{
  tc qdisc add dev $1 clsact
  tc filter add dev $1 ingress {ALL_FRAMES} action mirred egress redirect dev $2
}}
if [ -e /sys/class/net/left ] && [ -e /sys/class/net/right ]; then pass left right; pass right left; fi
sleep infinity & wait
"""
"""The script of every pod. A pod with two interfaces forwards frames between them; client and server only wait."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way from client to server, with interfaces and addresses of its own."""

    name: str
    prefix: str
    """The prefix of its interfaces' names in the pods."""
    subnet: int

    def address(self, end: int) -> str:
        """The IPv4 address of the client, end 1, or of the server, end 2."""
        return f"10.0.{self.subnet}.{end}"

    def address6(self, end: int) -> str:
        """The IPv6 address of the client, end 1, or of the server, end 2."""
        return f"fd00:{self.subnet}::{end}"


VETH, BRIDGE, OURS = WAYS = (Way("veth", "v", 1), Way("bridge", "b", 2), Way("ours", "", 0))

Figures = dict[str, dict[str, list[float]]]
"""Rounds, by kind of figure (UNITS) and by what was measured."""


def main() -> None:
    """Brings the cluster up and measures."""
    with cluster.running(_manifest(), NAMESPACE):
        measure()


def measure() -> None:
    """ROUNDS times all chains and ways in turn, then the same for each number of replicas."""
    described = machine()
    tool = compiled("traffic.c")
    figures: Figures = {kind: {} for kind in UNITS}
    with ExitStack() as cleanup:
        chains = {hops: _Chain(hops, tool, cleanup) for hops in HOPS}
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", flush=True)
            for hops, chain in chains.items():
                for way in _order(number):
                    _append(figures, name(hops, way), chain.measured(way))
        for replicas in REPLICAS:
            print(f"replicas: {replicas}", flush=True)
            chains[SCALED_HOPS].scale(replicas)
            for number in range(ROUNDS):
                for way in (VETH, OURS) if number % 2 else (OURS, VETH):
                    _append(figures, scaled_name(replicas, way), chains[SCALED_HOPS].measured(way))
    rounds: Mapping[str, Rounds] = {UNITS[kind]: found for kind, found in figures.items()}
    Report("pods", described, rounds, dict(_ratios(figures)), {}, NOTES).publish()


def name(hops: int, way: Way) -> str:
    """The name of a figure over so many hops."""
    return f"{hops} {'hop' if hops == 1 else 'hops'}, {way.name}"


def scaled_name(replicas: int, way: Way) -> str:
    """The name of a figure with so many replicas."""
    return f"{replicas} {'replica' if replicas == 1 else 'replicas'}, {way.name}"


def _append(figures: Figures, label: str, found: Mapping[str, float]) -> None:
    for kind, value in found.items():
        figures[kind].setdefault(label, []).append(value)


def _order(number: int) -> Sequence[Way]:
    start = number % len(WAYS)
    turned = WAYS[start:] + WAYS[:start]
    return turned[::-1] if number % 2 else turned


def _ratios(figures: Figures) -> Iterator[tuple[str, Spread]]:
    for kind, found in figures.items():
        for hops in HOPS:
            for other in (VETH, BRIDGE):
                yield f"{kind}, {hops} hops, ours/{other.name}", ratio(found, name(hops, OURS), name(hops, other))
        for replicas in REPLICAS:
            own, other_name = scaled_name(replicas, OURS), scaled_name(replicas, VETH)
            yield f"{kind}, {replicas} replicas, ours/veth", ratio(found, own, other_name)


class _Chain:
    """A chain on the cluster, whose pods also get the interfaces of the other ways."""

    def __init__(self, hops: int, tool: Path, cleanup: ExitStack) -> None:
        self._name, self._hops, self._tool = _chain_name(hops), hops, tool
        (agent,) = _listed("sfc-system", "app.kubernetes.io/name=sfc-node")
        self._node = processes(container(agent, "node"))[0]  # it has the node's network namespace
        self._pids = [processes(container(self._pods(stage)[0]))[0] for stage in _stages(hops)]
        self._ends = self._pids[0], self._pids[-1]
        for hop in range(hops):
            self._veth(hop)
            self._bridge(hop)
        for way in (VETH, BRIDGE):
            for pid in self._pids[1:-1]:
                mirred_between(_enter(pid), f"{way.prefix}left", f"{way.prefix}right")
            for end, (pid, interface) in enumerate(zip(self._ends, ("right", "left"), strict=True), start=1):
                device = f"dev {way.prefix}{interface}"
                _ip(pid, f"address add {way.address(end)}/24 {device}")
                _ip(pid, f"address add {way.address6(end)}/64 {device} nodad")
        serve_iperf(_enter(self._ends[1]), cleanup)

    def measured(self, way: Way) -> dict[str, float]:
        before = _busy_seconds()
        tcp = self._tcp(way.address(2))
        busy = _busy_seconds() - before
        sent = self._run("flood", way, FLOOD_SECONDS, *self._wire(way))
        ping = self._run("ping", way, PING_SECONDS)
        connections = self._run("connect", way, CONNECT_SECONDS)
        return {
            "tcp": tcp,
            "tcp6": self._tcp(way.address6(2)),
            "cpu": busy * 1000 / (TCP_BYTES * 8 / 1e9),
            "pps": sent[1] / sent[2] * 1e6,
            "connections": connections[0] / connections[1] * 1e9,
            "p50": ping[1] / 1000,
            "p90": ping[2] / 1000,
            "p99": ping[3] / 1000,
        }

    def scale(self, replicas: int) -> None:
        """Scales the function. The pod that the other ways cross stays, because it is the oldest."""
        deployment = f"deployment/{self._name}-h1"
        cluster.kubectl(f"--namespace={NAMESPACE}", "scale", deployment, f"--replicas={replicas}")

        def scaled() -> bool:
            pods = self._pods("h1")
            return len(pods) == replicas and all(has(pod, "Ready") for pod in pods)

        cluster.until(scaled, f"{replicas} functions are Ready", READY_SECONDS)

    def _pods(self, stage: str) -> list[Mapping[str, Any]]:
        return [pod for pod in _listed(NAMESPACE, f"app={self._name}-{stage}") if not leaving(pod)]

    def _veth(self, hop: int) -> None:
        one, other = self._pids[hop : hop + 2]
        _ip(one, f"link add vright type veth peer name vleft netns {other}")
        _ip(one, "link set vright up")
        _ip(other, "link set vleft up")

    def _bridge(self, hop: int) -> None:
        bridge, ends = f"b{self._hops}x{hop}", {"bright": self._pids[hop], "bleft": self._pids[hop + 1]}
        _ip(self._node, f"link add {bridge} type bridge")
        _ip(self._node, f"link set {bridge} up")
        for interface, pid in ends.items():
            near = f"{bridge}{interface[1]}"
            _ip(self._node, f"link add {near} master {bridge} type veth peer name {interface} netns {pid}")
            _ip(self._node, f"link set {near} up")
            _ip(pid, f"link set {interface} up")

    def _wire(self, way: Way) -> list[str]:
        """The client's interface, its MAC and the server's MAC."""
        interfaces = f"{way.prefix}right", f"{way.prefix}left"
        return [interfaces[0], *(_mac(pid, each) for pid, each in zip(self._ends, interfaces, strict=True))]

    def _tcp(self, address: str) -> float:
        return iperf_rate(_enter(self._ends[0]), address, TCP_BYTES)

    def _run(self, what: str, way: Way, seconds: float, *arguments: str) -> list[int]:
        namespaces = [f"/proc/{pid}/ns/net" for pid in self._ends]
        addresses = [way.address(end) for end in (1, 2)]
        output = cluster.run(str(self._tool), what, *namespaces, *addresses, str(seconds), *arguments)
        return [int(word) for word in output.split()]


def _listed(namespace: str, selector: str) -> list[Mapping[str, Any]]:
    output = cluster.kubectl(f"--namespace={namespace}", "get", "pods", f"--selector={selector}", "--output=json")
    listed: list[Mapping[str, Any]] = json.loads(output)["items"]
    return listed


def _mac(pid: int, interface: str) -> str:
    return str(json.loads(_inside(pid, "ip", "-json", "link", "show", interface))[0]["address"])


def _busy_seconds() -> float:
    """CPU time that all CPUs have spent at work since the machine's start."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks[:8]) - idle) / os.sysconf("SC_CLK_TCK")


def _ip(pid: int, command: str) -> None:
    _inside(pid, "ip", *command.split())


def _inside(pid: int, *command: str) -> str:
    return cluster.run(*_enter(pid), *command)


def _enter(pid: int) -> Enter:
    return ["nsenter", f"--net=/proc/{pid}/ns/net"]


# The chains


def _manifest() -> Path:
    labels = {"pod-security.kubernetes.io/enforce": "privileged", **cluster.PART_OF}
    items: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}},
        *(_service_chain(hops) for hops in HOPS),
        *(_deployment(_chain_name(hops), stage) for hops in HOPS for stage in _stages(hops)),
    ]
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / "pods-manifest.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    return path


def _chain_name(hops: int) -> str:
    return f"{NAMESPACE}-{hops}"


def _stages(hops: int) -> list[str]:
    return [f"h{number}" for number in range(hops + 1)]


def _service_chain(hops: int) -> dict[str, Any]:
    client, *functions, server = _stages(hops)
    stages = [
        {"name": client, "interfaces": [{"name": "right", "addresses": _addresses(1)}]},
        *({"name": each, "interfaces": [{"name": "left"}, {"name": "right"}]} for each in functions),
        {"name": server, "interfaces": [{"name": "left", "addresses": _addresses(2)}]},
    ]
    return {
        "apiVersion": "sfc.dev/v1alpha1",
        "kind": "ServiceFunctionChain",
        "metadata": {"name": _chain_name(hops), "namespace": NAMESPACE},
        "spec": {"stages": stages},
    }


def _addresses(end: int) -> list[str]:
    return [f"{OURS.address(end)}/24", f"{OURS.address6(end)}/64"]


def _deployment(chain: str, stage: str) -> dict[str, Any]:
    app = {"app": f"{chain}-{stage}"}
    container = {
        "name": "function",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", FUNCTION],
        "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}},
    }
    spec = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": app["app"],
            "namespace": NAMESPACE,
            "labels": {"sfc.dev/chain": chain, "sfc.dev/stage": stage},
        },
        "spec": {"selector": {"matchLabels": app}, "template": {"metadata": {"labels": app}, "spec": spec}},
    }

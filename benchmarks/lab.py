"""Two hosts in network namespaces and the wires between them, to compare ways of joining the wires.

The hosts are joined over one hop, or over three with two transparent functions between them. Each interface is the far
end of a veth pair whose near end is in the node's namespace. Labs differ in how the node joins two near ends; a direct
veth pair has none. A function forwards frames between its two interfaces by tc mirred, the cheapest way, in every lab.

The names of the namespaces contain the process id. A run removes the namespaces that killed runs left.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from bcc import BPF
from pyroute2 import netns

from controller.node.kernel import tcx
from controller.node.kernel.datapath import Datapath
from controller.node.kernel.links import Links
from controller.node.plane import maglev
from controller.node.plane.model import CHOSEN_IFINDEX, PROGRAM, SLOTS, LinkEntry, LinkState
from sfc.chain import Side
from tests.netns.node import inside

PREFIX = "sfcb-"
MAC = {"a": "02:00:00:00:00:0a", "b": "02:00:00:00:00:0b"}
ADDRESS = {"a": "10.0.0.1", "b": "10.0.0.2"}
ALL_FRAMES = "protocol all u32 match u32 0 0"

Enter = Sequence[str]
"""The beginning of a command line; the command after it runs in a network namespace."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The loaded programs that all labs share. The session table is as large as on a node."""

    ours: Datapath
    plain: BPF

    def redirect(self, name: str) -> int:
        """The descriptor of a program in redirect.c."""
        fd: int = self.plain.load_func(name.encode(), BPF.SCHED_CLS).fd
        return fd


@dataclass(frozen=True, slots=True)
class Node:
    """The namespace in which near ends are joined."""

    namespace: str
    links: Links
    programs: Programs

    def ifindex(self, interface: str) -> int:
        """The index of one of the node's interfaces."""
        shown = _ip(self.namespace, "ip", "-o", "link", "show", interface)
        return int(shown.partition(":")[0])

    def run_at_once(self, interface: str, name: str) -> None:
        """Runs a program in redirect.c where the shortcut would be, or in the filter where there is no tcx."""
        program = self.programs.redirect(name)
        if self.links.tcx:
            with inside(self.namespace):
                tcx.put_first(self.ifindex(interface), program)
        else:
            self.links.attach(self.ifindex(interface), 0, program, name)


Join = Callable[[Node, int, str, str], None]
"""(node, the join's number, upstream near end, downstream near end)"""

slots = count(2)
"""The near ends of a join are given an even slot and the next one. Their indexes end in it, as a host link's does."""


def bridge(node: Node, number: int, up: str, down: str) -> None:
    """A Linux bridge for each join."""
    batch(
        node.namespace,
        f"link add bridge{number} type bridge",
        f"link set bridge{number} up",
        *(f"link set {each} master bridge{number}" for each in (up, down)),
    )


def mirred(node: Node, number: int, up: str, down: str) -> None:
    """tc mirred, without a program."""
    mirred_between(_enter(node.namespace), up, down)


def redirect(node: Node, number: int, up: str, down: str) -> None:
    """A program that only calls bpf_redirect."""
    for near in (up, down):
        node.run_at_once(near, "redirect")


def redirect_peer(node: Node, number: int, up: str, down: str) -> None:
    """A program that only calls bpf_redirect_peer."""
    for near in (up, down):
        node.run_at_once(near, "redirect_peer")


def ours(node: Node, number: int, up: str, down: str) -> None:
    """A cross-connection with one replica on each side, as on a node."""
    by_filter(node, number, up, down)
    for near in (up, down) if node.links.tcx else ():
        node.links.give_shortcut(node.ifindex(near), node.programs.ours.shortcut)


def by_filter(node: Node, number: int, up: str, down: str) -> None:
    """The same without the shortcut, as on a node without tcx."""
    datapath = node.programs.ours
    connection = node.ifindex(up) % SLOTS
    for near, side in ((up, Side.UPSTREAM), (down, Side.DOWNSTREAM)):
        ifindex = node.ifindex(near)
        slot = ifindex % SLOTS
        datapath.set_link(slot, LinkEntry(ifindex, connection, side, LinkState.SERVING))
        datapath.set_targets(connection, side, maglev.table([("replica", slot)]))
        node.links.attach(ifindex, slot, datapath.program_fd, PROGRAM)


def nowhere(node: Node, number: int, up: str, down: str) -> None:
    """Drops every frame where it reaches the node, so that only the sender's cost is left."""
    node.run_at_once(up, "nowhere")


SENDER_ALONE = "sender alone"

JOINS: dict[str, Join | None] = {
    "veth": None,
    "bridge": bridge,
    "mirred": mirred,
    "redirect": redirect,
    "redirect_peer": redirect_peer,
    "filter": by_filter,
    "ours": ours,
}


@dataclass(frozen=True, slots=True)
class Flood:
    """Small packets, sent as fast as possible."""

    sent: int
    arrived: int
    """At the receiving socket, those that its buffer could not hold included."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Ping:
    """Percentiles of round-trip times, in microseconds."""

    p50: float
    p90: float
    p99: float


class Hosts:
    """Two hosts, `a` and `b`, over so many hops, with functions between them.

    `tool` is the program traffic.c. `cleanup` ends the lab.
    """

    def __init__(self, label: str, hops: int, wire: Wire, tool: Path, cleanup: ExitStack) -> None:
        self._label = f"{label}{hops}"
        self._tool = tool
        self._cleanup = cleanup
        functions = [f"f{number}" for number in range(1, hops)]
        self.host = {each: self.namespace(each) for each in ("a", *functions, "b")}
        """The namespace of each."""
        ends = ["a left", *(f"{each} {side}" for each in functions for side in ("left", "right")), "b left"]
        wire(self, [(ends[2 * hop], ends[2 * hop + 1]) for hop in range(hops)])
        for function in functions:
            mirred_between(_enter(self.host[function]), "left", "right")
        for host, other in (("a", "b"), ("b", "a")):
            batch(
                self.host[host],
                f"link set left address {MAC[host]}",
                f"address add {ADDRESS[host]}/24 dev left",
                f"neighbour add {ADDRESS[other]} lladdr {MAC[other]} dev left nud permanent",
            )
        serve_iperf(_enter(self.host["b"]), cleanup)

    def tcp(self, size: int, address: str = ADDRESS["b"]) -> float:
        """Gbit/s that one iperf3 connection received while it carried `size` bytes."""
        return iperf_rate(_enter(self.host["a"]), address, size)

    def flood(self, seconds: float) -> Flood:
        """Floods `b` from `a`, one way."""
        sent, arrived, nanoseconds = self._run("flood", seconds, "left", MAC["a"], MAC["b"])
        return Flood(sent, arrived, nanoseconds / 1e9)

    def ping(self, seconds: float) -> Ping:
        """Sends one packet at a time from `a` to `b` and back."""
        _, p50, p90, p99 = self._run("ping", seconds)
        return Ping(p50 / 1000, p90 / 1000, p99 / 1000)

    def connections(self, seconds: float) -> float:
        """TCP connections a second from `a` to `b`, one after the other."""
        opened, nanoseconds = self._run("connect", seconds)
        return opened / nanoseconds * 1e9

    def give_ipv6(self, host: str, network: str, neighbour: str, other: str) -> None:
        """Gives a host an IPv6 address, and the other host's."""
        sysctl(self.host[host], "net.ipv6.conf.left.disable_ipv6=0")
        batch(
            self.host[host],
            f"address add {network} dev left nodad",
            f"neighbour add {neighbour} lladdr {MAC[other]} dev left nud permanent",
        )

    def namespace(self, name: str) -> str:
        """Makes a network namespace of the lab's, without IPv6; returns its full name."""
        return lab_namespace(f"{self._label}-{name}", self._cleanup)

    def veth(self, namespace: str, interface: str, end: str, index: int = 0) -> None:
        """A pair from that namespace to a host's interface (its name and the interface's, with a space)."""
        host, far = end.split()
        veth(namespace, interface, self.host[host], far, index)

    def _run(self, what: str, seconds: float, *arguments: str) -> list[int]:
        ends = [f"/run/netns/{self.host[each]}" for each in ("a", "b")]
        command = [str(self._tool), what, *ends, *ADDRESS.values(), str(seconds), *arguments]
        return [int(word) for word in _run(command).split()]


Wire = Callable[[Hosts, Sequence[tuple[str, str]]], None]
"""Joins the ends of each hop."""


def direct(hosts: Hosts, hops: Sequence[tuple[str, str]]) -> None:
    """A veth pair for each hop, with nothing between its ends."""
    for up, down in hops:
        host, interface = up.split()
        hosts.veth(hosts.host[host], interface, down)


class Lab(Hosts):
    """Hosts on one node, joined as `name` says: one of JOINS, or SENDER_ALONE."""

    def __init__(self, name: str, hops: int, programs: Programs, tool: Path, cleanup: ExitStack) -> None:
        self._programs = programs
        join = nowhere if name == SENDER_ALONE else JOINS[name]
        wire = partial(self._through_node, join) if join else direct
        super().__init__(name.replace(" ", "-"), hops, wire, tool, cleanup)

    def _through_node(self, join: Join, _: Hosts, hops: Sequence[tuple[str, str]]) -> None:
        namespace = self.namespace("node")
        with inside(namespace):
            links = Links()
        self._cleanup.callback(links.close)
        node = Node(namespace, links, self._programs)
        for number, hop in enumerate(hops):
            near = (f"near{2 * number}", f"near{2 * number + 1}")
            for interface, end in zip(near, hop, strict=True):
                self.veth(namespace, interface, end, CHOSEN_IFINDEX | next(slots))
            join(node, number, *near)


def lab_namespace(name: str, cleanup: ExitStack) -> str:
    """Makes a network namespace, without IPv6, which `cleanup` removes; returns its full name."""
    namespace = f"{PREFIX}{os.getpid()}-{name}"
    netns.create(namespace)
    cleanup.callback(netns.remove, namespace)
    sysctl(namespace, *(f"net.ipv6.conf.{each}.disable_ipv6=1" for each in ("all", "default")))
    batch(namespace, "link set lo up")
    return namespace


def veth(namespace: str, interface: str, other: str, other_interface: str, index: int = 0) -> None:
    """A veth pair between two namespaces, both ends up. `index`: of the first end; 0 leaves it to the kernel."""
    chosen = f"index {index}" if index else ""
    batch(namespace, f"link add name {interface} {chosen} type veth peer name {other_interface} netns {other}")
    batch(namespace, f"link set {interface} up")
    batch(other, f"link set {other_interface} up")


def order(names: list[str], number: int) -> list[str]:
    """The labs' order: each time another one begins, and every other time it runs backwards.

    So no lab always follows the same one.
    """
    start = number * 5 % len(names)
    turned = names[start:] + names[:start]
    return turned[::-1] if number % 2 else turned


def serve_iperf(enter: Enter, cleanup: ExitStack) -> None:
    """Runs an iperf3 server on CPU 0 until `cleanup`; returns when it listens, RuntimeError after 10 seconds."""
    command = ["setpriv", "--pdeathsig", "TERM", *enter, "taskset", "-c", "0", "iperf3", "-s"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cleanup.callback(server.wait)
    cleanup.callback(server.terminate)
    deadline = time.monotonic() + 10
    while ":5201" not in _run([*enter, "ss", "-Hltn"]):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{' '.join(enter)}: the iperf3 server does not listen after 10 seconds")
        time.sleep(0.05)


def iperf_rate(enter: Enter, address: str, size: int) -> float:
    """Gbit/s that one connection to an iperf3 server received while it carried `size` bytes, its client on CPU 0."""
    report = _run([*enter, "taskset", "-c", "0", "iperf3", "-c", address, "-n", str(size), "-f", "m"])
    found = re.search(r"([\d.]+) Mbits/sec\s+receiver", report)
    if not found:
        raise RuntimeError(f"{' '.join(enter)}: iperf3 reports no rate: {report}")
    return float(found[1]) / 1000


def mirred_between(enter: Enter, one: str, other: str) -> None:
    """Forwards every frame from each of two interfaces to the other, by tc mirred."""
    for interface, target in ((one, other), (other, one)):
        _run([*enter, "tc", "qdisc", "add", "dev", interface, "clsact"])
        rule = f"{ALL_FRAMES} action mirred egress redirect dev {target}"
        _run([*enter, "tc", "filter", "add", "dev", interface, "ingress", *rule.split()])


def sysctl(namespace: str, *settings: str) -> None:
    """Sets the kernel's settings in a namespace: NAME=VALUE."""
    _ip(namespace, "sysctl", "-qw", *settings)


def batch(namespace: str, *commands: str) -> None:
    """Runs commands of `ip` in a namespace."""
    for command in commands:
        _ip(namespace, "ip", *command.split())


def _ip(namespace: str, *command: str) -> str:
    return _run([*_enter(namespace), *command])


def _enter(namespace: str) -> Enter:
    return ["ip", "netns", "exec", namespace]


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout

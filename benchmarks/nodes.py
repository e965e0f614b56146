"""What the way between two nodes costs, with real network stacks at both ends.

The nodes are network namespaces, joined by one veth pair. A chain of one hop has its client on one node and its server
on the other; a chain of three has two functions between them, so that each hop goes to the other node. The bare link is
a veth pair for each hop, as if client, functions and server were nodes. All interfaces of chains, and the bare link,
have the MTU that fits through the tunnel.

How each figure is measured: see forwarding.py. A client opens connections one after the other; the server sends a byte
and closes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from socket import if_nametoindex
from typing import TypeVar

from benchmarks.bpffs import private_bpffs
from benchmarks.compiler import compiled
from benchmarks.lab import PREFIX, Hosts, Wire, batch, direct, lab_namespace, order, slots, sysctl, veth
from benchmarks.report import QUICK, Report, Rounds, Spread, Target, machine, ratio
from controller.node.kernel.datapath import Datapath
from controller.node.kernel.links import Links
from controller.node.kernel.underlay import Underlay
from controller.node.plane import maglev
from controller.node.plane.far import generation, identity
from controller.node.plane.model import CHOSEN_IFINDEX, PROGRAM, SLOTS, FarLink, LinkEntry, LinkState
from controller.node.reconcile.tunnel import DirectWay
from sfc.chain import Side
from sfc.names import TUNNEL_PORT
from tests.hash_key import HASH_KEY
from tests.netns.node import inside, remove_leftovers

ROUNDS = 5 if QUICK else 9
PASSES = 1 if QUICK else 3
"""Measurements of each kind a round, as in forwarding.py."""
TCP_BYTES = 600_000_000
FLOOD_SECONDS = 0.1
PING_SECONDS = 0.05
CONNECT_SECONDS = 0.2
HOPS = (1, 3)
LINK, FLAT, DEVICE, OURS = WAYS = "link", "bridge+vxlan", "device", "ours"
"""`device` is ours where the node does not allow frames to pass the tunnel's device."""
LINK_MTU = 1500
MTU = 1450
ADDRESS6 = {"a": "fd00::1", "b": "fd00::2"}
FLAT_PORT = 4789
PEER = 1
"""The number by which each node knows the other one."""
TARGETS = {
    "tcp.ours/link": Target(0.90, at_most=False),
    "tcp.ours/bridge+vxlan": Target(1.10, at_most=False),
    "connections.ours/bridge+vxlan": Target(1.1, at_most=False),
}
UNITS = {
    "tcp": "TCP, Gbit/s",
    "tcp6": "TCP over IPv6, Gbit/s",
    "pps": "64-byte packets, thousands a second",
    "connections": "TCP connections, one after the other, a second",
    "p50": "round trip, µs, median",
    "p99": "round trip, µs, 99th percentile",
}
NOTES = (
    "Ratios without a number of hops are those of one hop. A round trip crosses each hop twice.",
    "Both ends of a TCP connection share one CPU. For small packets, sender, way and receiving stack do.",
)

Figures = dict[str, dict[str, list[float]]]
"""Rounds, by kind of figure (UNITS) and by chain."""


@dataclass(slots=True)
class Node:
    """One of the two."""

    namespace: str
    address: str
    names: Iterator[int] = field(default_factory=count)
    """For interfaces."""


@dataclass(slots=True)
class OurNode(Node):
    """With a data path of its own."""

    datapath: Datapath = field(kw_only=True)
    links: Links = field(kw_only=True)
    way: DirectWay = field(kw_only=True)


N = TypeVar("N", bound=Node)
Join = Callable[[N, str, N, str, int], None]
"""(upstream node, its near end, downstream node, its near end, the hop's number: no other hop between them has it)"""


def main() -> None:
    """ROUNDS times PASSES times all chains, in changing order."""
    described = machine()
    remove_leftovers(PREFIX)
    figures: Figures = {kind: {name(hops, way): [] for hops in HOPS for way in WAYS} for kind in UNITS}
    with ExitStack() as cleanup:
        chains = dict(_chains(cleanup))
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", flush=True)
            for each in range(PASSES):
                for measure in (_throughput, _packets):
                    for chain in order(list(chains), number * PASSES + each):
                        for kind, value in measure(chains[chain]).items():
                            figures[kind][chain].append(value)
    rounds: Mapping[str, Rounds] = {UNITS[kind]: each for kind, each in figures.items()}
    Report("nodes", described, rounds, dict(_ratios(figures)), TARGETS, NOTES).publish()


def name(hops: int, way: str) -> str:
    """Of a chain."""
    return f"{hops} {'hop' if hops == 1 else 'hops'}, {way}"


def _throughput(chain: Hosts) -> dict[str, float]:
    return {"tcp": chain.tcp(TCP_BYTES), "tcp6": chain.tcp(TCP_BYTES, ADDRESS6["b"])}


def _packets(chain: Hosts) -> dict[str, float]:
    flood = chain.flood(FLOOD_SECONDS)
    ping = chain.ping(PING_SECONDS)
    return {
        "pps": flood.arrived / flood.seconds / 1000,
        "connections": chain.connections(CONNECT_SECONDS),
        "p50": ping.p50,
        "p99": ping.p99,
    }


def _ratios(figures: Figures) -> Iterator[tuple[str, Spread]]:
    for hops in HOPS:
        for kind in ("tcp", "tcp6", "pps", "connections", "p50"):
            for way in (LINK, FLAT, DEVICE):
                key = f"{kind}{'' if hops == 1 else f', {hops} hops'}.ours/{way}"
                yield key, ratio(figures[kind], name(hops, OURS), name(hops, way))


def _chains(cleanup: ExitStack) -> Iterator[tuple[str, Hosts]]:
    tool = compiled("traffic.c")
    wires: dict[str, Wire] = {
        LINK: direct,
        FLAT: partial(_through, _nodes("flat", 1, cleanup), flat),
        DEVICE: partial(_through, _our_nodes(DEVICE, 2, cleanup), ours),
        OURS: partial(_through, _our_nodes(OURS, 3, cleanup), ours),
    }
    for hops in HOPS:
        for way, wire in wires.items():
            hosts = Hosts(way.replace("+", "-"), hops, wire, tool, cleanup)
            _finish(hosts)
            yield name(hops, way), hosts


def _finish(hosts: Hosts) -> None:
    for host, namespace in hosts.host.items():
        interfaces = ("left",) if host in ADDRESS6 else ("left", "right")
        batch(namespace, *(f"link set {interface} mtu {MTU}" for interface in interfaces))
    for host, other in (("a", "b"), ("b", "a")):
        hosts.give_ipv6(host, f"{ADDRESS6[host]}/64", ADDRESS6[other], other)


def _nodes(label: str, subnet: int, cleanup: ExitStack) -> tuple[Node, Node]:
    """Two nodes, and the link between them."""
    one, other = (
        Node(lab_namespace(f"{label}-{side}", cleanup), f"10.201.{subnet}.{number}")
        for number, side in enumerate("ab", 1)
    )
    veth(one.namespace, "u0", other.namespace, "u0")
    for node in (one, other):
        batch(node.namespace, f"link set u0 mtu {LINK_MTU}", f"address add {node.address}/24 dev u0")
        sysctl(node.namespace, "net.ipv4.ip_forward=1")  # as Kubernetes wants it
    return one, other


def _our_nodes(way: str, subnet: int, cleanup: ExitStack) -> tuple[OurNode, OurNode]:
    """Each with a data path as large as on a node, and its tunnel."""
    bpffs = cleanup.enter_context(private_bpffs())
    one, other = (
        _our_node(node, bpffs / node.namespace, way == DEVICE, cleanup) for node in _nodes(way, subnet, cleanup)
    )
    for node, peer in ((one, other), (other, one)):
        node.datapath.peers.set(PEER, peer.address)
        with inside(node.namespace):
            node.way.look()
    return one, other


def _our_node(node: Node, pins: Path, by_device: bool, cleanup: ExitStack) -> OurNode:
    datapath = Datapath.open(pins, hash_key=HASH_KEY)
    cleanup.callback(datapath.close)
    cleanup.callback(datapath.unpin)
    datapath.open_shortcuts()
    with inside(node.namespace):
        links = Links()
        cleanup.callback(links.close)
        tunnel = datapath.peers.tunnel(node.address, TUNNEL_PORT)
        cleanup.callback(tunnel.close)
        datapath.peers.open(tunnel.make())
        underlay = Underlay(node.address, TUNNEL_PORT, datapath.underlay_shortcut, by_device=by_device)
        cleanup.callback(underlay.close)
    way = DirectWay(datapath.peers, underlay, node.address, TUNNEL_PORT)
    return OurNode(node.namespace, node.address, datapath=datapath, links=links, way=way)


_hops = count(1)


def _through(nodes: tuple[N, N], join: Join[N], hosts: Hosts, hops: Sequence[tuple[str, str]]) -> None:
    """From one node to the other one, and back, and so on."""
    for at, (up, down) in enumerate(hops):
        here, there = nodes if at % 2 == 0 else nodes[::-1]
        near = _near(here, hosts, up), _near(there, hosts, down)
        join(here, near[0], there, near[1], next(_hops))


def _near(node: Node, hosts: Hosts, end: str) -> str:
    """The node's end of a new pair. Its index ends in a slot, as that of a host link does."""
    interface = f"near{next(node.names)}"
    hosts.veth(node.namespace, interface, end, CHOSEN_IFINDEX | next(slots))
    batch(node.namespace, f"link set {interface} mtu {MTU}")
    return interface


def flat(here: Node, up: str, there: Node, down: str, number: int) -> None:
    """A bridge on each node, with the near end and a VXLAN port to the other node."""
    for node, near, other in ((here, up, there), (there, down, here)):
        batch(
            node.namespace,
            f"link add bridge{number} type bridge",
            f"link add vxlan{number} type vxlan id {number} remote {other.address} local {node.address} "
            f"dstport {FLAT_PORT} dev u0",
            f"link set vxlan{number} mtu {MTU} master bridge{number} up",
            f"link set {near} master bridge{number}",
            f"link set bridge{number} mtu {MTU} up",
        )


def ours(here: OurNode, up: str, there: OurNode, down: str, number: int) -> None:
    """A cross-connection with one replica on each side, each on a node of its own."""
    ends = ((here, _ifindex(here, up), Side.UPSTREAM), (there, _ifindex(there, down), Side.DOWNSTREAM))
    for (node, own, side), (_, far, far_side) in (ends, ends[::-1]):
        slot = own % SLOTS
        index = SLOTS + 2 * number
        node.datapath.set_link(slot, LinkEntry(own, number, side, LinkState.SERVING))
        node.datapath.set_members(number, (PEER,))
        node.datapath.set_far_link(index, FarLink(identity(PEER, far % SLOTS, generation(far)), number, far_side))
        node.datapath.set_targets(number, side, maglev.table([("replica", slot)]))
        node.datapath.set_targets(number, far_side, maglev.table([("replica", index)]))
        node.links.attach(own, slot, node.datapath.program_fd, PROGRAM)
        if node.links.tcx:
            node.links.give_shortcut(own, node.datapath.shortcut)


def _ifindex(node: Node, interface: str) -> int:
    with inside(node.namespace):
        return if_nametoindex(interface)

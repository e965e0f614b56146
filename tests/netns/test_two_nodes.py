"""A chain over two nodes: each has its own program, maps and tunnel; between them is one link."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from controller.node.kernel.datapath import Datapath
from controller.node.kernel.firewall import TABLE
from controller.node.kernel.tunnel import Tunnel
from controller.node.plane.cluster import Cluster
from controller.node.plane.far import generation
from controller.node.plane.model import LinkState
from controller.node.reconcile.far_links import FarLinks, Published
from controller.node.reconcile.heartbeat import EchoSender, Heartbeat
from tests.hash_key import HASH_KEY
from tests.netns.node import inside, namespace, run, settles
from tests.netns.topology import Echo, Replica
from tests.netns.world import World

PORT = 5789
SERVER, SERVER6 = ("10.2.0.1", Echo.PORT), ("fd00:2::1", Echo.PORT)
BOTH_FAMILIES = pytest.mark.parametrize("server", [SERVER, SERVER6], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module")
def other_datapath(bpffs: Path) -> Iterator[Datapath]:
    datapath = Datapath.open(bpffs / "other", hash_key=HASH_KEY)
    try:
        yield datapath
    finally:
        datapath.unpin()
        datapath.close()


class Side:
    """One of the nodes: its world, what it has learned of the other one, and when that is."""

    def __init__(self, world: World, address: str) -> None:
        self.world, self.address = world, address
        self.far = FarLinks(world.node.datapath.peers, {})
        self.heard: tuple[Published, ...] = ()
        node, own = world.node, world.node._cluster
        node.reconciler._cluster = lambda: Cluster(own().chains, own().replicas, far=self.far.seen(self.heard))

    def published(self) -> tuple[Published, ...]:
        """The links that serve here."""
        state = self.world.node.reconciler.state
        names = state.plan.numbers.named
        chain = (self.world.node.chain.namespace, self.world.node.chain.name)
        return tuple(
            Published(
                chain, names[entry.connection].connection, entry.side, self.address, link.pod_uid, link.slot,
                generation(link.ifindex),
            )
            for links in state.links.values()
            for link in links
            if (entry := state.plane.links.get(link.slot)) and entry.state == LinkState.SERVING
        )  # fmt: skip


class TwoNodes:
    """`here` and `there`. What serves on one is not known on the other before `tell`."""

    def __init__(self, here: Side, there: Side, tunnels: list[Tunnel]) -> None:
        self.here, self.there = here, there
        self.tunnels = tunnels

    def tell(self) -> None:
        """Each node learns what serves on the other."""
        for one, other in ((self.here, self.there), (self.there, self.here)):
            one.heard = other.published()
        for side in (self.here, self.there):
            side.world.node.reconcile()

    def serve(self, side: Side, stage: str) -> Replica:
        replica = side.world.add(stage)
        side.world.node.serve(replica)
        return replica

    @contextmanager
    def heartbeat(self, side: Side) -> Iterator[Callable[[Side], bool]]:
        """That node asks the other one whether it lives; yields what tells whether it counts as up."""
        peers, stop = side.world.node.datapath.peers, threading.Event()
        with inside(side.world.node.namespace):
            sender = EchoSender(PORT)
        thread = threading.Thread(target=Heartbeat(peers, sender.send).run, args=(stop,))
        thread.start()
        try:
            yield lambda other: bool(peers.heard(n := peers.known()[other.address])) and peers.is_up(n)
        finally:
            stop.set()
            thread.join()
            sender.close()

    def cut(self, off: bool) -> None:
        """Cuts the link between the nodes, or mends it."""
        namespace = self.there.world.node.namespace
        subprocess.run(["ip", "-n", namespace, "link", "set", "u0", "down" if off else "up"], check=True)

    def begin(self) -> None:
        """From here on nothing may be dropped."""
        self.here.world.begin()
        self.there.world.begin()

    def returned(self) -> int:
        """Frames that the node `there` has returned since the data path was loaded."""
        remarks = self.there.world.node.datapath.counters.remarks()
        return sum(n for (_, name), n in remarks.items() if name == "returned")

    def dropped(self) -> dict[tuple[int, str], int]:
        return self.here.world.dropped() | self.there.world.dropped()


@contextmanager
def two_nodes(label: str, functions: dict[str, str], here: Datapath, there: Datapath) -> Iterator[TwoNodes]:
    with ExitStack() as stack:
        sides, tunnels = [], list[Tunnel]()
        for number, datapath in enumerate((here, there), 1):
            world = World(f"{label}{number}", functions, datapath)
            stack.callback(world.close)
            world.node._numbers = count(1000 * number)  # so that pods of both nodes have different names,
            world._slices = count(10 * number)  # and source ports of their own
            sides.append(Side(world, f"10.201.0.{number}"))
        names = [side.world.node.namespace for side in sides]
        subprocess.run(
            ["ip", "-n", names[0], "link", "add", "u0", "mtu", "1600", "type", "veth",
             "peer", "name", "u0", "mtu", "1600", "netns", names[1]], check=True,
        )  # fmt: skip
        for side, name in zip(sides, names, strict=True):
            subprocess.run(["ip", "-n", name, "addr", "add", f"{side.address}/24", "dev", "u0"], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "u0", "up"], check=True)
            peers = side.world.node.datapath.peers
            with inside(name):
                tunnel = peers.tunnel(side.address, PORT)
                stack.callback(tunnel.close)
                tunnels.append(tunnel)
                peers.open(tunnel.make())
                assert tunnel.make() == tunnel.make()
                assert tunnel.payload() == 1550
        yield TwoNodes(sides[0], sides[1], tunnels)


def vxlan(to: int, generation_of_it: int, mac: str) -> bytes:
    """A frame as a node would send it, from slot 9 to that link, which has the MAC: a datagram to the server."""
    policy = 1 << 14 | generation_of_it
    inner = Ether(src="02:00:00:00:00:09", dst=mac) / IP(src="10.2.0.77", dst=SERVER[0])
    frame = inner / UDP(sport=7777, dport=9999) / b"forged"
    return struct.pack("!BBHI", 0x88, 0, policy, (9 << 12 | to) << 8) + bytes(frame)


def masqueraded(pod: str, node: str) -> None:
    """Gives the pod a way out of the node, and the node's address on that way, as most networks of clusters do."""
    for command in (
        f"-n {pod} link add eth0 type veth peer name pod0 netns {node}",
        f"-n {pod} addr add 10.99.0.2/24 dev eth0",
        f"-n {pod} link set eth0 up",
        f"-n {node} addr add 10.99.0.1/24 dev pod0",
        f"-n {node} link set pod0 up",
        f"-n {pod} route add default via 10.99.0.1",
    ):
        run("ip", *command.split())
    rules = "table inet pods { chain out { type nat hook postrouting priority srcnat; oifname u0 masquerade; }; }"
    run("ip", "netns", "exec", node, "nft", rules)
    run("ip", "netns", "exec", node, "sysctl", "-qw", "net.ipv4.ip_forward=1")


def test_what_a_pod_sends_to_the_tunnels_port_comes_into_no_chain(datapath: Datapath, other_datapath: Datapath) -> None:
    """Without the guard it does, which shows that the frame is right."""
    with two_nodes("guard", {"router": "router"}, datapath, other_datapath) as nodes, namespace("guard") as pod:
        node, there = nodes.here.world.node.namespace, nodes.there.world.node
        for side in (nodes.here, nodes.there):
            nodes.serve(side, "router")
        server = nodes.serve(nodes.there, "server")
        nodes.tell()
        masqueraded(pod, node)
        slot = server.slots["wan"]
        link = next(each for each in there.links.list() if each.slot == slot)
        with inside(pod):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver = server.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("", 9999))

        def arrives(seconds: float) -> bool:
            mac = nodes.there.world.mac("server", "wan")
            sender.sendto(vxlan(slot, generation(link.ifindex), mac), (nodes.there.address, PORT))
            receiver.settimeout(seconds)
            with suppress(TimeoutError):
                return receiver.recv(100) == b"forged"
            return False

        guarded = arrives(0.5)
        run("ip", "netns", "exec", node, "nft", "delete", "table", "inet", TABLE)
        unguarded = arrives(5)
        with inside(node):
            nodes.tunnels[0].make()
        guarded_again = arrives(0.5)

        assert (guarded, unguarded, guarded_again) == (False, True, False)
        sender.close()
        receiver.close()


@BOTH_FAMILIES
def test_sessions_reach_replicas_of_both_nodes_and_stay(
    datapath: Datapath, other_datapath: Datapath, server: tuple[str, int]
) -> None:
    with two_nodes("two", {"router": "router"}, datapath, other_datapath) as nodes:
        clients = [nodes.serve(nodes.here, "client"), nodes.serve(nodes.there, "client")]
        for side in (nodes.here, nodes.there):
            for stage in ("router", "server", "server"):
                nodes.serve(side, stage)
        nodes.tell()
        nodes.begin()

        connections = [nodes.here.world.connect(client, server) for client in clients for _ in range(20)]

        assert all(each.echo(bytes([n]) * 5000) for n, each in enumerate(connections))
        reached = {each.server for each in connections}
        assert len(reached) == 4, reached
        assert not nodes.dropped()


def test_a_replica_that_leaves_while_the_other_node_does_not_know_yet_loses_nothing(
    datapath: Datapath, other_datapath: Datapath
) -> None:
    """Old sessions stay with it until they end, new ones come back from its node and choose another replica."""
    with two_nodes("late", {"router": "router"}, datapath, other_datapath) as nodes:
        client = nodes.serve(nodes.here, "client")
        nodes.serve(nodes.here, "router")
        staying, leaving = nodes.serve(nodes.here, "server"), nodes.serve(nodes.there, "server")
        nodes.tell()
        nodes.begin()
        before = [nodes.here.world.connect(client, SERVER) for _ in range(20)]
        old = [each for each in before if each.server == leaving.name]
        assert old

        returned = nodes.returned()
        nodes.there.world.node.drain(leaving)
        after = [nodes.here.world.connect(client, SERVER) for _ in range(40)]

        assert {each.server for each in after} == {staying.name}
        assert all(each.echo(b"x" * 3000) for each in (*before, *after))
        assert nodes.there.world.node.activity(leaving) == len(old)
        assert nodes.returned() - returned == 1
        assert not nodes.dropped()


def test_the_sessions_of_a_node_that_is_cut_off_choose_again(datapath: Datapath, other_datapath: Datapath) -> None:
    """And all is undone when it is heard again. Its program answers, without an agent."""
    with two_nodes("dead", {"router": "router"}, datapath, other_datapath) as nodes:
        client = nodes.serve(nodes.here, "client")
        nodes.serve(nodes.here, "router")
        own, far = nodes.serve(nodes.here, "server"), nodes.serve(nodes.there, "server")
        nodes.tell()
        nodes.begin()
        with nodes.heartbeat(nodes.here) as heard:
            assert settles(lambda: heard(nodes.there))
            before = {nodes.here.world.connect(client, SERVER).server for _ in range(20)}
            nodes.cut(True)
            assert settles(lambda: not heard(nodes.there))
            without = {nodes.here.world.connect(client, SERVER).server for _ in range(20)}
            nodes.cut(False)
            assert settles(lambda: heard(nodes.there))
            again = {nodes.here.world.connect(client, SERVER).server for _ in range(20)}

        assert before == again == {own.name, far.name}
        assert without == {own.name}

"""Several nodes with one chain: each has its own program, maps and tunnel; a bridge connects them.

What a node publishes, and what it makes of what the others publish, is the agent's own code. A test decides when a node
learns what another one has published.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count

from controller.node.kernel.datapath import Datapath
from controller.node.kernel.tunnel import Tunnel
from controller.node.kernel.underlay import Underlay
from controller.node.plane.far import WIRE_VERSION
from controller.node.reconcile.far_links import FarLinks, Published, published
from controller.node.reconcile.heartbeat import EchoSender, Heartbeat
from controller.node.reconcile.tunnel import DirectWay
from controller.node.report.conditions import node_status
from kube.objects import CONNECTIONS, Key, Object
from tests.netns.node import inside, namespace, run
from tests.netns.topology import Replica
from tests.netns.world import World

PORT = 5789
UNDERLAY_MTU = 1600
Entries = Mapping[Key, Object]
"""A node's elements of `status.nodes`, by the CrossConnection."""


class Member:
    """One of the nodes: its world, and what it has learned of the others."""

    def __init__(self, world: World, number: int, underlay: int) -> None:
        self.world, self.number = world, number
        self.name, self.address = f"node{number}", f"10.201.0.{number}" if underlay == 4 else f"fd00:201::{number}"
        self.way: DirectWay | None = None
        self._led: set[str] = set()
        self.heard: dict[str, Entries] = {}
        """What each of the others had published when this one last looked, by the node's name."""
        self.lead()

    def lead(self) -> None:
        """An agent begins to lead: it knows of other nodes' links what is in the maps."""
        node, own = self.world.node, self.world.node._cluster
        self.far = FarLinks(node.datapath.peers, node.datapath.observe())
        node.reconciler._cluster = lambda: self.far.joined(own(), self.links())

    def look(self) -> None:
        """Frames to the peers that are known now pass the tunnel's device, if this is a node where they do."""
        known = set(self.world.node.datapath.peers.known())
        if self.way and known != self._led:
            with inside(self.world.node.namespace):
                self.way.look()
            self._led = known

    def published(self) -> Entries:
        """What this node's agent writes after its last pass."""
        return node_status(self.world.node.reconciler.state, self.name, self.address)

    def links(self) -> dict[Key, tuple[Published, ...]]:
        """The links of the other nodes, as far as this one has learned."""
        found: dict[Key, tuple[Published, ...]] = {}
        for key in {key for entries in self.heard.values() for key in entries}:
            nodes = [entries[key] for entries in self.heard.values() if key in entries]
            metadata = dict(zip(("namespace", "name"), key, strict=True))
            connection = CONNECTIONS.object(metadata, spec={"chain": self.world.node.chain.name})
            found[key] = tuple(published(connection | {"status": {"nodes": nodes}}, self.name))
        return found


class Nodes:
    """What happens on one node is not known on the others before `tell`."""

    def __init__(self, members: Sequence[Member], fabric: str, tunnels: Sequence[Tunnel]) -> None:
        self.members = members
        self.tunnels = tunnels
        self._fabric = fabric

    @property
    def here(self) -> Member:
        """The first node."""
        return self.members[0]

    @property
    def there(self) -> Member:
        """The second one."""
        return self.members[1]

    def tell(self) -> None:
        """Each node learns what serves on the others."""
        entries = {member.name: member.published() for member in self.members}
        for member in self.members:
            member.heard = {name: entry for name, entry in entries.items() if name != member.name}
            member.world.node.reconcile()
            member.look()

    def serve(self, member: Member, stage: str) -> Replica:
        replica = member.world.add(stage)
        member.world.node.serve(replica)
        return replica

    @contextmanager
    def heartbeat(self, member: Member, version: int = WIRE_VERSION) -> Iterator[Callable[[Member], bool]]:
        """That node asks the others whether they live; yields what tells whether one of them counts as up."""
        peers, stop = member.world.node.datapath.peers, threading.Event()
        with inside(member.world.node.namespace):
            sender = EchoSender(PORT, version)
        thread = threading.Thread(target=Heartbeat(peers, sender.send).run, args=(stop,))
        thread.start()
        try:
            yield lambda other: bool(peers.heard(n := peers.known()[other.address])) and peers.is_up(n)
        finally:
            stop.set()
            thread.join()
            sender.close()

    def cut(self, off: bool, member: Member | None = None) -> None:
        """Cuts a node (the second one) off from all others, or mends that."""
        port = f"p{(member or self.there).number}"
        run("ip", "-n", self._fabric, "link", "set", port, "down" if off else "up")

    def begin(self) -> None:
        """From here on nothing may be dropped."""
        for member in self.members:
            member.world.begin()

    def returned(self, member: Member | None = None) -> int:
        """Frames that a node (the second one) has returned since its data path was loaded."""
        remarks = (member or self.there).world.node.datapath.counters.remarks()
        return sum(n for (_, name), n in remarks.items() if name == "returned")

    def refused(self, member: Member) -> int:
        """Frames of another version of the wire that a node has dropped."""
        return member.world.node.datapath.counters.drops().get((0, "wire_version"), 0)

    def dropped(self) -> dict[tuple[int, str], int]:
        found: dict[tuple[int, str], int] = {}
        for member in self.members:
            found |= member.world.dropped()
        return found


@contextmanager
def nodes_of(
    label: str,
    functions: Mapping[str, str],
    datapaths: Sequence[Datapath],
    *,
    directly: bool = True,
    underlay: int = 4,
) -> Iterator[Nodes]:
    """As many nodes as there are data paths, without replicas. `directly`: frames pass the tunnel's device.
    `underlay`: the version of IP between the nodes."""
    with ExitStack() as stack:
        fabric = stack.enter_context(namespace(f"{label}-fabric"))
        run("ip", "-n", fabric, "link", "add", "fabric", "mtu", str(UNDERLAY_MTU), "type", "bridge")
        run("ip", "-n", fabric, "link", "set", "fabric", "up")
        members, tunnels = [], []
        for number, datapath in enumerate(datapaths, 1):
            world = World(f"{label}{number}", functions, datapath)
            stack.callback(world.close)
            world.node._numbers = count(1000 * number)  # so that pods of all nodes have different names,
            world._slices = count(10 * number)  # and source ports of their own
            member = Member(world, number, underlay)
            members.append(member)
            tunnels.append(stack.enter_context(_connected(member, fabric)))
            if directly and underlay == 4 and world.node.links.tcx:
                stack.enter_context(passing_the_device(member))
        yield Nodes(members, fabric, tunnels)


@contextmanager
def passing_the_device(member: Member) -> Iterator[None]:
    """From the next look on, frames of this node's present data path do, during the block."""
    datapath = member.world.node.datapath
    with inside(member.world.node.namespace):
        underlay = Underlay(member.address, PORT, datapath.underlay_shortcut)
    member.way = DirectWay(datapath.peers, underlay, member.address, PORT)
    member._led = set()
    try:
        yield
    finally:
        datapath.peers.set_underlay(member.address, PORT, 0)
        underlay.close()


@contextmanager
def _connected(member: Member, fabric: str) -> Iterator[Tunnel]:
    node, port, mtu = member.world.node.namespace, f"p{member.number}", str(UNDERLAY_MTU)
    run(
        "ip", "-n", node, "link", "add", "u0", "mtu", mtu, "type", "veth",
        "peer", "name", port, "mtu", mtu, "netns", fabric,
    )  # fmt: skip
    run("ip", "-n", fabric, "link", "set", port, "master", "fabric", "up")
    run("ip", "-n", node, "addr", "add", f"{member.address}/24", "dev", "u0", "nodad")
    run("ip", "-n", node, "link", "set", "u0", "up")
    peers = member.world.node.datapath.peers
    with inside(node):
        tunnel = peers.tunnel(member.address, PORT)
        try:
            peers.open(tunnel.make())
            assert tunnel.make() == tunnel.make()
            assert tunnel.payload() == UNDERLAY_MTU - (70 if ":" in member.address else 50)
            yield tunnel
        finally:
            tunnel.close()
            for number in peers.known().values():  # the next test's nodes have the same maps
                peers.clear(number)

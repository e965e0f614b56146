"""Frames between nodes pass the tunnel's device, where the node allows it, and are the same on the wire."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from controller.node.kernel import tcx
from controller.node.kernel.datapath import Datapath
from controller.node.kernel.tcx import UNDERLAY_SHORTCUT
from controller.node.kernel.tunnel import DEVICE
from controller.node.kernel.underlay import Underlay, encrypts
from controller.node.plane.far import generation
from controller.node.reconcile.tunnel import DirectWay
from tests.netns.node import inside, namespace, program, run, settles
from tests.netns.nodes import PORT, Member, Nodes, nodes_of
from tests.netns.test_two_nodes import SERVER, SERVER6, vxlan
from tests.netns.world import Connection

SO_NO_CHECK, UDP_SEGMENT = 11, 103
HEADERS = 14 + 20 + 8 + 8 + 14
"""Bytes of a frame on the wire, with the Ethernet header of the one inside."""
LARGE = bytes(range(256)) * 4000
pytestmark = pytest.mark.skipif(not tcx.offered(), reason="the kernel has no tcx")


@contextmanager
def direct(*members: Member) -> Iterator[None]:
    """Frames of these nodes pass the device."""
    for member in members:
        peers = member.world.node.datapath.peers
        with inside(member.world.node.namespace):
            underlay = Underlay(member.address, PORT, member.world.node.datapath.underlay_shortcut)
            DirectWay(peers, underlay, member.address, PORT).look()
        underlay.close()
        assert peers.underlay
    try:
        yield
    finally:
        for member in members:
            peers = member.world.node.datapath.peers
            peers.set_routes(dict.fromkeys(peers.known(), 0))
            peers.set_underlay(member.address, PORT, 0)


def at_device(member: Member) -> dict[str, int]:
    """Packets that the tunnel's device has received and sent."""
    shown = run("ip", "-n", member.world.node.namespace, "-s", "-json", "link", "show", DEVICE)
    return {way: json.loads(shown)[0]["stats64"][way]["packets"] for way in ("rx", "tx")}


@contextmanager
def passing(member: Member, *ways: str) -> Iterator[None]:
    """Those frames pass the node's device; all others do not."""
    before = at_device(member)
    yield
    after = at_device(member)
    assert {way: after[way] == before[way] for way in before} == {way: way in ways for way in before}


def chain(nodes: Nodes) -> list[Connection]:
    """Client here, router there, server here: each hop crosses. A connection for each version of IP."""
    client = nodes.serve(nodes.here, "client")
    nodes.serve(nodes.there, "router")
    nodes.serve(nodes.here, "server")
    nodes.tell()
    nodes.begin()
    return [nodes.here.world.connect(client, server) for server in (SERVER, SERVER6)]


def test_both_kinds_of_node_meet_and_change_and_lose_nothing(datapath: Datapath, other_datapath: Datapath) -> None:
    with nodes_of("meet", {"router": "router"}, (datapath, other_datapath), directly=False) as nodes:
        here, there = nodes.here, nodes.there
        connections = chain(nodes)

        def works() -> bool:
            return all(each.echo(LARGE) for each in connections)

        with passing(here), passing(there):
            assert works()
        with direct(here), passing(here, "tx", "rx"), passing(there):
            assert works(), "here directly, there by the device"
        with direct(here, there):
            with passing(here, "rx", "tx"), passing(there, "rx", "tx"):
                assert works(), "both directly"
            there.world.node.datapath.shut_shortcuts()  # its agent ends
            with passing(here, "rx", "tx"), passing(there, "tx"):
                assert works(), "without an agent frames come by the device"
            there.world.node.datapath.open_shortcuts()
            with passing(there, "rx", "tx"):
                assert works()

        assert not nodes.dropped()


def outer_of(nodes: Nodes, connection: socket.socket, tos: int) -> Packet:
    """A datagram's frame on the wire, as the other node sees it."""
    kind, option = (
        (socket.IPPROTO_IP, socket.IP_TOS)
        if connection.family == socket.AF_INET
        else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
    )
    connection.setsockopt(kind, option, tos)
    with inside(nodes.there.world.node.namespace):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with wire:
        wire.bind(("u0", 3))
        wire.settimeout(5)
        connection.send(b"looked at")
        while b"looked at" not in (frame := wire.recv(1 << 16)):
            pass
    return Ether(frame)


def test_the_frames_on_the_wire_are_the_devices(datapath: Datapath, other_datapath: Datapath) -> None:
    """Only the source port differs, which either takes from the flow's hash, and the number of the datagram: RFC 6864
    wants none where nothing may be fragmented."""
    with nodes_of("wire", {"router": "router"}, (datapath, other_datapath), directly=False) as nodes:
        chain(nodes)
        client = nodes.here.world.of("client")[0]
        sockets = [client.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
        for each, server in zip(sockets, (SERVER, SERVER6), strict=True):
            each.connect(server)
        for sender in sockets:
            for tos in (0, 1, 2, 3, 0x28):
                by_device = outer_of(nodes, sender, tos)
                with direct(nodes.here):
                    directly = outer_of(nodes, sender, tos)

                written = directly[IP].chksum
                del directly[IP].chksum
                assert Ether(bytes(directly))[IP].chksum == written
                assert directly[UDP].sport >= 0xC000
                for frame in (by_device, directly):
                    frame[IP].id, frame[IP].chksum, frame[UDP].sport = 0, 0, 0
                assert bytes(directly)[:HEADERS] == bytes(by_device)[:HEADERS], (sender.family, tos)


def test_large_datagrams_that_a_device_has_to_take_apart_arrive(datapath: Datapath, other_datapath: Datapath) -> None:
    """UDP with segmentation offload, as QUIC sends it: not even the kernel could undo what the program would do."""
    with (
        nodes_of("gso", {"router": "router"}, (datapath, other_datapath), directly=False) as nodes,
        direct(nodes.here, nodes.there),
    ):
        chain(nodes)
        client = nodes.here.world.of("client")[0]
        sender = client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.connect(SERVER)
        sender.settimeout(5)
        sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)

        sender.send(bytes(10 * 1000))

        assert [len(sender.recv(2000)) for _ in range(10)] == [16 + 1000] * 10
        assert not nodes.dropped()


def test_strangers_are_refused_and_counted_as_at_the_device(datapath: Datapath, other_datapath: Datapath) -> None:
    with (
        nodes_of("odd", {"router": "router"}, (datapath, other_datapath), directly=False) as nodes,
        direct(nodes.there),
    ):
        chain(nodes)
        server = nodes.serve(nodes.there, "server")
        nodes.tell()
        node, there = nodes.here.world.node.namespace, nodes.there.world.node
        run("ip", "-n", node, "addr", "add", "10.201.0.77/24", "dev", "u0")
        slot = server.slots["wan"]
        link = next(each for each in there.links.list() if each.slot == slot)
        frame = vxlan(slot, generation(link.ifindex), nodes.there.world.mac("server", "wan"))
        receiver = server.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("", 9999))
        receiver.settimeout(5)

        def refused(verdict: str) -> int:
            return there.datapath.counters.drops().get((0, verdict), 0)

        strangers, versions = refused("stranger"), refused("wire_version")

        def send(source: str, content: bytes = frame) -> None:
            with inside(node), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
                sender.bind((source, 0))
                sender.sendto(content, (nodes.there.address, PORT))

        with passing(nodes.there, "rx", "tx"):
            send(nodes.here.address)
            assert receiver.recv(100) == b"forged", "of a node: the frame is right, and passes the device"
        before = at_device(nodes.there)["rx"]
        send("10.201.0.77")
        assert settles(lambda: refused("stranger") == strangers + 1)
        send(nodes.here.address, b"\x88\0\xc0\0" + frame[4:])
        assert settles(lambda: refused("wire_version") == versions + 1)
        assert at_device(nodes.there)["rx"] >= before + 2


def test_what_must_not_pass_the_nodes_own_stack_goes_by_the_device(datapath: Datapath) -> None:
    """What the node itself would send by another interface, or encrypt."""
    with namespace("under") as node:
        for command in (
            "link add u0 type veth peer name u1",
            "link set u0 up",
            "link set u1 up",
            "addr add 10.201.0.1/24 dev u0",
            "route add 10.202.0.0/24 dev u1",
        ):
            run("ip", "-n", node, *command.split())
        with inside(node):
            underlay = Underlay("10.201.0.1", PORT, datapath.underlay_shortcut)
            index = socket.if_nametoindex("u0")

            assert underlay.interface().ifindex == index
            peers = ("10.201.0.2", "10.202.0.2", "10.203.0.2", "10.201.0.1", "fd00::1")
            assert underlay.routes(peers, index) == dict.fromkeys(peers, 0) | {"10.201.0.2": index}

            run("ip", *["rule", "add", "ipproto", "udp", "dport", "5789", "lookup", "7"])
            run("ip", *["route", "add", "10.201.0.0/24", "dev", "u1", "table", "7"])
            assert underlay.routes(["10.201.0.2"], index) == {"10.201.0.2": 0}

            assert not encrypts()
            policy = "xfrm policy add src 10.201.0.1 dst 10.201.0.2 dir out tmpl proto esp mode transport"
            run("ip", *policy.split())
            assert "IPsec" in underlay.interface().reason
            assert not underlay.interface().ifindex
            underlay.close()


def test_the_shortcut_comes_first_and_leaves_the_programs_of_others(datapath: Datapath) -> None:
    with namespace("hook") as node:
        run("ip", "-n", node, "link", "add", "u0", "type", "veth", "peer", "name", "u1")
        run("ip", "-n", node, "addr", "add", "10.201.0.1/24", "dev", "u0")
        with inside(node):
            index = socket.if_nametoindex("u0")
            tcx.put_first(index, other := program())
            underlay = Underlay("10.201.0.1", PORT, datapath.underlay_shortcut)

            underlay.attach(index)
            underlay.attach(index)

            ours, theirs = datapath.underlay_shortcut.number, tcx.number_and_name(other)[0]
            assert tcx._programs(index) == [ours, theirs]
            underlay.leave(index)
            underlay.leave(index)
            assert tcx._programs(index) == [theirs]
            underlay.attach(index)
            underlay.detach(index)
            underlay.detach(index)
            assert tcx._programs(index) == [theirs]
            assert not tcx.read(index, UNDERLAY_SHORTCUT)
            underlay.close()

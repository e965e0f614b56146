"""A chain over two nodes."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether

from controller.node.kernel.datapath import Datapath
from controller.node.kernel.firewall import TABLE
from controller.node.plane.far import WIRE_VERSION, generation
from tests.hash_key import HASH_KEY
from tests.netns.node import inside, namespace, run, settles
from tests.netns.nodes import PORT, nodes_of
from tests.netns.topology import Echo, Replica
from tests.netns.world import Connection

RETURNED, CHOSEN_AGAIN = 1, 2
"""bpf/tunnel.h"""
EXPERIMENT, ARP_TYPE = 0x88B5, 0x0806
SERVER, SERVER6 = ("10.2.0.1", Echo.PORT), ("fd00:2::1", Echo.PORT)
DIRECT = ("10.1.0.1", Echo.PORT)
"""Of the server in a chain without functions."""


def vxlan(to: int, generation_of_it: int, mac: str, flags: int = 0) -> bytes:
    """A frame as a node would send it, from slot 9 to that link, which has the MAC: a datagram to the server."""
    policy = 1 << 14 | flags << 12 | generation_of_it
    inner = Ether(src="02:00:00:00:00:09", dst=mac) / IP(src="10.2.0.77", dst=SERVER[0])
    frame = inner / UDP(sport=7777, dport=9999) / b"forged"
    return struct.pack("!BBHI", 0x88, 0, policy, (9 << 12 | to) << 8) + bytes(frame)


@contextmanager
def packet_socket(replica: Replica, interface: str, kind: int = EXPERIMENT) -> Iterator[socket.socket]:
    """Sends and receives whole frames of that type at the replica's interface."""
    with replica.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind)) as opened:
        opened.bind((interface, kind))
        yield opened


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
    with nodes_of("guard", {"router": "router"}, (datapath, other_datapath)) as nodes, namespace("guard") as pod:
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


def test_a_node_without_a_link_in_the_chain_reaches_none_of_its_links(
    datapath: Datapath, other_datapath: Datapath
) -> None:
    """It is known from other chains. With a link in this one its frames come in, which shows that they are right."""
    with nodes_of("outsider", {"router": "router"}, [datapath, other_datapath]) as nodes:
        there = nodes.there.world.node
        for stage in ("client", "router", "server"):
            nodes.serve(nodes.there, stage)
        there.datapath.peers.set(7, nodes.here.address)
        server = nodes.there.world.of("server")[0]
        slot = server.slots["wan"]
        link = next(each for each in there.links.list() if each.slot == slot)
        receiver = server.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("", 9999))
        with inside(nodes.here.world.node.namespace):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        before = there.datapath.counters.drops()

        def send(flags: int) -> None:
            mac = nodes.there.world.mac("server", "wan")
            sender.sendto(vxlan(slot, generation(link.ifindex), mac, flags), (nodes.there.address, PORT))

        def outside() -> int:
            drops = there.datapath.counters.drops()
            return sum(n - before.get(key, 0) for key, n in drops.items() if key[1] == "outsider")

        def arrived() -> bool:
            receiver.settimeout(0.5)
            with suppress(TimeoutError):
                return receiver.recv(100) == b"forged"
            return False

        returned = nodes.returned()
        for flags in (0, RETURNED, CHOSEN_AGAIN):
            send(flags)
        assert settles(lambda: outside() == 1)
        assert settles(lambda: nodes.returned() - returned == 2)
        assert not arrived()

        there.datapath.peers.clear(7)
        nodes.serve(nodes.here, "client")
        nodes.tell()
        send(0)
        assert arrived()
        sender.close()
        receiver.close()


@pytest.mark.parametrize(
    ("server", "underlay"), [(SERVER, 4), (SERVER6, 4), (SERVER, 6)], ids=["IPv4", "IPv6", "IPv4 over IPv6"]
)
def test_sessions_reach_replicas_of_both_nodes_and_stay(
    datapath: Datapath, other_datapath: Datapath, server: tuple[str, int], underlay: int
) -> None:
    with nodes_of("two", {"router": "router"}, (datapath, other_datapath), underlay=underlay) as nodes:
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
    with nodes_of("late", {"router": "router"}, (datapath, other_datapath)) as nodes:
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
        assert 1 <= nodes.returned() - returned <= len(after), "a refusal is soon forgotten"
        assert not nodes.dropped()


def test_a_frame_for_a_group_goes_to_one_replica_of_all_nodes(datapath: Datapath, other_datapath: Datapath) -> None:
    """As on one node: the replicas of a stage are one function, which must not see a frame twice."""
    with nodes_of("groups", {}, [datapath, other_datapath]) as nodes, ExitStack() as stack:
        client = nodes.serve(nodes.here, "client")
        servers = [nodes.serve(side, "server") for side in (nodes.here, nodes.there)]
        nodes.tell()
        nodes.begin()
        ends = [(client, "lan"), *((server, "wan") for server in servers)]
        sender, *receivers = [stack.enter_context(packet_socket(*end)) for end in ends]

        for number in range(40):
            mac = "ff:ff:ff:ff:ff:ff" if number % 2 else "33:33:00:00:00:05"
            sender.send(bytes(Ether(src=f"02:00:00:00:01:{number:02x}", dst=mac, type=EXPERIMENT) / bytes([number])))

        seen: list[list[int]] = [[], []]
        for found, receiver in zip(seen, receivers, strict=True):
            receiver.settimeout(0.5)
            with suppress(TimeoutError):
                while True:
                    found.append(receiver.recv(100)[14])
        assert sorted(seen[0] + seen[1]) == [*range(40)]
        assert all(seen)
        assert not nodes.dropped()


def test_a_question_that_a_replica_of_another_node_answered_is_answered_at_home_from_then_on(
    datapath: Datapath, other_datapath: Datapath
) -> None:
    """The chain does not give the address; the far replica has it. Its answer teaches the node of the asker."""
    with nodes_of("asks", {}, [datapath, other_datapath]) as nodes, ExitStack() as stack:
        client, server = nodes.serve(nodes.here, "client"), nodes.serve(nodes.there, "server")
        server.run("ip", "addr", "add", "10.1.0.99/24", "dev", "wan")
        nodes.tell()
        question = ARP(op="who-has", psrc="10.1.0.2", pdst="10.1.0.99", hwsrc=nodes.here.world.mac("client", "lan"))
        asker = stack.enter_context(packet_socket(client, "lan", ARP_TYPE))
        asker.settimeout(2)

        def answer() -> str | None:
            asker.send(bytes(Ether(src=nodes.here.world.mac("client", "lan"), dst="ff:ff:ff:ff:ff:ff") / question))
            with suppress(TimeoutError):
                while (found := Ether(asker.recv(100)))[ARP].psrc != "10.1.0.99":
                    pass
                return str(found[ARP].hwsrc)
            return None

        by_the_replica = answer()
        nodes.cut(True)
        at_home = answer()

        assert by_the_replica == at_home == nodes.here.world.mac("server", "wan")


def test_with_prefer_same_node_new_sessions_leave_the_node_only_while_it_serves_none(
    datapath: Datapath, other_datapath: Datapath
) -> None:
    with nodes_of("near", {"router": "router"}, [datapath, other_datapath]) as nodes:
        for side in (nodes.here, nodes.there):
            node = side.world.node
            node.chain = replace(node.chain, prefers_same_node=True)
            for stage in ("client", "router", "server"):
                nodes.serve(side, stage)
        nodes.tell()
        nodes.begin()
        world = nodes.here.world
        (client,), (own,), (far,) = world.of("client"), world.of("server"), nodes.there.world.of("server")

        def reached() -> set[str]:
            connections.extend(found := [world.connect(client, SERVER) for _ in range(12)])
            return {each.server for each in found}

        connections: list[Connection] = []
        while_it_serves = reached()
        world.node.drain(own)
        while_it_drains = reached()
        another = nodes.serve(nodes.here, "server")
        again = reached()

        assert (while_it_serves, while_it_drains, again) == ({own.name}, {far.name}, {another.name})
        assert all(each.echo(b"x" * 3000) for each in connections)
        assert not nodes.dropped()


def test_the_sessions_of_a_node_that_is_cut_off_choose_again(datapath: Datapath, other_datapath: Datapath) -> None:
    """And all is undone when it is heard again. Its program answers, without an agent."""
    with nodes_of("dead", {"router": "router"}, (datapath, other_datapath)) as nodes:
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


def test_nodes_with_different_versions_of_the_wire_refuse_each_other_until_the_upgrade_is_finished(
    datapath: Datapath, bpffs: Path
) -> None:
    """Each goes on by itself, and knows why. No session is lost by it: none was on the other node before."""
    pins, other = bpffs / "upgraded", WIRE_VERSION + 1
    flags = ["-UTUNNEL_VERSION", f"-DTUNNEL_VERSION={other}"]
    with ExitStack() as stack:
        former = Datapath.open(pins, cflags=flags, hash_key=HASH_KEY)
        stack.callback(former.close)
        stack.callback(former.unpin)
        nodes = stack.enter_context(nodes_of("mixed", {"router": "router"}, (datapath, former)))
        client = nodes.serve(nodes.here, "client")
        nodes.serve(nodes.here, "router")
        own, far = nodes.serve(nodes.here, "server"), nodes.serve(nodes.there, "server")
        nodes.tell()
        refused = [nodes.refused(side) for side in (nodes.here, nodes.there)]
        heard = stack.enter_context(nodes.heartbeat(nodes.here))
        peers, number = datapath.peers, datapath.peers.known()[nodes.there.address]
        with nodes.heartbeat(nodes.there, other):
            assert settles(lambda: not peers.is_up(number))
            assert peers.foreign(number) == other
            nodes.begin()
            mixed = [nodes.here.world.connect(client, SERVER) for _ in range(20)]

        after = [nodes.refused(side) for side in (nodes.here, nodes.there)]
        latter = Datapath.open(pins, hash_key=HASH_KEY)
        stack.callback(latter.close)
        with inside(nodes.there.world.node.namespace):
            tunnel = latter.peers.tunnel(nodes.there.address, PORT)
            stack.callback(tunnel.close)
            latter.peers.open(tunnel.make())
        is_heard = stack.enter_context(nodes.heartbeat(nodes.there))
        assert settles(lambda: heard(nodes.there) and is_heard(nodes.here))
        finished = [nodes.here.world.connect(client, SERVER) for _ in range(20)]

        assert {each.server for each in mixed} == {own.name}
        assert {each.server for each in finished} == {own.name, far.name}
        assert all(now > before for now, before in zip(after, refused, strict=True))
        assert all(each.echo(b"x" * 3000) for each in (*mixed, *finished))
        assert not nodes.here.world.dropped()


def test_sessions_between_nodes_outlive_an_upgrade_of_either_agent_also_those_of_a_replica_that_leaves(
    bpffs: Path,
) -> None:
    """The next version has session tables of another size, so they are copied, and made its map of peers anew."""
    with ExitStack() as outlasting, ExitStack() as stack:
        datapaths = []
        for label in ("upgraded1", "upgraded2"):
            datapaths.append(Datapath.open(bpffs / label, capacity=1024, hash_key=HASH_KEY))
            stack.callback(datapaths[-1].close)
            stack.callback(datapaths[-1].unpin)
        nodes = stack.enter_context(nodes_of("upgrade", {"router": "router"}, datapaths))
        client = nodes.serve(nodes.here, "client")
        nodes.serve(nodes.here, "router")
        nodes.serve(nodes.here, "server")
        leaving = nodes.serve(nodes.there, "server")
        nodes.tell()
        nodes.begin()
        connections = [nodes.here.world.connect(client, SERVER) for _ in range(20)]
        far = [each for each in connections if each.server == leaving.name]
        nodes.there.world.node.drain(leaving)
        assert far

        for side, label in ((nodes.there, "upgraded2"), (nodes.here, "upgraded1")):
            (bpffs / label / "peers").unlink()
            latter = Datapath.open(bpffs / label, capacity=2048, hash_key=HASH_KEY)
            outlasting.callback(latter.close)
            latter.take_over()
            with inside(side.world.node.namespace):
                tunnel = latter.peers.tunnel(side.address, PORT)
                stack.callback(tunnel.close)
                latter.peers.open(tunnel.make())
            assert all(each.echo(b"x" * 3000) for each in connections), "while the filters have the former program"
            side.world.node.lead(latter)
            side.lead()
            side.world.node.reconcile()
            assert all(each.echo(b"x" * 3000) for each in connections)

        assert nodes.there.world.node.activity(leaving) == len(far)
        assert nodes.returned() == 0
        assert not nodes.dropped()


def test_a_session_loses_no_frame_although_several_replicas_left_before_the_other_node_knows(
    datapath: Datapath, other_datapath: Datapath
) -> None:
    """Its first frame comes back from one after the other, until one of them takes it."""
    with nodes_of("several", {}, (datapath, other_datapath)) as nodes:
        client = nodes.serve(nodes.here, "client")
        staying = nodes.serve(nodes.here, "server")
        leaving = [nodes.serve(nodes.there, "server") for _ in range(5)]
        nodes.tell()
        nodes.begin()

        for replica in leaving:
            nodes.there.world.node.drain(replica)
            nodes.there.world.node.stop(replica)
        reached = {nodes.here.world.connect(client, DIRECT).server for _ in range(40)}

        assert reached == {staying.name}
        assert not nodes.dropped()


def test_a_replica_that_refused_and_serves_again_before_anybody_has_noticed_gets_sessions_again(
    datapath: Datapath, other_datapath: Datapath
) -> None:
    with nodes_of("flaps", {}, (datapath, other_datapath)) as nodes:
        client = nodes.serve(nodes.here, "client")
        server = nodes.serve(nodes.there, "server")
        nodes.tell()

        nodes.there.world.node.become(server, ready=False)
        nodes.there.world.node.reconcile()
        refused = client.socket(socket.AF_INET, socket.SOCK_STREAM)
        refused.setblocking(False)
        refused.connect_ex(DIRECT)
        assert settles(lambda: nodes.returned() > 0)
        refused.close()
        nodes.there.world.node.serve(server)

        assert nodes.here.world.connect(client, DIRECT).server == server.name


def test_a_session_stays_with_a_replica_that_is_not_ready_while_nobody_else_serves(
    datapath: Datapath, other_datapath: Datapath
) -> None:
    """Its own node does not know yet that the other one has left, and would move the session there. As on one node, a
    new session finds nobody; and as soon as another one serves, the session moves."""
    with nodes_of("alone", {}, (datapath, other_datapath)) as nodes, ExitStack() as stack:
        client = nodes.serve(nodes.here, "client")
        leaving, unready = nodes.serve(nodes.here, "server"), nodes.serve(nodes.there, "server")
        nodes.tell()
        connections = [nodes.here.world.connect(client, DIRECT) for _ in range(20)]
        staying = [each for each in connections if each.server == unready.name]
        assert staying
        nodes.begin()

        nodes.here.world.node.drain(leaving)
        nodes.there.world.node.become(unready, ready=False)
        nodes.there.world.node.reconcile()

        assert all(each.echo(b"x" * 3000) for each in staying for _ in range(3))
        assert nodes.returned() > 0, "the node of the replica does not know that it is alone"
        assert not nodes.dropped()

        stranger = stack.enter_context(client.socket(socket.AF_INET, socket.SOCK_DGRAM))
        stranger.settimeout(0.5)
        stranger.sendto(b"anybody?", DIRECT)
        with pytest.raises(TimeoutError):
            stranger.recv(100)
        assert nodes.dropped()

        nodes.serve(nodes.here, "server")
        assert not any(_goes_on(each) for each in staying)


def _goes_on(connection: Connection) -> bool:
    """Whether the connection's replica still has it; another one resets it."""
    try:
        return connection.echo(b"x")
    except ConnectionError:
        return False

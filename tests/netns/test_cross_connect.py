"""A chain of real network stacks: client → transparent bridge → NAT → server, three replicas of each.

All replicas of a stage have the same addresses and MACs. Clients and NATs keep to source ports of their own, so that no
two replicas produce the same five-tuple.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import yaml

from controller.datapath import Datapath
from tests.netns.topology import Echo, Node, Replica

CHAIN = yaml.safe_load("""
metadata: {namespace: telco, name: edge}
spec:
  stages:
  - name: client
    interfaces:
    - name: lan
      addresses: [10.1.0.2/24, fd00:1::2/64]
      routes: [{dst: 0.0.0.0/0, gw: 10.1.0.1}, {dst: "::/0", gw: "fd00:1::1"}]
  - name: firewall
    interfaces: [{name: left}, {name: right}]
  - name: nat
    interfaces:
    - {name: inside, addresses: [10.1.0.1/24, fd00:1::1/64]}
    - {name: outside, addresses: [198.51.100.1/24, 2001:db8::1/64]}
  - name: server
    interfaces: [{name: wan, addresses: [198.51.100.2/24, 2001:db8::2/64]}]
""")
SERVER = ("198.51.100.2", Echo.PORT)
SERVER6 = ("2001:db8::2", Echo.PORT)
STAGES = ("client", "firewall", "nat", "server")


class World:
    """The node, and what runs in its replicas."""

    def __init__(self, label: str, datapath: Datapath) -> None:
        chain = CHAIN | {"metadata": CHAIN["metadata"] | {"uid": label}}
        self.node = Node(label, chain, datapath)
        self._ports = count(1)
        self._servers: list[Echo] = []
        self._dropped_before: dict[tuple[int, str], int] = {}

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self.node.close()

    def add(self, stage: str) -> Replica:
        """A replica that works, but does not serve yet."""
        replica = self.node.add(stage)
        first_port = 10000 + 2000 * next(self._ports)
        if stage == "client":
            replica.run("sysctl", "-qw", f"net.ipv4.ip_local_port_range={first_port} {first_port + 1999}")
        if stage == "firewall":
            replica.run("sh", "-ec", BRIDGE)
        if stage == "nat":
            replica.run("sh", "-ec", NAT.format(first=first_port, last=first_port + 1999))
        if stage == "server":
            self._servers.append(Echo(replica))
        return replica

    def of(self, stage: str) -> list[Replica]:
        return [replica for replica in self.node.replicas if replica.stage == stage]

    def connect(self, client: Replica, server: tuple[str, int] = SERVER) -> Connection:
        return Connection(client, server)

    def begin(self) -> None:
        """From here on nothing may be dropped; until all serve, what the stacks say by themselves finds no target."""
        self._dropped_before = self.node.datapath.drops()

    def dropped(self) -> dict[tuple[int, str], int]:
        """Of this chain; what a removed replica still says while its namespace dies belongs to no chain."""
        before = self._dropped_before
        now = self.node.datapath.drops()
        ours = {connection.number for connection in self.node.chain.cross_connections}
        return {key: n for key, n in now.items() if key[0] in ours and n > before.get(key, 0)}


BRIDGE = """
ip link add bridge type bridge
ip link set left master bridge
ip link set right master bridge
ip link set bridge up
"""
NAT = """
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
nft -f - <<END
table inet nat {{
  chain postrouting {{
    type nat hook postrouting priority srcnat
    oifname outside meta l4proto {{ tcp, udp }} masquerade to :{first}-{last}
    oifname outside masquerade
  }}
}}
END
"""


class Connection:
    """A TCP connection to the chain's far end that notices when a byte is lost."""

    def __init__(self, client: Replica, server: tuple[str, int]) -> None:
        self._socket = client.socket(family_of(server), socket.SOCK_STREAM)
        self._socket.settimeout(5)
        self._socket.connect(server)
        self.server = self._receive(16).decode().strip()

    def echo(self, data: bytes) -> bool:
        self._socket.sendall(data)
        return self._receive(len(data)) == data

    def close(self) -> None:
        self._socket.close()

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            assert more, "the connection was closed"
            data += more
        return data


def family_of(server: tuple[str, int]) -> int:
    return socket.AF_INET6 if ":" in server[0] else socket.AF_INET


@contextmanager
def world_of(label: str, datapath: Datapath, replicas: int) -> Iterator[World]:
    world = World(label, datapath)
    try:
        world.node.serve(*(world.add(stage) for stage in STAGES for _ in range(replicas)))
        world.begin()
        yield world
    finally:
        world.close()


@pytest.fixture(scope="module")
def datapath(bpffs: Path) -> Iterator[Datapath]:
    datapath = Datapath.open(bpffs / "netns", capacity=16384)
    try:
        yield datapath
    finally:
        datapath.unpin()
        datapath.close()


@pytest.fixture(scope="module")
def three(datapath: Datapath) -> Iterator[World]:
    """Three replicas of each stage, for tests that leave them as they are."""
    with world_of("three", datapath, replicas=3) as world:
        yield world


@pytest.fixture
def two(datapath: Datapath) -> Iterator[World]:
    """Two replicas of each stage, for tests that change them."""
    with world_of("two", datapath, replicas=2) as world:
        yield world


def carried(world: World) -> dict[str, int]:
    return {replica.name: world.node.sessions(replica) for replica in world.node.replicas}


BOTH_FAMILIES = pytest.mark.parametrize("server", [SERVER, SERVER6], ids=["IPv4", "IPv6"])


@BOTH_FAMILIES
def test_ping_loses_nothing(three: World, server: tuple[str, int]) -> None:
    for client in three.of("client"):
        output = client.run("ping", "-c", "20", "-i", "0.01", "-W", "1", server[0])

        assert " 0% packet loss" in output
    assert not three.dropped()


@BOTH_FAMILIES
def test_a_router_on_the_way_is_seen_by_every_client(three: World, server: tuple[str, int]) -> None:
    """As traceroute sees it: the error goes to the client that sent the packet, not to another of the same address."""
    for client in three.of("client"):
        output = client.run("ping", "-c", "5", "-i", "0.1", "-W", "1", "-t", "1", server[0], check=False)

        assert "exceeded" in output
        assert "+5 errors" in output


@BOTH_FAMILIES
def test_every_client_learns_the_path_mtu(two: World, server: tuple[str, int]) -> None:
    for nat in two.of("nat"):
        nat.run("ip", "link", "set", "outside", "mtu", "1300")

    connections = [two.connect(client, server) for client in two.of("client") for _ in range(4)]

    assert all(connection.echo(bytes(100_000)) for connection in connections)
    for client in two.of("client"):
        route = client.run("ip", "route", "get", server[0])
        assert "mtu 1300" in route


@BOTH_FAMILIES
def test_pings_in_fragments_come_back_to_every_client(three: World, server: tuple[str, int]) -> None:
    for client in three.of("client"):
        output = client.run("ping", "-c", "5", "-i", "0.1", "-W", "1", "-s", "4000", server[0])

        assert " 0% packet loss" in output


@BOTH_FAMILIES
def test_datagrams_in_fragments_and_whole_ones_of_a_conversation_take_one_way(
    three: World, server: tuple[str, int]
) -> None:
    sockets = [client.socket(family_of(server), socket.SOCK_DGRAM) for client in three.of("client") for _ in range(10)]
    sizes = (10, 9000, 100, 20_000)

    for each in sockets:
        each.settimeout(2)
        servers = set()
        for size in sizes:
            each.sendto(bytes(size), server)
            answer = each.recv(1 << 16)
            servers.add(answer[:16])
            assert len(answer) == 16 + size
        assert len(servers) == 1
        each.close()


@BOTH_FAMILIES
def test_tcp_connections_spread_over_all_replicas_and_none_breaks(three: World, server: tuple[str, int]) -> None:
    before = carried(three)

    connections = [three.connect(client, server) for client in three.of("client") for _ in range(30)]
    intact = [connection.echo(b"still there?") for _ in range(3) for connection in connections]
    for connection in connections:
        connection.close()

    after = carried(three)
    assert all(intact)
    assert {connection.server for connection in connections} == {replica.name for replica in three.of("server")}
    assert all(after[name] > before[name] for name in before)
    assert not three.dropped()


@BOTH_FAMILIES
def test_a_large_transfer_arrives_whole(three: World, server: tuple[str, int]) -> None:
    connection = three.connect(three.of("client")[0], server)
    block = os.urandom(1 << 16)

    intact = [connection.echo(block) for _ in range(100)]

    assert all(intact)
    connection.close()


@BOTH_FAMILIES
def test_udp_conversations_stay_with_their_server(three: World, server: tuple[str, int]) -> None:
    sockets = [client.socket(family_of(server), socket.SOCK_DGRAM) for client in three.of("client") for _ in range(20)]
    answers = Counter[tuple[int, bytes]]()

    for _ in range(5):
        for number, each in enumerate(sockets):
            each.settimeout(2)
            each.sendto(b"question", server)
            answers[number, each.recv(100)] += 1

    assert set(answers.values()) == {5}
    assert len({answer for _, answer in answers}) == 3
    for each in sockets:
        each.close()


def test_an_address_the_chain_does_not_name_is_found_by_arp(three: World) -> None:
    for nat in three.of("nat"):
        nat.run("ip", "address", "add", "10.1.0.50/24", "dev", "inside")

    output = three.of("client")[1].run("ping", "-c", "3", "-i", "0.1", "-W", "1", "10.1.0.50")

    assert " 0% packet loss" in output


def test_frames_too_short_for_their_ip_header_are_carried(three: World) -> None:
    client = three.of("client")[0]
    raw = client.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind(("lan", 0))
    header = bytes.fromhex("020000000002020000000001")
    before = sent_by(three, "client")

    for ethertype in (b"\x08\x00", b"\x86\xdd", b"\x08\x06"):
        for length in range(20):
            raw.send(header + ethertype + b"\x45" * length)
    raw.close()

    assert sent_by(three, "client") - before >= 60
    assert not three.dropped()


def sent_by(world: World, stage: str) -> int:
    slots = [slot for replica in world.of(stage) for slot in replica.slots.values()]
    return sum(traffic.received_packets for traffic in world.node.datapath.traffic(slots).values())


def test_a_new_replica_takes_sessions_and_the_established_ones_stay(two: World) -> None:
    established = [two.connect(client) for client in two.of("client") for _ in range(20)]

    added = [two.add(stage) for stage in ("firewall", "nat", "server")]
    two.node.serve(*added)
    later = [two.connect(client) for client in two.of("client") for _ in range(20)]

    assert all(connection.echo(b"still there?") for connection in established + later)
    assert added[-1].name in {connection.server for connection in later}
    assert all(two.node.sessions(replica) for replica in added)
    assert not two.dropped()


@pytest.mark.parametrize("stage", ["firewall", "nat", "server"])
def test_a_drained_replica_leaves_without_breaking_a_connection(two: World, stage: str) -> None:
    leaving = two.of(stage)[0]
    established = [two.connect(client) for client in two.of("client") for _ in range(20)]
    busy = two.node.activity(leaving)

    two.node.drain(leaving)
    carried_before = two.node.sessions(leaving)
    later = [two.connect(client) for client in two.of("client") for _ in range(20)]

    assert busy > 0
    assert all(connection.echo(b"still there?") for connection in established + later)
    assert two.node.sessions(leaving) == carried_before

    for connection in established:
        connection.close()
    waited = idle_after(two, leaving)
    two.node.remove(leaving)

    assert 0.8 < waited < 3
    assert all(connection.echo(b"still there?") for connection in later)
    assert not two.dropped()


def test_the_last_replica_keeps_its_sessions_while_it_drains_and_new_ones_find_nobody(two: World) -> None:
    first, last = two.of("firewall")
    two.node.drain(first)
    two.node.remove(first)
    client = two.of("client")[0]
    established = [two.connect(client) for _ in range(5)]

    two.node.drain(last)
    with pytest.raises(TimeoutError):
        two.connect(client)
    kept = [connection.echo(b"still there?") for connection in established]
    added = two.add("firewall")
    two.node.serve(added)
    after = two.connect(client).echo(b"welcome?")

    assert all(kept)
    assert after
    assert {verdict for _, verdict in two.dropped()} == {"no_target"}


def idle_after(world: World, replica: Replica) -> float:
    """Seconds until the replica has no active session."""
    begin = time.monotonic()
    while world.node.activity(replica):
        assert time.monotonic() - begin < 10, "sessions do not become idle"
        time.sleep(0.05)
    return time.monotonic() - begin


def test_connections_through_a_transparent_replica_survive_its_crash(two: World) -> None:
    established = [two.connect(client) for client in two.of("client") for _ in range(20)]
    lost = two.of("firewall")[0]
    assert two.node.sessions(lost)

    two.node.remove(lost)

    assert all(connection.echo(b"still there?") for connection in established)
    assert not two.dropped()


def test_nothing_is_lost_while_replicas_come_and_go(two: World) -> None:
    ping = subprocess.Popen(
        ["ip", "netns", "exec", two.of("client")[0].namespace, "ping", "-q", "-i", "0.002", "-W", "1", SERVER[0]],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(5):
            for stage in ("firewall", "server"):
                two.node.serve(two.add(stage))
                leaving = two.of(stage)[0]
                two.node.drain(leaving)
                two.node.remove(leaving)
    finally:
        ping.send_signal(2)
        output, _ = ping.communicate(timeout=10)

    assert " 0% packet loss" in output
    assert not two.dropped()

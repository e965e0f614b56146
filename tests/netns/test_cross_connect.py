"""A chain of real network stacks: client → transparent bridge → NAT → server, three replicas of each."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from controller.node.kernel.datapath import Datapath
from tests.netns.topology import Echo
from tests.netns.world import World, family_of, world_of

SERVER = ("10.2.0.1", Echo.PORT)
SERVER6 = ("fd00:2::1", Echo.PORT)
BOTH_FAMILIES = pytest.mark.parametrize("server", [SERVER, SERVER6], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module")
def three(datapath: Datapath) -> Iterator[World]:
    with world_of("three", {"firewall": "bridge", "nat": "nat"}, datapath, replicas=3) as world:
        yield world


@BOTH_FAMILIES
def test_pings_in_fragments_come_back_to_every_client(three: World, server: tuple[str, int]) -> None:
    for client in three.of("client"):
        output = client.run("ping", "-c", "5", "-i", "0.1", "-W", "1", "-s", "4000", server[0])

        assert " 0% packet loss" in output


@BOTH_FAMILIES
def test_datagrams_in_fragments_and_whole_ones_of_a_conversation_take_one_way(
    three: World, server: tuple[str, int]
) -> None:
    sockets = [
        client.socket(family_of(server[0]), socket.SOCK_DGRAM) for client in three.of("client") for _ in range(10)
    ]
    sizes = (10, 9000, 100, 20_000)

    for each in sockets:
        each.settimeout(60)
        servers = set()
        for size in sizes:
            each.sendto(bytes(size), server)
            answer = each.recv(1 << 16)
            servers.add(answer[:16])
            assert len(answer) == 16 + size
        assert len(servers) == 1
        each.close()


BEYOND_EPHEMERAL = 61_001
"""From here on, no other test has a session with a port: a datagram of such a session would go to its replica, and the
fragments that came first to another one (decision 27)."""


def test_conversations_that_begin_with_fragments_in_reverse_order_reach_their_server(three: World) -> None:
    """As some senders send them: the first fragment last. Bridge and NAT put each datagram together."""
    client = three.of("client")[0]
    raw = client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    conversations = [client.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]

    for port, each in enumerate(conversations, BEYOND_EPHEMERAL):
        source = three.address("client", "lan", 4)
        each.settimeout(10)
        each.bind((source, port))
        header = IP(src=source, dst=SERVER[0], id=port) / UDP(sport=port, dport=SERVER[1], chksum=0)
        parts = (header / Raw(bytes(4000))).fragment(fragsize=1400)
        for part in reversed(parts):
            raw.sendto(bytes(part), (SERVER[0], 0))
        assert len(each.recv(1 << 16)) == 16 + 4000
        each.close()
    raw.close()


@BOTH_FAMILIES
def test_tcp_connections_spread_over_all_replicas_and_none_breaks(three: World, server: tuple[str, int]) -> None:
    before = three.carried()

    connections = [three.connect(client, server) for client in three.of("client") for _ in range(30)]
    intact = [connection.echo(b"still there?") for _ in range(3) for connection in connections]
    for connection in connections:
        connection.close()

    after = three.carried()
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
    sockets = [
        client.socket(family_of(server[0]), socket.SOCK_DGRAM) for client in three.of("client") for _ in range(20)
    ]
    answers = Counter[tuple[int, bytes]]()

    for _ in range(5):
        for number, each in enumerate(sockets):
            each.settimeout(60)
            each.sendto(b"question", server)
            answers[number, each.recv(100)] += 1

    assert set(answers.values()) == {5}
    assert len({answer for _, answer in answers}) == 3
    for each in sockets:
        each.close()


def test_an_address_the_chain_does_not_name_is_found_by_arp(three: World) -> None:
    for nat in three.of("nat"):
        nat.run("ip", "address", "add", "10.1.0.50/24", "dev", "left")

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
    return sum(traffic.received_packets for traffic in world.node.datapath.counters.traffic(slots).values())

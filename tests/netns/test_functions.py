"""Functions × address families × traffic: pairs of real network functions, three replicas of each, and real stacks.

Each function is once the first of a pair and once the second. A stateful function drops packets of connections that it
does not know.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from controller.node.kernel.datapath import Datapath
from tests.netns.topology import SO_RCVBUFFORCE, Echo, Replica
from tests.netns.transfers import PATIENCE, outcomes, serve, transfer
from tests.netns.world import TRANSPARENT, World, family_of, world_of

PAIRS = [("watchful bridge", "nat"), ("router", "firewall"), ("firewall", "bridge"), ("nat", "router")]
BLOCKS = 12
TRANSFERS, TLS_TRANSFERS, TRACEROUTES, FLOWS = 12, 3, 6, 8
"""Transfers of each client at the same time."""
MOST_HOPS = 5
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module", params=PAIRS, ids=" → ".join)
def world(request: pytest.FixtureRequest, datapath: Datapath) -> Iterator[World]:
    first, second = request.param
    label = f"pair{PAIRS.index(request.param)}"
    with world_of(label, {"first": first, "second": second}, datapath, replicas=3) as world:
        yield world


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate with its key, for the name `server`."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=server",
         "-addext", "subjectAltName=DNS:server", "-keyout", path, "-out", f"{path}.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def server_of(world: World, family: int) -> str:
    return world.address("server", "wan", family)


async def transfers(
    world: World, family: int, each: int, tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
) -> list[int]:
    """Runs `each` transfers of every client at the same time; the blocks of each. The first that breaks raises."""
    ours, theirs = tls or (None, None)
    address = server_of(world, family)
    async with AsyncExitStack() as servers:
        for replica in world.of("server"):
            await servers.enter_async_context(await serve(replica, theirs))
        verified, broken = await outcomes(
            transfer(client, address, lambda sent: sent == BLOCKS, ours)
            for client in world.of("client")
            for _ in range(each)
        )
    assert broken == []
    return verified


def assert_nothing_amiss(world: World) -> None:
    assert not world.dropped()
    for stage, function in world.functions.items():
        if function in ("firewall", "watchful bridge"):
            assert world.strangers(stage) == 0


@FAMILIES
def test_transfers_spread_over_all_replicas_and_every_byte_arrives(world: World, family: int) -> None:
    before = world.carried()

    verified = asyncio.run(transfers(world, family, TRANSFERS))

    assert verified == [BLOCKS] * TRANSFERS * 3
    assert all(count > before[name] for name, count in world.carried().items())
    assert_nothing_amiss(world)


@FAMILIES
def test_tls_trusts_what_arrives(world: World, family: int, certificate: Path) -> None:
    ours = ssl.create_default_context(cafile=str(certificate))
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate)

    verified = asyncio.run(transfers(world, family, TLS_TRANSFERS, (ours, theirs)))

    assert verified == [BLOCKS] * TLS_TRANSFERS * 3
    assert_nothing_amiss(world)


@FAMILIES
def test_pings_of_all_clients_at_once_come_back(world: World, family: int) -> None:
    def ping(client: Replica) -> str:
        return client.run("ping", "-c", "30", "-i", "0.02", "-W", "2", server_of(world, family))

    with ThreadPoolExecutor() as threads:
        outputs = list(threads.map(ping, world.of("client") * 3))

    assert all(" 30 received, 0% packet loss" in output for output in outputs)
    assert_nothing_amiss(world)


@FAMILIES
def test_a_traceroute_of_every_client_sees_every_hop(world: World, family: int) -> None:
    expected = [
        world.address(stage, "left", family)
        for stage, function in world.functions.items()
        if function not in TRANSPARENT
    ] + [server_of(world, family)]

    with ThreadPoolExecutor(16) as threads:
        seen = list(threads.map(lambda client: hops(client, expected[-1]), world.of("client") * TRACEROUTES))

    assert seen == [expected] * 3 * TRACEROUTES
    assert_nothing_amiss(world)


def hops(client: Replica, server: str) -> list[str]:
    """Who answers a traceroute: routers, at last the server. The kernel reports them to the sending socket."""
    answers = []
    with client.socket(family_of(server), socket.SOCK_DGRAM) as asker:
        level, hop_limit, errors = (
            (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, IPV6_RECVERR)
            if ":" in server
            else (socket.IPPROTO_IP, socket.IP_TTL, IP_RECVERR)
        )
        asker.setsockopt(level, errors, 1)
        asker.settimeout(60)
        for limit in range(1, MOST_HOPS + 1):
            asker.setsockopt(level, hop_limit, limit)
            asker.sendto(b"who is there?", (server, 33434 + limit))
            answers.append(offender(asker))
            if answers[-1] == server:
                break
    return answers


IP_RECVERR, IPV6_RECVERR = 11, 25
EXTENDED_ERROR = struct.Struct("=IBBBBII")
"""struct sock_extended_err; the address of the error's sender follows it."""


def offender(asker: socket.socket) -> str:
    """The address of the sender of the ICMP error that the socket waits for."""
    poller = select.poll()
    poller.register(asker, select.POLLERR)
    if not poller.poll(60_000):
        return "nobody"
    _, ancillary, _, _ = asker.recvmsg(512, 512, socket.MSG_ERRQUEUE)
    address = ancillary[0][2][EXTENDED_ERROR.size :]
    if asker.family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, address[4:8])
    return socket.inet_ntop(socket.AF_INET6, address[8:24])


@FAMILIES
def test_large_datagrams_of_many_flows_come_back_whole(world: World, family: int) -> None:
    sizes = random.Random(family)
    flows = [datagram_socket(client, family) for client in world.of("client") for _ in range(FLOWS)]

    for _ in range(3):
        sent = [os.urandom(sizes.randrange(3000, 40_000)) for _ in flows]
        answers = echoes(flows, sent, (server_of(world, family), Echo.PORT))

        assert [answer[16:] for answer in answers] == sent
    for flow in flows:
        flow.close()
    assert len({answer[:16] for answer in answers}) == 3
    assert_nothing_amiss(world)


def echoes(flows: list[socket.socket], sent: list[bytes], server: tuple[str, int]) -> list[bytes]:
    """The answer to each flow's datagram, and none to something else.

    A machine with much to do loses packets in its queues, which is no fault of the chain: what is not answered is sent
    again.
    """
    answers: dict[socket.socket, bytes] = {}
    asked = dict(zip(flows, sent, strict=True))
    until = time.monotonic() + PATIENCE
    while len(answers) < len(flows) and time.monotonic() < until:
        for flow in asked.keys() - answers.keys():
            flow.sendto(asked[flow], server)
        again_at = time.monotonic() + 5
        while (waiting := asked.keys() - answers.keys()) and time.monotonic() < again_at:
            for flow in select.select([*waiting], [], [], 0.5)[0]:
                answer = flow.recv(1 << 16)
                if answer[16:] == asked[flow]:
                    answers[flow] = answer
                else:
                    assert answer[16:] in EARLIER, "an answer that is not what was sent"
    EARLIER.update(sent)
    return [answers[flow] for flow in flows]


EARLIER: set[bytes] = set()
"""What was sent before, perhaps twice."""


def datagram_socket(client: Replica, family: int) -> socket.socket:
    flow = client.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    flow.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    flow.settimeout(60)
    return flow


@FAMILIES
def test_every_client_learns_of_a_narrow_link_behind_the_functions(world: World, family: int) -> None:
    narrow = 1400 + family
    server = server_of(world, family)
    set_mtu(world, "right", narrow)

    asyncio.run(transfers(world, family, TRANSFERS))

    routes = [client.run("ip", "route", "get", server) for client in world.of("client")]
    set_mtu(world, "right", 1500)
    assert all(f"mtu {narrow}" in route for route in routes)


@FAMILIES
def test_every_server_learns_of_a_narrow_link_before_the_functions(world: World, family: int) -> None:
    """The server's echo goes to the address that the last function shows it."""
    narrow = 1300 + family  # less than the clients learned in the test before, and announce to the servers
    address = sees(world, family)
    set_mtu(world, "left", narrow)

    asyncio.run(transfers(world, family, TRANSFERS))

    routes = [server.run("ip", "route", "get", address) for server in world.of("server")]
    set_mtu(world, "left", 1500)
    assert all(f"mtu {narrow}" in route for route in routes)


def set_mtu(world: World, interface: str, mtu: int) -> None:
    """Sets the MTU of the last function that routes. A transparent one would not report a packet that is too big."""
    stage = [stage for stage, function in world.functions.items() if function not in TRANSPARENT][-1]
    for replica in world.of(stage):
        replica.run("ip", "link", "set", interface, "mtu", str(mtu))


def sees(world: World, family: int) -> str:
    """The client's address as the server sees it."""
    translator = next((stage for stage, function in world.functions.items() if function == "nat"), None)
    return world.address(*((translator, "right") if translator else ("client", "lan")), family)

"""A function that reads raw frames (AF_PACKET) and copies them, as Suricata, Snort and VPP do."""

from __future__ import annotations

import asyncio
import select
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from typing import Any

import pytest

from controller.node.kernel.datapath import Datapath
from sfc.reading import chain_of
from tests.netns import world as lab
from tests.netns.nodes import Nodes, nodes_of
from tests.netns.topology import Echo, Node, Replica
from tests.netns.transfers import outcomes, serve, transfer
from tests.netns.world import World, family_of, world_of

FUNCTIONS = {"ids": "raw bridge"}
SERVER, SERVER6 = "10.1.0.1", "fd00:1::1"
BLOCKS, TRANSFERS = 8, 3
WHOLE = 1514
"""Bytes of the longest frame on an interface with an MTU of 1500."""


@pytest.fixture(autouse=True)
def _function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lab.SCRIPTS, "raw bridge", "")
    monkeypatch.setattr(lab, "TRANSPARENT", (*lab.TRANSPARENT, "raw bridge"))


class Copier:
    """Copies each frame that comes in on one interface to the other, as it is. One that is too long is lost."""

    def __init__(self, replica: Replica) -> None:
        self.longest = 0
        self._sockets = [replica.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) for _ in replica.slots]
        for each, interface in zip(self._sockets, replica.slots, strict=True):
            each.bind((interface, 3))
            replica.run("ip", "link", "set", interface, "promisc", "on")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._copy)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for each in self._sockets:
            each.close()

    def _copy(self) -> None:
        left, right = self._sockets
        while not self._stop.is_set():
            for ready in select.select([left, right], [], [], 0.1)[0]:
                frame, (_, _, kind, _, _) = ready.recvfrom(1 << 17)
                if kind != socket.PACKET_OUTGOING:
                    self.longest = max(self.longest, len(frame))
                    with suppress(OSError):
                        (right if ready is left else left).send(frame)


def want_raw_frames(node: Node, label: str, wanted: bool) -> None:
    """Changes the chain; the next pass sees it."""
    chain: dict[str, Any] = lab.chain_of(label, FUNCTIONS)
    for interface in chain["spec"]["stages"][1]["interfaces"]:
        interface["rawFrames"] = wanted
    node.chain = chain_of(chain)
    node.reconcile()


@contextmanager
def copying(replicas: Sequence[Replica]) -> Iterator[list[Copier]]:
    copiers = [Copier(replica) for replica in replicas]
    try:
        yield copiers
    finally:
        for each in copiers:
            each.close()


@pytest.fixture
def world(datapath: Datapath) -> Iterator[World]:
    with world_of("raw", FUNCTIONS, datapath, {"client": 1, "ids": 3, "server": 1}) as world:
        yield world


def pings(client: Replica, server: str) -> bool:
    return " 3 received" in client.run("ping", "-c", "3", "-i", "0.1", "-W", "5", server)


def datagram_comes_back(client: Replica, server: str, size: int, seconds: float, segments: int = 0) -> bool:
    """`segments`: the kernel is to make datagrams of so many bytes of it (UDP_SEGMENT)."""
    with client.socket(family_of(server), socket.SOCK_DGRAM) as sender:
        if segments:
            sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, segments)
        sender.settimeout(seconds)
        sender.sendto(bytes(size), (server, Echo.PORT))
        with suppress(TimeoutError):
            return all(len(sender.recv(1 << 16)) == 16 + (segments or size) for _ in range(size // (segments or size)))
    return False


UDP_SEGMENT = 103
"""linux/udp.h"""


def connects(client: Replica, server: str, seconds: str) -> bool:
    done = subprocess.run(
        ["ip", "netns", "exec", client.namespace, "timeout", seconds, "python3", "-c",
         f"import socket; socket.create_connection(('{server}', {Echo.PORT})).recv(16)"],
        check=False, capture_output=True,
    )  # fmt: skip
    return not done.returncode


async def transfers(clients: Sequence[Replica], servers: Sequence[Replica]) -> tuple[list[int], list[BaseException]]:
    async with AsyncExitStack() as opened:
        for server in servers:
            await opened.enter_async_context(await serve(server))
        return await outcomes(
            transfer(client, address, lambda sent: sent == BLOCKS)
            for client in clients
            for address in (SERVER, SERVER6)
            for _ in range(TRANSFERS)
        )


def test_without_raw_frames_pings_pass_and_nothing_else_does(world: World) -> None:
    """Otherwise the other tests would prove nothing."""
    (client,) = world.of("client")
    with copying(world.of("ids")):
        passes = pings(client, SERVER), connects(client, SERVER, "2"), datagram_comes_back(client, SERVER, 100, 0.5)

    assert passes == (True, False, False)


def test_with_raw_frames_everything_passes_and_no_frame_is_longer_than_the_mtu_allows(world: World) -> None:
    (client,) = world.of("client")
    want_raw_frames(world.node, "raw", True)
    with copying(world.of("ids")) as copiers:
        verified, broken = asyncio.run(transfers(world.of("client"), world.of("server")))
        datagrams = [
            datagram_comes_back(client, server, size, 20, segments)
            for server in (SERVER, SERVER6)
            for size, segments in ((100, 0), (9000, 0), (5000, 1000))
        ]
        assert pings(client, SERVER6)

    assert (verified, broken) == ([BLOCKS] * 2 * TRANSFERS, [])
    assert datagrams == [True] * 6
    assert max(each.longest for each in copiers) == WHOLE
    assert not world.dropped()


def test_a_chain_that_changes_its_mind_loses_no_session(world: World) -> None:
    (client,) = world.of("client")
    want_raw_frames(world.node, "raw", True)
    with copying(world.of("ids")) as copiers:
        established = [world.connect(client, (SERVER, Echo.PORT)) for _ in range(20)]
        chosen = world.carried()

        for wanted in (False, True):
            want_raw_frames(world.node, "raw", wanted)
        went_on = [each.echo(bytes(20_000)) for each in established]

    assert all(went_on)
    assert world.carried() == chosen
    assert max(each.longest for each in copiers) == WHOLE
    assert not world.dropped()


def test_a_replica_that_joins_later_gets_raw_frames_too(world: World) -> None:
    (client,) = world.of("client")
    want_raw_frames(world.node, "raw", True)
    joined = world.add("ids")
    with copying([joined]) as copiers:
        world.node.serve(joined)
        for replica in world.of("ids")[:3]:
            world.node.remove(replica)

        assert all(world.connect(client, (server, Echo.PORT)).echo(bytes(50_000)) for server in (SERVER, SERVER6))

    assert copiers[0].longest == WHOLE


def test_frames_of_other_nodes_are_raw_too(datapath: Datapath, other_datapath: Datapath) -> None:
    with ExitStack() as stack:
        nodes: Nodes = stack.enter_context(nodes_of("raw", FUNCTIONS, (datapath, other_datapath)))
        client, server = nodes.serve(nodes.here, "client"), nodes.serve(nodes.here, "server")
        function = nodes.serve(nodes.there, "ids")
        for number, member in enumerate((nodes.here, nodes.there), 1):
            want_raw_frames(member.world.node, f"raw{number}", True)
        nodes.tell()
        (copier,) = stack.enter_context(copying([function]))

        verified, broken = asyncio.run(transfers([client], [server]))

        assert (verified, broken) == ([BLOCKS] * 2 * TRANSFERS, [])
        assert datagram_comes_back(client, SERVER, 9000, 20)
        assert copier.longest <= WHOLE

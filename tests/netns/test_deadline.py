"""A drain's deadline that resets: nothing hangs in functions that drop what they do not know without a word."""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from controller.node.kernel.datapath import Datapath
from sfc.reading import chain_of
from tests.netns import world as lab
from tests.netns.nodes import nodes_of
from tests.netns.topology import Echo, Node, Replica
from tests.netns.world import World, family_of, world_of

FUNCTIONS = {"shaper": "bridge", "firewall": "watchful bridge"}
SERVER, SERVER6, PORT = "10.1.0.1", "fd00:1::1", 5000
CONNECTIONS = 10
PATIENCE = 20.0
"""Seconds."""


def resetting(label: str, functions: dict[str, str], at_deadline: str = "reset") -> dict[str, object]:
    """The chain, in which the deadline of the firewalls' drains is over at once."""
    chain = lab.chain_of(label, functions)
    (firewall,) = (stage for stage in chain["spec"]["stages"] if stage["name"] == "firewall")
    firewall["drain"] = {"deadlineSeconds": 0, "atDeadline": at_deadline}
    return chain


def past_the_deadline(node: Node, replica: Replica) -> None:
    """The agent drains the replica, and its pod ends."""
    node.drain(replica)
    node.reconciler.sessions.end()
    node.reconcile()
    assert node.reconciler.state.drains[replica.name].ended
    node.remove(replica)


@pytest.fixture
def world(datapath: Datapath, request: pytest.FixtureRequest) -> Iterator[World]:
    replicas = {"client": 1, "shaper": 1, "firewall": 2, "server": 1}
    with world_of("deadline", FUNCTIONS, datapath, replicas) as world:
        world.node.chain = chain_of(resetting("deadline", FUNCTIONS))
        world.node.reconcile()
        (shaper,) = world.of("shaper")
        for interface in shaper.slots:  # so that the kernel completes the checksums of what passes here
            shaper.run("ethtool", "-K", interface, "tx", "off")
        yield world


class Pair:
    """A TCP connection with its two ends."""

    def __init__(self, client: Replica, listener: socket.socket, server: str) -> None:
        self.client = client.socket(family_of(server), socket.SOCK_STREAM)
        self.client.settimeout(PATIENCE)
        self.client.connect((server, PORT))
        self.server, _ = listener.accept()

    def fate(self, sender: socket.socket, receiver: socket.socket) -> str:
        """What becomes of the next bytes of one end."""
        try:
            sender.sendall(b"more")
            (first, *_), _, _ = select.select([sender, receiver], [], [], PATIENCE)
            return "arrived" if first is receiver and receiver.recv(4) == b"more" else str(sender.recv(4))
        except (ConnectionResetError, BrokenPipeError):
            return "reset"
        except ValueError:
            return "hangs"

    @property
    def fates(self) -> tuple[str, str]:
        """What becomes of the next bytes of the client, and then of those of the server."""
        return self.fate(self.client, self.server), self.fate(self.server, self.client)


@contextmanager
def pairs(client: Replica, server: Replica, addresses: list[str]) -> Iterator[list[Pair]]:
    with ExitStack() as stack:
        listener = stack.enter_context(server.socket(socket.AF_INET6, socket.SOCK_STREAM))
        listener.bind(("", PORT))
        listener.listen(64)
        found = [Pair(client, listener, address) for address in addresses for _ in range(CONNECTIONS)]
        for pair in found:
            stack.enter_context(pair.client)
            stack.enter_context(pair.server)
        yield found


def test_both_ends_of_what_the_deadline_finds_are_reset_whenever_they_send_again(world: World) -> None:
    (client,), (server,), (leaving, _) = world.of("client"), world.of("server"), world.of("firewall")
    with pairs(client, server, [SERVER, SERVER6]) as connections:
        past_the_deadline(world.node, leaving)

        fates = Counter(pair.fates for pair in connections)

    print(f"\nof {len(connections)} connections: {dict(fates)}")
    assert fates.keys() == {("arrived", "arrived"), ("reset", "reset")}


def test_what_went_through_others_goes_on(world: World) -> None:
    (client,), (leaving, _) = world.of("client"), world.of("firewall")
    established = [world.connect(client, (SERVER, Echo.PORT)) for _ in range(2 * CONNECTIONS)]

    past_the_deadline(world.node, leaving)
    outcomes = []
    for connection in established:
        try:
            outcomes.append(connection.echo(b"still there?"))
        except ConnectionResetError:
            outcomes.append(False)

    assert {*outcomes} == {True, False}
    assert world.strangers("firewall") == 0, "no replica saw a connection of another one"
    assert {name for _, name in world.dropped()} == {"reset"}


@pytest.mark.parametrize("server", [SERVER, SERVER6])
def test_a_datagram_comes_back_as_an_error_and_the_next_one_arrives(world: World, server: str) -> None:
    (client,), (leaving, _) = world.of("client"), world.of("firewall")
    sockets = [client.socket(family_of(server), socket.SOCK_DGRAM) for _ in range(2 * CONNECTIONS)]
    for each in sockets:
        each.settimeout(PATIENCE)
        each.connect((server, Echo.PORT))
        each.send(b"hello")
        each.recv(100)

    past_the_deadline(world.node, leaving)
    refused = []
    for each in sockets:
        each.send(b"again")
        try:
            each.recv(100)
        except ConnectionRefusedError:
            refused.append(each)

    assert 0 < len(refused) < len(sockets)
    for each in refused:
        each.send(b"once more")
        assert each.recv(100).endswith(b"once more")
    for each in sockets:
        each.close()


def test_without_the_choice_they_hang(world: World) -> None:
    """Otherwise the tests above would prove nothing."""
    (client,), (leaving, _) = world.of("client"), world.of("firewall")
    world.node.chain = chain_of(resetting("deadline", FUNCTIONS, "move"))
    established = [world.connect(client, (SERVER, Echo.PORT)) for _ in range(2 * CONNECTIONS)]

    past_the_deadline(world.node, leaving)
    for connection in established:
        with suppress(ConnectionError):
            connection.send(b"still there?")

    assert world.strangers("firewall") > 0


def test_an_end_on_another_node_is_reset_too(datapath: Datapath, other_datapath: Datapath) -> None:
    functions = {"firewall": "watchful bridge"}
    with nodes_of("reset", functions, (datapath, other_datapath)) as nodes:
        client, server = nodes.serve(nodes.here, "client"), nodes.serve(nodes.here, "server")
        nodes.serve(nodes.here, "firewall")
        leaving = nodes.serve(nodes.there, "firewall")
        nodes.tell()
        there = nodes.there.world.node
        there.chain = chain_of(resetting("reset2", functions))
        with pairs(client, server, [SERVER, SERVER6]) as connections:
            there.drain(leaving)
            there.reconciler.sessions.end()
            there.reconcile()
            fates = Counter(pair.fates for pair in connections)

        assert fates.keys() == {("arrived", "arrived"), ("reset", "reset")}

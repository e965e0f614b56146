"""Subscribers and their connections through three replicas of a stateful bridge, by keys that join flows.

Each client has the addresses of all subscribers, as the nodes of an access network may have. So only a session tells
which client a connection towards a subscriber is for.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from controller.node.kernel.datapath import Datapath
from sfc.chain import SessionKey
from tests.netns.topology import Echo, Replica
from tests.netns.world import World, world_of

SERVER = ("10.1.0.1", Echo.PORT)
SUBSCRIBERS = [f"10.1.0.{host}" for host in range(50, 74)]
CALLS, CALLED = range(3), 5060


@pytest.fixture(scope="module")
def access(datapath: Datapath) -> Iterator[World]:
    with world_of("keys", {"firewall": "watchful bridge"}, datapath, replicas=3) as world:
        for client in world.of("client"):
            for address in SUBSCRIBERS:
                client.run("ip", "address", "add", f"{address}/24", "dev", "lan")
        yield world


@pytest.fixture(params=[SessionKey.ADDRESSES, SessionKey.UPSTREAM_ADDRESS])
def world(access: World, request: pytest.FixtureRequest) -> World:
    access.node.chain = replace(access.node.chain, session_key=request.param)
    access.node.reconcile()
    access.node.datapath.sweep()
    access.begin()
    return access


def connected(client: Replica, subscriber: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    connection = client.socket(socket.AF_INET, kind)
    connection.settimeout(5)
    connection.bind((subscriber, 0))
    connection.connect(SERVER)
    return connection


def test_all_of_a_subscriber_meets_one_server_which_calls_back_through_the_same_replicas(world: World) -> None:
    servers = {replica.name: replica for replica in world.of("server")}
    refused, met = world.strangers("firewall"), set()
    for number, subscriber in enumerate(SUBSCRIBERS):
        client = world.of("client")[number % 3]
        with ExitStack() as sockets:
            calls = [sockets.enter_context(connected(client, subscriber)) for _ in CALLS]
            asked = sockets.enter_context(connected(client, subscriber, socket.SOCK_DGRAM))
            asked.send(b"a question")
            listener = sockets.enter_context(client.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((subscriber, CALLED))
            listener.listen()
            listener.settimeout(5)

            answered = {each.recv(16).decode().strip() for each in (*calls, asked)}
            assert len(answered) == 1
            [name] = answered
            back = sockets.enter_context(servers[name].socket(socket.AF_INET, socket.SOCK_STREAM))
            back.settimeout(5)
            back.connect((subscriber, CALLED))
            accepted = sockets.enter_context(listener.accept()[0])
            back.sendall(b"the data")
            assert accepted.recv(16) == b"the data"
            for each in calls:
                each.sendall(b"still there?")
                assert each.recv(16) == b"still there?"
        met.add(name)
    assert met == set(servers)
    assert world.strangers("firewall") == refused
    assert not world.dropped()


def test_a_subscriber_stays_with_its_server_while_stages_grow_and_drain(world: World) -> None:
    clients = [world.of("client")[number % 3] for number in range(len(SUBSCRIBERS))]
    calls = [connected(*each) for each in zip(clients, SUBSCRIBERS, strict=True)]
    before = [each.recv(16) for each in calls]
    refused = world.strangers("firewall")

    leaving = world.of("firewall")[-1]
    world.node.serve(*(world.add(stage) for stage in ("firewall", "server")))
    world.node.drain(leaving)
    assert world.node.activity(leaving)
    further = [connected(*each) for each in zip(clients, SUBSCRIBERS, strict=True)]

    assert [each.recv(16) for each in further] == before
    for each in (*calls, *further):
        each.sendall(b"still there?")
        assert each.recv(16) == b"still there?"
        each.close()
    assert world.strangers("firewall") == refused

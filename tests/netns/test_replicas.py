"""Replicas come, drain, leave and crash under a chain of real network stacks: client → bridge → NAT → server."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from controller.node.kernel.datapath import Datapath
from controller.node.plane import maglev
from controller.node.plane.sessions import DEFAULT_PATIENCE
from sfc.chain import Patience
from tests.netns.topology import Echo, Replica
from tests.netns.world import World, world_of

SERVER = ("10.2.0.1", Echo.PORT)


@pytest.fixture
def two(datapath: Datapath) -> Iterator[World]:
    with world_of("two", {"firewall": "bridge", "nat": "nat"}, datapath, replicas=2) as world:
        yield world


def test_a_new_replica_takes_sessions_and_the_established_ones_stay(two: World) -> None:
    established = [two.connect(client, SERVER) for client in two.of("client") for _ in range(20)]

    added = [two.add(stage) for stage in ("firewall", "nat", "server")]
    two.node.serve(*added)
    later = [two.connect(client, SERVER) for client in two.of("client") for _ in range(20)]

    assert all(connection.echo(b"still there?") for connection in established + later)
    assert added[-1].name in {connection.server for connection in later}
    assert all(two.node.sessions(replica) for replica in added)
    assert not two.dropped()


@pytest.mark.parametrize("stage", ["firewall", "nat", "server"])
def test_a_drained_replica_leaves_without_breaking_a_connection(two: World, stage: str) -> None:
    leaving = two.of(stage)[0]
    established = [two.connect(client, SERVER) for client in two.of("client") for _ in range(20)]
    busy = two.node.activity(leaving)

    two.node.drain(leaving)
    carried_before = two.node.sessions(leaving)
    later = [two.connect(client, SERVER) for client in two.of("client") for _ in range(20)]

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
    established = [two.connect(client, SERVER) for _ in range(5)]

    two.node.drain(last)
    with pytest.raises(TimeoutError):
        two.connect(client, SERVER)
    kept = [connection.echo(b"still there?") for connection in established]
    added = two.add("firewall")
    two.node.serve(added)
    after = two.connect(client, SERVER).echo(b"welcome?")

    assert all(kept)
    assert after
    assert {verdict for _, verdict in two.dropped()} == {"no_target"}


def test_a_draining_replica_keeps_its_silent_udp_sessions_for_as_long_as_the_chain_has_patience(two: World) -> None:
    have_patience(two, Patience(udp=60))
    leaving, client = two.of("server")[0], two.of("client")[0]
    sockets = [client.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
    before = [answering(each) for each in sockets]
    two.node.drain(leaving)

    time.sleep(DEFAULT_PATIENCE.udp + 1)
    waited_for = two.node.activity(leaving)
    then = [answering(each) for each in sockets]
    have_patience(two, Patience(udp=1))
    time.sleep(2)
    given_up = two.node.activity(leaving)
    late = [answering(each) for each in sockets]

    for each in sockets:
        each.close()
    assert then == before
    assert (waited_for, given_up) == (before.count(leaving.name), 0)
    assert waited_for > 0
    assert leaving.name not in late


def test_openings_that_nobody_answers_hold_no_drain(two: World) -> None:
    leaving, client = two.of("server")[0], two.of("client")[0]
    connection = next(c for c in iter(lambda: two.connect(client, SERVER), None) if c.server == leaving.name)
    for server in two.of("server"):
        server.run("nft", "add table inet deaf; add chain inet deaf input { type filter hook input priority 0; }")
        server.run("nft", "add rule inet deaf input tcp dport 9 drop")
    scan = [client.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(200)]
    for each in scan:
        each.setblocking(False)
        each.connect_ex((SERVER[0], 9))

    two.node.drain(leaving)
    opened = two.node.sessions(leaving)
    time.sleep(3)
    held = two.node.activity(leaving)
    connection.close()
    idle_after(two, leaving)

    for each in scan:
        each.close()
    assert opened > 50
    assert held == 1


def have_patience(world: World, patience: Patience) -> None:
    """Changes the chain."""
    world.node.chain = replace(world.node.chain, patience=patience)
    world.node.reconcile()


def answering(datagrams: socket.socket) -> str:
    """The server that answers a datagram."""
    datagrams.settimeout(60)
    datagrams.sendto(b"hello", SERVER)
    return datagrams.recv(64)[:16].decode().strip()


def idle_after(world: World, replica: Replica) -> float:
    """The seconds until the replica has no active session."""
    begin = time.monotonic()
    while world.node.activity(replica):
        assert time.monotonic() - begin < 10, "sessions do not become idle"
        time.sleep(0.05)
    return time.monotonic() - begin


def test_connections_through_a_transparent_replica_survive_its_crash(two: World) -> None:
    established = [two.connect(client, SERVER) for client in two.of("client") for _ in range(20)]
    lost = two.of("firewall")[0]
    assert two.node.sessions(lost)

    two.node.remove(lost)

    assert all(connection.echo(b"still there?") for connection in established)
    assert not two.dropped()


def test_connections_leave_a_replica_that_hangs_as_soon_as_it_is_not_ready(two: World) -> None:
    """Its liveness probe would end it much later. Its interfaces are up all the time."""
    hanging, other = two.of("firewall")
    established = [two.connect(client, SERVER) for client in two.of("client") for _ in range(20)]
    before = two.node.sessions(other)

    hanging.run("ip", "link", "set", "bridge", "down")
    two.node.become(hanging, ready=False)
    two.node.reconcile()
    survived = [connection.echo(b"still there?") for connection in established]
    hanging.run("ip", "link", "set", "bridge", "up")
    two.node.serve(hanging)
    carried = two.node.sessions(hanging)
    later = [two.connect(client, SERVER) for client in two.of("client") for _ in range(20)]

    assert all(survived)
    assert two.node.sessions(other) > before
    assert two.node.sessions(hanging) > carried
    assert all(connection.echo(b"still there?") for connection in established + later)
    assert not two.dropped()


def test_a_link_that_vanishes_under_a_pass_does_not_keep_its_replica_in_the_targets(
    two: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dying namespace loses its filters first and its links a little later. A pass may run in between."""
    lost = two.of("server")[0]
    listed = [replace(link, filter_slot=None) if link.pod_uid == lost.name else link for link in two.node.links.list()]
    monkeypatch.setattr(two.node.links, "list", lambda: tuple(listed))

    two.node.remove(lost)

    slots = set(lost.slots.values())
    tables = two.node.datapath.observe().targets.values()
    assert not any(slots & set(struct.unpack(f"<{maglev.LENGTH}H", table)) for table in tables)


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
                two.node.stop(leaving)
                two.node.remove(leaving)
    finally:
        ping.send_signal(2)
        output, _ = ping.communicate(timeout=10)

    assert " 0% packet loss" in output
    assert not two.dropped()

"""The session table is lost while a thousand transfers run through a transparent stage of five stateful replicas.

Each replica accepts only connections that began in it (`ct state invalid`, no pick-up in the middle). So a connection
survives only if both cross-connections choose the same replica again, in both directions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from controller.node.kernel.datapath import Datapath
from tests.netns.topology import Echo
from tests.netns.transfers import outcomes, serve, transfer
from tests.netns.world import World, world_of

TRANSFERS = 1000
FLUSHES = 10
PAUSE = 0.5
"""Seconds between two blocks of a transfer."""


@pytest.fixture
def five(datapath: Datapath) -> Iterator[World]:
    replicas = {"client": 1, "firewall": 5, "server": 1}
    with world_of("five", {"firewall": "watchful bridge"}, datapath, replicas) as world:
        yield world


def flush(world: World) -> int:
    """Empties both session tables; the number of sessions they had."""
    connections = [session.connection for session in world.node.datapath.sessions()]
    for connection in set(connections):
        world.node.datapath.session_tables.forget(connection)
    return len(connections)


async def transfers_while_sessions_are_lost(world: World) -> tuple[list[int], list[BaseException], list[int]]:
    """(blocks of each transfer that succeeded, the errors of the others, sessions at each flush)"""
    stop = asyncio.Event()
    begun = 0

    def enough(sent: int) -> bool:
        nonlocal begun
        begun += sent == 1
        return stop.is_set()

    (client,), (server,) = world.of("client"), world.of("server")
    addresses = [world.address("server", "wan", 4 if number % 2 else 6) for number in range(TRANSFERS)]
    async with await serve(server):
        running = asyncio.ensure_future(
            outcomes([transfer(client, address, enough, pause=PAUSE) for address in addresses])
        )
        while begun < TRANSFERS and not running.done():
            await asyncio.sleep(0.01)
        flushed = []
        for _ in range(FLUSHES):
            flushed.append(await asyncio.to_thread(flush, world))
            await asyncio.sleep(PAUSE / 2)
        stop.set()
        return *await running, flushed


def test_nothing_breaks_when_the_session_table_is_lost(five: World) -> None:
    chosen_before = five.carried()

    verified, broken, flushed = asyncio.run(transfers_while_sessions_are_lost(five))

    chosen = {name: count - chosen_before[name] for name, count in five.carried().items()}
    carried = sum(verified)
    print(f"\n{len(verified)} transfers, {carried} blocks verified, {len(broken)} broken; sessions lost: {flushed}")
    print(f"sessions chosen: {chosen}; packets of strangers: {five.strangers('firewall')}")
    assert broken == []
    assert len(verified) == TRANSFERS
    assert all(chosen[replica.name] > TRANSFERS // 5 for replica in five.of("firewall"))
    assert five.strangers("firewall") == 0


def test_a_stateful_replica_refuses_the_connections_of_another(five: World) -> None:
    """Without this, the other test would prove nothing."""
    (client,) = five.of("client")
    server = (five.address("server", "wan", 4), Echo.PORT)
    established = [five.connect(client, server) for _ in range(20)]

    five.node.remove(five.of("firewall")[0])
    for connection in established:
        connection.send(b"still there?")

    assert five.strangers("firewall") > 0

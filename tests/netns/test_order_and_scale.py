"""Many changes at once, or in an unusual order: real stacks, the real data path, the agent's own passes."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from controller.node.kernel.datapath import Datapath
from controller.node.plane import maglev
from controller.node.plane.model import LinkState
from sfc.reading import chain_of
from tests.hash_key import HASH_KEY
from tests.netns import world as lab
from tests.netns.topology import Echo, Replica
from tests.netns.world import World, world_of

MANY = 200
SERVER = ("10.1.0.1", Echo.PORT)


@contextmanager
def pinging(world: World) -> Iterator[Callable[[], int]]:
    """Sends a ping every 2 ms; yields a function that, after the block, returns the number of lost ones."""
    command = ["ping", "-q", "-i", "0.002", "-W", "1", SERVER[0]]
    inside = ["ip", "netns", "exec", world.of("client")[0].namespace]
    ping = subprocess.Popen([*inside, *command], stdout=subprocess.PIPE, text=True)
    lost: list[int] = []
    try:
        yield lambda: lost[0]
    finally:
        ping.send_signal(2)
        output, _ = ping.communicate(timeout=10)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", output)
        assert found, output
        lost.append(int(found[1]) - int(found[2]))


def targets(world: World) -> set[int]:
    tables = world.node.datapath.observe().targets.values()
    return {slot for table in tables for slot in struct.unpack(f"<{maglev.LENGTH}H", table)}


def slots(replicas: list[Replica]) -> set[int]:
    return {slot for replica in replicas for slot in replica.slots.values()}


def test_two_hundred_replicas_join_at_once_and_leave_at_once(datapath: Datapath) -> None:
    with world_of("many", {}, datapath, replicas=1) as world:
        stays = slots(world.node.replicas)
        with pinging(world) as lost:
            many = [world.node.add("server") for _ in range(MANY)]
            assert targets(world) == stays

            world.node.serve(*many)
            joined = targets(world)

            for each in many:
                world.node.become(each, terminating=True)
            world.node.reconcile()
            left = targets(world)
            draining = sum(not drain.ended for drain in world.node.reconciler.state.drains.values())

            for each in many:
                world.node.remove(each)

        assert joined == stays | slots(many)
        assert left == stays
        assert draining == MANY
        assert lost() == 0
        assert set(world.node.datapath.observe().links) == stays
        assert not world.dropped()


def test_a_stage_put_into_a_chain_while_a_replica_drains_ends_neither_the_drain_nor_a_connection(
    datapath: Datapath,
) -> None:
    after = {"firewall": "bridge", "shaper": "bridge"}
    with world_of("grows", {"firewall": "bridge"}, datapath, replicas=2) as world:
        established = [world.connect(client, SERVER) for client in world.of("client") for _ in range(10)]
        leaving = world.of("firewall")[0]
        world.node.drain(leaving)
        before = world.node.reconciler.state.drains[leaving.name]

        world.functions = after
        world.node.chain = chain_of(lab.chain_of("grows", after))
        world.node.serve(*(world.add("shaper") for _ in range(2)))
        went_on = [connection.echo(b"still there?") for connection in established]
        through = [world.node.sessions(each) for each in world.of("shaper")]

        assert all(went_on)
        assert any(through)
        assert world.node.reconciler.state.drains[leaving.name].asked_at == before.asked_at
        assert not targets(world) & slots([leaving])


def test_a_replica_whose_label_moves_to_another_stage_serves_there_and_no_longer_here(datapath: Datapath) -> None:
    with world_of("moves", {"firewall": "bridge", "shaper": "bridge"}, datapath, replicas=2) as world:
        established = [world.connect(client, SERVER) for client in world.of("client") for _ in range(10)]
        moving, stays = world.of("firewall")

        world.node.become(moving, stage="shaper")
        world.node.reconcile()
        went_on = [connection.echo(b"still there?") for connection in established]
        later = [world.connect(client, SERVER) for client in world.of("client") for _ in range(10)]
        links = world.node.datapath.observe().links
        from_client = links[stays.slots["left"]].connection

        assert all(went_on)
        assert all(connection.echo(b"welcome?") for connection in later)
        assert from_client not in {links[slot].connection for slot in moving.slots.values()}
        assert world.node.sessions(moving)
        assert not world.dropped()


def test_after_a_reboot_replicas_are_wired_anew(bpffs: Path) -> None:
    """Links, filters, pins and maps are gone. The API server still has the pods, which then start again."""
    pins = bpffs / "reboot"
    before = Datapath.open(pins, capacity=1024, hash_key=HASH_KEY)
    with world_of("boots", {"firewall": "bridge"}, before, replicas=2) as world:
        assert world.connect(world.of("client")[0], SERVER).echo(b"hello")
        for replica in world.node.replicas:
            for slot in replica.slots.values():
                world.node.links.delete(f"sfcx{slot}")
            replica.run("ip", "link", "delete", "bridge", check=False)
        before.unpin()
        before.close()

        world.node.lead(Datapath.open(pins, capacity=1024, hash_key=HASH_KEY))
        world.node.reconcile()
        empty = world.node.datapath.observe()
        for replica in world.node.replicas:
            world.node.wire(replica)
            world.start(replica)
        world.node.serve(*world.node.replicas)
        states = {entry.state for entry in world.node.datapath.observe().links.values()}

        assert not empty.links
        assert not empty.targets
        assert states == {LinkState.SERVING}
        assert all(world.connect(client, SERVER).echo(b"again") for client in world.of("client"))
    world.node.datapath.unpin()
    world.node.datapath.close()

"""The kernel reports the end of a replica that nobody announced: real links, the real data path, the agent's loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from controller.node.kernel.datapath import Datapath
from controller.node.kernel.links import Identity, Links
from controller.node.plane.cluster import Cluster
from controller.node.plane.model import PROGRAM, HostLink, LinkState
from controller.node.reconcile.orphans import PATIENCE_SECONDS, Orphans
from controller.node.reconcile.reconciler import Reconciler
from sfc.chain import Interface
from tests.hash_key import HASH_KEY
from tests.netns import node as lab
from tests.unit.objects import pod
from tests.unit.test_desired import EDGE, cluster

STEERED_SECONDS = 5.0
"""Soon enough that a signal must have woken the loop, which looks by itself every ten seconds. The benchmark `events`
measures the real delay."""
REPLICAS = {"client-1": ("lan",), "firewall-1": ("left", "right"), "firewall-2": ("left", "right")}
CLUSTER = cluster(*(pod(name, name.partition("-")[0]) for name in REPLICAS))


class World:
    """A node with a client, two firewalls and an agent. Each replica has a namespace of its own."""

    def __init__(self, datapath: Datapath) -> None:
        self.cluster: Cluster = CLUSTER
        self.datapath = datapath
        self.links = Links()
        self.reconciler = Reconciler(self.links, datapath, lambda: self.cluster)
        self.links.monitor(self._links_changed)
        self.pods: dict[str, str] = {}
        self.slots: dict[tuple[str, str], int] = {}

    def _links_changed(self) -> None:
        self.reconciler.links_changed()

    def add(self, name: str, namespace: str) -> None:
        self.pods[name] = namespace
        stage = EDGE.stage(name.partition("-")[0])
        assert stage
        for interface in stage.interfaces:
            slot = self.slots[name, interface.name] = len(self.slots) + 1
            with lab.opened(namespace) as netns:
                identity = Identity(f"uid-{name}", interface.name, f"drain-{name}", slot)
                plain = Interface(interface.name, interface.mac)
                host = self.links.create(f"sfc{slot:012x}", identity, plain, netns)
                self.links.attach(host.ifindex, slot, self.datapath.program_fd, PROGRAM)
                self.links.configure(plain, netns)

    @contextmanager
    def agent(self) -> Iterator[None]:
        stop = threading.Event()
        loop = threading.Thread(target=self.reconciler.run, args=(stop,))
        loop.start()
        self.reconciler.wake()
        try:
            yield
        finally:
            stop.set()
            self.reconciler.wake()
            loop.join(60)

    def state(self, name: str, interface: str) -> LinkState | None:
        """The state after the agent's last pass. Reading the maps themselves takes too long for measuring times."""
        entry = self.reconciler.state.plane.links.get(self.slots[name, interface])
        return entry.state if entry else None

    def serving(self, name: str) -> bool:
        return all(self.state(name, interface) == LinkState.SERVING for interface in REPLICAS[name])

    def targets(self) -> set[int]:
        """The slots in any table."""
        tables = self.datapath.observe().targets.values()
        return {slot for table in tables for slot in memoryview(table).cast("H")}


@pytest.fixture(scope="module")
def datapath(bpffs: Path) -> Iterator[Datapath]:
    opened = Datapath.open(bpffs / "ungraceful", capacity=1024, hash_key=HASH_KEY)
    yield opened
    opened.unpin()
    opened.close()


@pytest.fixture
def world(datapath: Datapath) -> Iterator[World]:
    with ExitStack() as cleanup:
        cleanup.enter_context(lab.inside(cleanup.enter_context(lab.namespace("node"))))
        world = World(datapath)
        cleanup.callback(world.links.close)
        cleanup.callback(lambda: Reconciler(NoLinks(), datapath, lambda: CLUSTER).reconcile())
        for name in REPLICAS:
            world.add(name, cleanup.enter_context(lab.namespace(name)))
        yield world


class NoLinks(Links):
    """Links of a node on which none exists."""

    def list(self) -> tuple[HostLink, ...]:
        return ()


def seconds_until(condition: Callable[[], bool]) -> float:
    """The seconds until the condition holds, by polling; infinity after five seconds."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > 60:
            return float("inf")
        time.sleep(0.0005)
    return time.monotonic() - start


def test_an_interface_shut_in_the_pod_takes_the_replica_out_of_all_targets_until_it_is_up_again(world: World) -> None:
    with world.agent():
        assert seconds_until(lambda: world.serving("firewall-2")) < 60

        lab.run("ip", "-n", world.pods["firewall-2"], "link", "set", "right", "down")
        out = seconds_until(lambda: world.state("firewall-2", "left") == LinkState.GONE)
        without = world.targets()
        lab.run("ip", "-n", world.pods["firewall-2"], "link", "set", "right", "up")
        back = seconds_until(lambda: world.serving("firewall-2"))

    assert without == {
        world.slots[end] for end in (("client-1", "lan"), ("firewall-1", "left"), ("firewall-1", "right"))
    }
    assert out < STEERED_SECONDS
    assert back < STEERED_SECONDS


def test_a_link_that_vanishes_leaves_the_targets_at_once(world: World) -> None:
    with world.agent():
        assert seconds_until(lambda: world.serving("firewall-2")) < 60

        lab.run("ip", "-n", world.pods["firewall-2"], "link", "delete", "left")
        out = seconds_until(lambda: world.state("firewall-2", "left") is None)
        without = world.targets()

    assert out < STEERED_SECONDS
    assert world.slots["firewall-2", "left"] not in without
    assert world.serving("firewall-1")


def test_what_happened_while_no_agent_ran_is_found_by_the_next_one_within_a_second(world: World) -> None:
    with world.agent():
        assert seconds_until(lambda: world.serving("firewall-2")) < 60
    lab.run("ip", "-n", world.pods["firewall-2"], "link", "delete", "left")
    lab.run("ip", "-n", world.pods["firewall-2"], "link", "delete", "right")

    world.reconciler = Reconciler(world.links, world.datapath, lambda: world.cluster)
    with world.agent():
        cleaned = seconds_until(lambda: not world.targets() & {world.slots["firewall-2", i] for i in ("left", "right")})
        gone = seconds_until(lambda: world.state("firewall-2", "right") is None)

    assert cleaned < 1
    assert gone < 1
    assert world.serving("firewall-1")


def test_links_whose_pod_does_not_exist_any_more_are_removed_and_no_others(world: World) -> None:
    world.cluster = cluster(*(pod(name, name.partition("-")[0]) for name in ("client-1", "firewall-1")))
    world.reconciler.reconcile()
    now = [0.0]
    pods = {"uid-client-1": {"metadata": {"namespace": "telco", "name": "client-1", "uid": "uid-client-1"}}}
    orphans = Orphans(world.links.delete, lambda: world.reconciler.state, lambda: pods, lambda: now[0])
    orphans.remove()
    now[0] = PATIENCE_SECONDS
    orphans.remove()

    left = {(link.pod_uid, link.interface) for link in world.links.list()}

    assert left == {("uid-client-1", "lan"), ("uid-firewall-1", "left"), ("uid-firewall-1", "right")}

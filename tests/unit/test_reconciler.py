"""The loop around the plan, on fakes of its two adapters; the real ones are tested in network namespaces."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import pytest

from controller.model import DataPlane, HostLink, LinkEntry, LinkState
from controller.plan import Cluster
from controller.reconciler import Reconciler
from sfc.chain import Side
from tests.unit.objects import link, pod
from tests.unit.test_plan import CLIENT_FIREWALL, cluster


class Node:
    """Links and maps of a node that exists only here; records what happened to it, in order."""

    program_fd = 3

    def __init__(self, *links: HostLink) -> None:
        self.links = {one.ifindex: one for one in links}
        self.entries: dict[int, LinkEntry] = {}
        self.tables: dict[tuple[int, Side], bytes] = {}
        self.macs: dict[tuple[int, Side, str], str] = {}
        self.sessions: dict[int, int] = {}
        self.forgotten: list[int] = []
        self.programs: dict[int, int] = {}
        self.broken = False

    def list(self) -> tuple[HostLink, ...]:
        return tuple(self.links.values())

    def attach(self, ifindex: int, slot: int, program: int, program_name: str) -> None:
        self.links[ifindex] = replace(self.links[ifindex], filter_slot=slot)
        self.programs[ifindex] = program

    def detach(self, ifindex: int) -> None:
        self.links[ifindex] = replace(self.links[ifindex], filter_slot=None)

    def observe(self) -> DataPlane:
        if self.broken:
            raise OSError("no maps today")
        return DataPlane({}, dict(self.entries), dict(self.tables), dict(self.macs))

    def set_link(self, slot: int, entry: LinkEntry) -> None:
        self.entries[slot] = entry

    def clear_link(self, slot: int) -> None:
        self.entries.pop(slot, None)

    def set_targets(self, connection: int, side: Side, table: bytes) -> None:
        self.tables[connection, side] = table

    def clear_targets(self, connection: int, side: Side) -> None:
        self.tables.pop((connection, side), None)

    def set_neighbour(self, connection: int, side: Side, address: str, mac: str) -> None:
        self.macs[connection, side, address] = mac

    def clear_neighbour(self, connection: int, side: Side, address: str) -> None:
        self.macs.pop((connection, side, address), None)

    def forget(self, connection: int) -> None:
        self.forgotten.append(connection)

    def activity(self, slots: Collection[int]) -> Mapping[int, int]:
        return {slot: self.sessions.get(slot, 0) for slot in slots}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def firewalls(**second: Any) -> Cluster:
    return cluster(pod("client-1", "client"), pod("firewall-1", "firewall"), pod("firewall-2", "firewall", **second))


@pytest.fixture
def node() -> Node:
    ends = ((1, "client-1", "lan"), (2, "firewall-1", "left"), (3, "firewall-1", "right"))
    return Node(*(link(*end) for end in (*ends, (4, "firewall-2", "left"), (5, "firewall-2", "right"))))


def states(node: Node) -> dict[int, LinkState]:
    return {slot: entry.state for slot, entry in node.entries.items()}


def test_a_pass_brings_the_node_to_the_desired_state_and_a_second_finds_nothing_to_do(node: Node) -> None:
    reconciler = Reconciler(node, node, firewalls)

    reconciler.reconcile()
    first = node.observe()
    reconciler.reconcile()

    assert set(states(node).values()) == {LinkState.SERVING}
    assert all(one.filter_slot == one.slot for one in node.list())
    assert node.observe() == first


def test_what_somebody_else_removed_is_put_back(node: Node) -> None:
    reconciler = Reconciler(node, node, firewalls)
    reconciler.reconcile()
    wanted = node.observe()

    node.clear_targets(CLIENT_FIREWALL, Side.DOWNSTREAM)
    node.clear_link(2)
    reconciler.reconcile()

    assert node.observe() == wanted


def test_a_new_agent_puts_its_own_program_into_every_filter_once(node: Node) -> None:
    Reconciler(node, node, firewalls).reconcile()
    node.program_fd = 4
    upgraded = Reconciler(node, node, firewalls)

    upgraded.reconcile()
    after_upgrade = dict(node.programs)
    node.programs.clear()
    upgraded.reconcile()

    assert set(after_upgrade.values()) == {4}
    assert len(after_upgrade) == 5
    assert node.programs == {}


def test_a_terminating_pod_drains_without_any_hook(node: Node) -> None:
    clock, pods = Clock(), firewalls()
    reconciler = Reconciler(node, node, lambda: pods, clock)
    reconciler.reconcile()
    node.sessions = {4: 2}

    pods = firewalls(terminating=True)
    reconciler.reconcile()
    busy = states(node)
    node.sessions = {}
    reconciler.reconcile()

    assert (busy[4], busy[5]) == (LinkState.DRAINING, LinkState.DRAINING)
    assert (states(node)[4], states(node)[5]) == (LinkState.GONE, LinkState.GONE)


def test_the_deadline_of_the_stage_ends_a_drain_whose_sessions_do_not(node: Node) -> None:
    clock = Clock()
    reconciler = Reconciler(node, node, lambda: firewalls(terminating=True), clock)
    node.sessions = {4: 2}
    reconciler.reconcile()

    clock.now += 29.9
    reconciler.reconcile()
    before = states(node)[4]
    clock.now += 0.2
    reconciler.reconcile()

    assert (before, states(node)[4]) == (LinkState.DRAINING, LinkState.GONE)


def test_a_hook_is_answered_when_the_sessions_have_ended(node: Node) -> None:
    reconciler = Reconciler(node, node, firewalls)
    stop = threading.Event()
    node.sessions = {4: 1}
    threading.Thread(target=reconciler.run, args=(stop,), daemon=True).start()

    waiting = threading.Event()
    answers = []

    def hook() -> None:
        waiting.set()
        answers.append(reconciler.drain("drain-firewall-2", timeout=10))

    caller = threading.Thread(target=hook)
    caller.start()
    waiting.wait(1)
    caller.join(0.5)
    held = caller.is_alive()
    node.sessions = {}
    caller.join(5)
    stop.set()

    assert held
    assert answers[0].ended
    assert states(node)[4] == LinkState.GONE


def test_a_hook_for_an_unknown_id_is_not_held(node: Node) -> None:
    reconciler = Reconciler(node, node, firewalls)

    assert reconciler.drain("no-such-id", timeout=10) is None


def test_a_drain_asked_for_before_the_api_server_was_heard_works(node: Node) -> None:
    seen: list[Cluster | None] = [firewalls()]
    reconciler = Reconciler(node, node, lambda: seen[0])
    reconciler.reconcile()
    restarted = Reconciler(node, node, lambda: None)
    stop = threading.Event()
    threading.Thread(target=restarted.run, args=(stop,), daemon=True).start()

    drain = restarted.drain("drain-firewall-2", timeout=10)
    stop.set()

    assert drain and drain.ended
    assert states(node) == {slot: LinkState.GONE if slot in (4, 5) else LinkState.SERVING for slot in range(1, 6)}


def test_a_drain_for_a_restart_is_undone_when_the_new_containers_are_ready(node: Node) -> None:
    pods = firewalls()
    reconciler = Reconciler(node, node, lambda: pods)
    stop = threading.Event()
    threading.Thread(target=reconciler.run, args=(stop,), daemon=True).start()
    reconciler.drain("drain-firewall-2", timeout=10)
    drained = states(node)[4]

    stop.set()
    pods = firewalls(containerStatuses=[{"containerID": "cri://new", "state": {"running": {}}}])
    reconciler.reconcile()

    assert (drained, states(node)[4]) == (LinkState.GONE, LinkState.SERVING)


def test_a_link_that_vanished_leaves_the_targets(node: Node) -> None:
    reconciler = Reconciler(node, node, firewalls)
    reconciler.reconcile()
    both = node.tables[CLIENT_FIREWALL, Side.DOWNSTREAM]

    del node.links[104]
    reconciler.reconcile()

    assert 4 not in node.entries
    assert node.tables[CLIENT_FIREWALL, Side.DOWNSTREAM] != both


def test_a_deleted_chain_leaves_nothing_behind(node: Node) -> None:
    pods = firewalls()
    reconciler = Reconciler(node, node, lambda: pods)
    reconciler.reconcile()

    pods = replace(pods, chains={})
    reconciler.reconcile()

    assert node.observe() == DataPlane()
    assert not any(one.filter_slot for one in node.list())
    assert CLIENT_FIREWALL in node.forgotten


def test_the_loop_survives_a_pass_that_fails(node: Node) -> None:
    reconciler = Reconciler(node, node, firewalls)
    node.broken = True
    stop = threading.Event()
    done = threading.Event()
    reconciler.observe_with(done.set)
    threading.Thread(target=reconciler.run, args=(stop,), daemon=True).start()
    reconciler.wake()

    failed = not done.wait(0.3)
    node.broken = False
    recovered = done.wait(5)
    stop.set()

    assert failed
    assert recovered

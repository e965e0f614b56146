"""The loop around the plan, with fakes of its two adapters. The real ones are tested in network namespaces."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest

from controller.node.plane.cluster import Cluster
from controller.node.plane.drain import Drain, NotDeletedError
from controller.node.plane.model import DataPlane, HostLink, LinkEntry, LinkState
from controller.node.plane.numbers import Numbered
from controller.node.plane.plan import Plan
from controller.node.plane.replica import replica_of
from controller.node.reconcile.deletions import Deletions
from controller.node.reconcile.drains import Drains
from controller.node.reconcile.reconciler import Reconciler
from controller.node.report.transition_log import TransitionLog
from kube.api import ApiError
from sfc.chain import Patience, SessionKey, Side
from sfc.reading import chain_of
from tests.unit.objects import chain, link, pod
from tests.unit.test_desired import CLIENT_FIREWALL, NUMBERS, cluster


class Node:
    """The links and maps of an imaginary node; it records every call, in order."""

    program_fd = 3

    def __init__(self, *links: HostLink) -> None:
        self.links = {one.ifindex: one for one in links}
        self.entries: dict[int, LinkEntry] = {}
        self.tables: dict[tuple[int, Side], bytes] = {}
        self.macs: dict[tuple[int, Side, str], str] = {}
        self.sessions: dict[int, int] = {}
        self.numbers: dict[int, Numbered] = dict(NUMBERS.named)
        self.patience: dict[int, Patience] = {}
        self.session_keys: dict[int, SessionKey] = {}
        self.members: dict[int, frozenset[int]] = {}
        self.forgotten: list[int] = []
        self.reset: list[set[int]] = []
        self.programs: dict[int, int] = {}
        self.broken = False

    def list(self) -> tuple[HostLink, ...]:
        return tuple(self.links.values())

    def attach(self, ifindex: int, slot: int, program: int, program_name: str) -> None:
        self.links[ifindex] = replace(self.links[ifindex], filter_slot=slot)
        self.programs[ifindex] = program

    def detach(self, ifindex: int) -> None:
        self.links[ifindex] = replace(self.links[ifindex], filter_slot=None)

    def observe(self, known: object = None) -> DataPlane:
        if self.broken:
            raise OSError("no maps today")
        return DataPlane(
            links=dict(self.entries),
            targets=dict(self.tables),
            neighbours=dict(self.macs),
            numbers=dict(self.numbers),
            patience=dict(self.patience),
            session_keys=dict(self.session_keys),
            members=dict(self.members),
        )

    def set_number(self, number: int, connection: Numbered) -> None:
        self.numbers[number] = connection

    def set_members(self, number: int, peers: Collection[int]) -> None:
        self.members[number] = frozenset(peers)

    def clear_members(self, number: int) -> None:
        self.members.pop(number, None)

    def set_patience(self, number: int, patience: Patience) -> None:
        self.patience[number] = patience

    def clear_patience(self, number: int) -> None:
        del self.patience[number]

    def set_session_key(self, number: int, key: SessionKey) -> None:
        self.session_keys[number] = key

    def clear_session_key(self, number: int) -> None:
        del self.session_keys[number]

    def set_link(self, slot: int, entry: LinkEntry) -> None:
        self.entries[slot] = entry

    def clear_link(self, slot: int) -> None:
        self.entries.pop(slot, None)

    def set_targets(self, connection: int, side: Side, table: bytes) -> None:
        self.tables[connection, side] = table

    def clear_targets(self, connection: int, side: Side) -> None:
        self.tables.pop((connection, side), None)

    def succeeding(self, programs: Collection[int]) -> AbstractContextManager[None]:
        return nullcontext()

    def set_neighbour(self, connection: int, side: Side, address: str, mac: str) -> None:
        self.macs[connection, side, address] = mac

    def clear_neighbour(self, connection: int, side: Side, address: str) -> None:
        self.macs.pop((connection, side, address), None)

    def unlearn(self, connection: int) -> None:
        pass

    def forget(self, connection: int) -> None:
        self.numbers.pop(connection, None)
        self.forgotten.append(connection)

    def sweep(self) -> None:
        pass

    def end_sessions(self, slots: Collection[int]) -> None:
        self.reset.append(set(slots))
        self.sessions = {slot: count for slot, count in self.sessions.items() if slot not in slots}

    def activity(self, slots: Collection[int]) -> Mapping[int, int]:
        return {slot: self.sessions.get(slot, 0) for slot in slots}


class Api:
    """What the API server answers when it is asked for deletions."""

    def __init__(self, *deleted: str) -> None:
        self.deleted = {f"uid-{name}" for name in deleted}
        self.away = False
        self.asked = 0

    def __call__(self) -> Collection[str]:
        self.asked += 1
        if self.away:
            raise ApiError(0, "NoAnswer", "no route to host")
        return self.deleted


def drains(api: Api, *inherited: Drain) -> Drains:
    return Drains(inherited, Deletions(api))


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


def look(reconciler: Reconciler) -> None:
    """Makes a pass, counts the sessions, and makes a pass that knows the count."""
    reconciler.reconcile()
    reconciler.sessions.count()
    reconciler.reconcile()


@contextmanager
def running(reconciler: Reconciler) -> Iterator[None]:
    stop = threading.Event()
    runs = (reconciler.run, reconciler.sessions.run, reconciler.confirm)
    loops = [threading.Thread(target=run, args=(stop,)) for run in runs]
    for thread in loops:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        reconciler.wake()
        for thread in loops:
            thread.join(60)


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
    look(reconciler)
    busy = states(node)
    node.sessions = {}
    look(reconciler)

    assert (busy[4], busy[5]) == (LinkState.DRAINING, LinkState.DRAINING)
    assert (states(node)[4], states(node)[5]) == (LinkState.GONE, LinkState.GONE)


def test_the_deadline_of_the_stage_ends_a_drain_whose_sessions_do_not(node: Node) -> None:
    clock = Clock()
    reconciler = Reconciler(node, node, lambda: firewalls(terminating=True), clock)
    node.sessions = {4: 2}
    look(reconciler)

    clock.now += 29.9
    look(reconciler)
    before = states(node)[4]
    clock.now += 0.2
    look(reconciler)

    assert (before, states(node)[4]) == (LinkState.DRAINING, LinkState.GONE)


def test_a_deadline_that_resets_ends_the_sessions_of_the_replica_before_it_leaves(node: Node) -> None:
    clock, obj = Clock(), chain()
    obj["spec"]["stages"][1]["drain"] = {"atDeadline": "reset"}
    pods = firewalls(terminating=True)
    pods = replace(pods, chains={("telco", "edge"): chain_of(obj)})
    reconciler = Reconciler(node, node, lambda: pods, clock)
    node.sessions = {4: 2}
    look(reconciler)

    clock.now += 30.1
    look(reconciler)
    before = states(node)[4], [*node.reset]
    reconciler.sessions.end()
    reconciler.reconcile()

    assert before == (LinkState.DRAINING, [])
    assert (states(node)[4], node.reset) == (LinkState.GONE, [{4, 5}])
    assert reconciler.state.drains["uid-firewall-2"].active_sessions == 2


def test_a_hook_is_answered_when_the_sessions_have_ended(node: Node) -> None:
    api = Api()
    reconciler = Reconciler(node, node, lambda: firewalls(terminating=True), drains=drains(api))
    reconciler.reconcile()
    node.sessions = {4: 1}
    answers = []

    def hook() -> None:
        answers.append(reconciler.drain("drain-firewall-2", time.monotonic(), timeout=60))

    with running(reconciler):
        caller = threading.Thread(target=hook)
        caller.start()
        caller.join(0.5)
        held = caller.is_alive()
        node.sessions = {}
        caller.join(60)

    assert held
    assert answers[0].ended
    assert states(node)[4] == LinkState.GONE
    assert api.asked == 0, "the watch has shown the deletion"


def test_a_hook_called_twice_is_one_drain_and_both_calls_are_answered(node: Node) -> None:
    reconciler = Reconciler(node, node, firewalls, drains=drains(Api("firewall-2")))
    node.sessions = {4: 1}
    answers = []

    def hook() -> None:
        answers.append(reconciler.drain("drain-firewall-2", time.monotonic(), timeout=60))

    with running(reconciler):
        callers = [threading.Thread(target=hook) for _ in range(2)]
        for caller in callers:
            caller.start()
            caller.join(0.2)
        node.sessions = {}
        for caller in callers:
            caller.join(60)
        hook()

    first, second, late = answers
    assert first == second == late
    assert first.ended


def test_a_hook_for_an_unknown_id_is_not_held(node: Node) -> None:
    reconciler = Reconciler(node, node, firewalls)

    assert reconciler.drain("no-such-id", time.monotonic(), timeout=60) is None


def test_a_drain_asked_for_before_the_api_server_was_heard_works(node: Node) -> None:
    seen: list[Cluster | None] = [firewalls()]
    reconciler = Reconciler(node, node, lambda: seen[0])
    reconciler.reconcile()
    restarted = Reconciler(node, node, lambda: None)

    with running(restarted):
        drain = restarted.drain("drain-firewall-2", time.monotonic(), timeout=60)

    assert drain and drain.ended
    assert states(node) == {slot: LinkState.GONE if slot in (4, 5) else LinkState.SERVING for slot in range(1, 6)}


def test_a_drain_goes_on_with_its_own_deadline_under_an_agent_that_does_not_know_the_cluster_yet(node: Node) -> None:
    clock = Clock()
    Reconciler(node, node, firewalls, clock).reconcile()
    left_behind = Drain(
        "uid-firewall-2", clock.now - 60, clock.now + 540, confirmed=True, out_of_targets_at=clock.now - 60
    )
    restarted = Reconciler(node, node, lambda: None, clock, drains=Drains([left_behind]))
    node.sessions = {4: 7}

    look(restarted)
    at_once = states(node)[4]
    clock.now += 539.9
    look(restarted)
    before = states(node)[4]
    clock.now += 0.2
    look(restarted)

    assert (at_once, before, states(node)[4]) == (LinkState.DRAINING, LinkState.DRAINING, LinkState.GONE)


def test_a_relabelled_replica_has_the_deadline_of_the_stage_that_it_was_made_for(node: Node) -> None:
    slow, obj = chain(), pod("firewall-2", "nowhere", terminating=True)
    slow["spec"]["stages"][1]["drain"] = {"deadlineSeconds": 600}
    replica = replica_of(obj)
    assert replica
    of = Cluster({("telco", "edge"): chain_of(slow)}, {replica.uid: replica})
    node.links = {
        index: replace(one, chain="edge", stage="firewall")
        for index, one in node.links.items()
        if one.pod_uid == replica.uid
    }
    node.sessions = {4: 1}
    reconciler = Reconciler(node, node, lambda: of, drains=drains(Api("firewall-2")))

    with running(reconciler):
        drain = hook(reconciler, "firewall-2", timeout=0.5)

    assert drain
    assert drain.deadline - drain.asked_at == pytest.approx(600)


def hook(reconciler: Reconciler, pod: str, timeout: float = 10) -> Drain | None:
    return reconciler.drain(f"drain-{pod}", time.monotonic(), timeout)


def test_a_hook_of_a_pod_that_nobody_deletes_is_refused_and_the_replica_keeps_its_place(node: Node) -> None:
    reconciler = Reconciler(node, node, firewalls, drains=drains(Api("firewall-1")))
    reconciler.reconcile()
    both = dict(node.tables)

    with running(reconciler), pytest.raises(NotDeletedError) as refused:
        hook(reconciler, "firewall-2")

    assert (refused.value.pod_uid, refused.value.undone) == ("uid-firewall-2", False)
    assert set(states(node).values()) == {LinkState.SERVING}
    assert node.tables == both


def test_a_deletion_that_only_the_api_server_shows_is_a_drain_at_once(node: Node) -> None:
    reconciler = Reconciler(node, node, firewalls, drains=drains(Api("firewall-2")))

    with running(reconciler):
        drain = hook(reconciler, "firewall-2")

    assert drain and drain.ended and drain.confirmed
    assert states(node)[4] == LinkState.GONE


def test_a_hook_is_believed_while_the_api_server_is_away_and_undone_when_it_shows_no_deletion(node: Node) -> None:
    api = Api()
    api.away = True
    reconciler = Reconciler(node, node, firewalls, drains=drains(api))
    node.sessions = {4: 1}
    answers: list[object] = []

    def call() -> None:
        try:
            answers.append(hook(reconciler, "firewall-2"))
        except NotDeletedError as error:
            answers.append(error.undone)

    with running(reconciler):
        caller = threading.Thread(target=call)
        caller.start()
        caller.join(1.5)
        believed, held = states(node)[4], caller.is_alive()
        api.away = False
        caller.join(10)

    assert (believed, held) == (LinkState.DRAINING, True)
    assert answers == [True]
    assert states(node)[4] == LinkState.SERVING


def test_a_believed_hook_that_was_answered_is_undone_too(node: Node) -> None:
    api = Api()
    api.away = True
    reconciler = Reconciler(node, node, firewalls, drains=drains(api))

    with running(reconciler):
        drain = hook(reconciler, "firewall-2")
        drained = states(node)[4]
        api.away = False
        back = eventually(lambda: states(node)[4] == LinkState.SERVING)

    assert drain and drain.ended and not drain.confirmed
    assert drained == LinkState.GONE
    assert back


def test_a_believed_drain_that_the_api_server_confirms_later_stays(node: Node) -> None:
    api = Api("firewall-2")
    api.away = True
    reconciler = Reconciler(node, node, firewalls, drains=drains(api))

    with running(reconciler):
        hook(reconciler, "firewall-2")
        api.away = False
        confirmed = eventually(lambda: reconciler.state.drains["uid-firewall-2"].confirmed)
        api.deleted = set()
        reconciler.drains.deletions.ask(time.monotonic())
        reconciler.wake()

    assert confirmed
    assert states(node)[4] == LinkState.GONE


def test_a_hook_that_nothing_confirms_never_takes_the_last_target_of_a_side(node: Node) -> None:
    api = Api()
    api.away = True
    reconciler = Reconciler(node, node, firewalls, drains=drains(api))

    with running(reconciler):
        first = hook(reconciler, "firewall-1")
        second = hook(reconciler, "firewall-2", timeout=0.3)
        only = hook(reconciler, "client-1", timeout=0.3)
        spared = states(node)
        api.away = False
        back = eventually(lambda: set(states(node).values()) == {LinkState.SERVING})

    assert first and first.ended
    assert second and not second.ended
    assert only and not only.ended
    assert [spared[slot] for slot in range(1, 6)] == [
        LinkState.SERVING,
        LinkState.GONE,
        LinkState.GONE,
        LinkState.SERVING,
        LinkState.SERVING,
    ]
    assert back


def test_an_unconfirmed_drain_ends_when_its_replica_is_the_last_one_left(node: Node) -> None:
    api, pods = Api(), firewalls()
    api.away = True
    reconciler = Reconciler(node, node, lambda: pods, drains=drains(api))

    with running(reconciler):
        hook(reconciler, "firewall-1")
        alone = states(node)[2]
        pods = firewalls(terminating=True)
        reconciler.wake()
        back = eventually(lambda: states(node)[2] == LinkState.SERVING)

    assert alone == LinkState.GONE
    assert back
    assert states(node)[4] != LinkState.SERVING


@pytest.fixture
def copied(node: Node) -> Node:
    """Both firewalls have one drain id."""
    for number in (102, 103):
        node.links[number] = replace(node.links[number], drain_id="drain-firewall-2")
    return node


def test_of_two_pods_with_one_drain_id_the_one_that_is_deleted_drains(copied: Node) -> None:
    reconciler = Reconciler(copied, copied, firewalls, drains=drains(Api("firewall-2")))

    with running(reconciler):
        drain = hook(reconciler, "firewall-2")

    assert drain and drain.pod_uid == "uid-firewall-2"
    assert (states(copied)[2], states(copied)[4]) == (LinkState.SERVING, LinkState.GONE)


@pytest.mark.parametrize("away", [False, True])
def test_of_two_pods_with_one_drain_id_none_drains_if_no_deletion_shows_which_is_meant(
    copied: Node, away: bool
) -> None:
    api = Api()
    api.away = away
    reconciler = Reconciler(copied, copied, firewalls, drains=drains(api))

    with running(reconciler), pytest.raises(NotDeletedError):
        hook(reconciler, "firewall-2")

    assert not reconciler.state.drains


def test_a_drain_that_was_taken_over_without_confirmation_is_asked_about(node: Node) -> None:
    told = Drain("uid-firewall-2", time.monotonic() - 5, time.monotonic() + 25, out_of_targets_at=time.monotonic() - 5)
    reconciler = Reconciler(node, node, firewalls, drains=drains(Api(), told))
    node.sessions = {4: 1}

    with running(reconciler):
        reconciler.wake()
        draining = states(node)[4]
        back = eventually(lambda: states(node)[4] == LinkState.SERVING)

    assert draining == LinkState.DRAINING
    assert back


def eventually(look: Callable[[], bool], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while not look() and time.monotonic() < until:
        time.sleep(0.01)
    return look()


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


def test_a_pass_for_an_event_observes_nothing_anew_and_one_after_a_failure_everything(node: Node) -> None:
    pods = firewalls()
    reconciler = Reconciler(node, node, lambda: pods)
    reconciler.reconcile()
    observed, node.observe = node.observe, refuse  # type: ignore[method-assign]

    pods = firewalls(ready=False)
    reconciler.reconcile(verify=False)
    after_event = states(node)[4]
    pods = firewalls()
    node.list = refuse  # type: ignore[method-assign]
    reconciler.links_changed()
    with pytest.raises(AssertionError, match="not to be called"):
        reconciler.reconcile(verify=False)
    del node.list
    node.observe = observed  # type: ignore[method-assign]
    node.entries.clear()
    reconciler.reconcile(verify=False)

    assert after_event == LinkState.WIRED
    assert set(states(node).values()) == {LinkState.SERVING}


def test_a_pass_for_the_news_of_one_pod_does_not_put_the_whole_plan_together(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = firewalls()
    reconciler = Reconciler(node, node, lambda: pods)
    reconciler.observe_with(TransitionLog(lambda _: None).note)
    reconciler.reconcile()
    reconciler.reconcile()
    monkeypatch.setattr(Plan, "plane", property(refuse))

    pods = firewalls(ready=False)
    reconciler.reconcile(verify=False)
    pods = firewalls(terminating=True)
    reconciler.reconcile(verify=False)

    assert states(node)[4] == LinkState.DRAINING


def refuse(*_: object) -> Any:
    raise AssertionError("not to be called")


def test_links_are_read_again_when_the_kernel_says_that_one_changed(node: Node) -> None:
    reconciler = Reconciler(node, node, firewalls)
    reconciler.reconcile()
    reconciler.reconcile()

    node.links[104] = replace(node.links[104], up=False)
    reconciler.reconcile(verify=False)
    unheard = states(node)[4]
    reconciler.links_changed()
    reconciler.reconcile(verify=False)

    assert unheard == LinkState.SERVING
    assert (states(node)[4], states(node)[5]) == (LinkState.GONE, LinkState.GONE)


def test_the_loop_survives_a_pass_that_fails(node: Node) -> None:
    reconciler = Reconciler(node, node, firewalls)
    node.broken = True
    stop = threading.Event()
    done = threading.Event()
    reconciler.observe_with(lambda _: done.set())
    threading.Thread(target=reconciler.run, args=(stop,), daemon=True).start()
    reconciler.wake()

    failed = not done.wait(0.3)
    node.broken = False
    recovered = done.wait(60)
    stop.set()

    assert failed
    assert recovered

"""observe → plan → apply, again and again: all that changes the data path, and the only retry.

Events (netlink, watches, the PreStop hook) only say that there is news; who brings it makes a pass, unless one is under
way. There is no state of its own but the drains in progress: who asked, and since when. What was observed may be used
again, since nobody else changes the data path: links are read again when the kernel says that one changed, everything
after a pass that failed, and in any case every few seconds. So a pass for one event costs the plan of the chains that
it concerns, and the writes.

Sessions of draining replicas are counted in a thread of their own, for a full table takes a tenth of a second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from controller.node.plane import desired as plan
from controller.node.plane import drain as drains_
from controller.node.plane import maglev
from controller.node.plane.desired import Cluster, Plan, State
from controller.node.plane.drain import Drain, RetiredError
from controller.node.plane.model import PROGRAM, DataPlane, HostLink, LinkEntry
from controller.node.plane.sessions import DEFAULT_TIMEOUTS, Timeouts
from kube.backoff import Backoff
from sfc import names
from sfc.chain import Side

log = logging.getLogger(__name__)

VERIFY_SECONDS = 10.0
"""Between two passes that observe everything: drift is mended at the latest after this time."""
DRAINING_SECONDS = 0.2
"""Between two looks at the sessions of draining replicas."""
STOP_SECONDS = 1.0
"""Until a thread that has nothing to do notices that it should end."""
RETRY = Backoff(first=0.1, longest=5.0)
"""After a pass that failed."""


class Links(Protocol):
    def list(self) -> tuple[HostLink, ...]: ...
    def attach(self, ifindex: int, slot: int, program: int, program_name: str) -> None: ...
    def detach(self, ifindex: int) -> None: ...


class Datapath(Protocol):
    program_fd: int

    def observe(self, known: Mapping[tuple[int, Side], bytes]) -> DataPlane: ...
    def set_link(self, slot: int, entry: LinkEntry) -> None: ...
    def clear_link(self, slot: int) -> None: ...
    def set_targets(self, connection: int, side: Side, table: bytes) -> None: ...
    def clear_targets(self, connection: int, side: Side) -> None: ...
    def set_neighbour(self, connection: int, side: Side, address: str, mac: str) -> None: ...
    def clear_neighbour(self, connection: int, side: Side, address: str) -> None: ...
    def succeeding(self, programs: Collection[int]) -> AbstractContextManager[None]: ...
    def forget(self, connection: int) -> None: ...
    def activity(self, slots: Collection[int], *, timeouts: Timeouts) -> Mapping[int, int]: ...


class Reconciler:
    """Owns the data path. `cluster` gives what the API server says, or None before it was ever heard."""

    def __init__(
        self,
        links: Links,
        datapath: Datapath,
        cluster: Callable[[], Cluster | None],
        clock: Callable[[], float] = time.monotonic,
        drains: Iterable[Drain] = (),
    ) -> None:
        """`drains`: those that the agent that led before had in progress."""
        self._links = links
        self._datapath = datapath
        self._cluster = cluster
        self._clock = clock
        self._state = State()
        self._requests: dict[str, Drain] = {drain.pod_uid: drain for drain in drains}
        self._retired = False
        self._changed = threading.Condition()
        self._woken = threading.Event()
        self._woken_at: float | None = None
        """When the first news came that no pass has taken into account yet; None when there is none."""
        self._passing = threading.Lock()
        self._running = False
        self._observers: list[Callable[[State], None]] = []
        self._links_known: plan.Links | None = None
        """As they were last listed; None when the pass before failed."""
        self._other_programs: frozenset[int] = frozenset()
        """Of other processes, in filters that were listed and are about to get the program of this one."""
        self._links_changed = threading.Event()
        self._last_pass = self._last_verification = clock()
        self._counted: tuple[float, Mapping[str, int]] = (clock(), {})
        """When the sessions of draining replicas were counted, and how many were active, by pod."""
        self._prepared = Plan()
        self._own_program: set[int] = set()
        """Links whose filter holds the program of this process; before, it may be an earlier version's."""

    @property
    def state(self) -> State:
        return self._state

    def age_seconds(self) -> float:
        """Since the last pass ended, well or not: a loop that hangs shows here."""
        return self._clock() - self._last_pass

    def observe_with(self, observer: Callable[[State], None]) -> None:
        """`observer` is called with what each pass left behind; it must be cheap."""
        self._observers.append(observer)

    def wake(self) -> None:
        """There is news. Unless a pass is under way, the thread that brings it makes one: it has a processor already,
        for which the loop's thread might have to wait."""
        if self._woken_at is None:
            self._woken_at = self._clock()
        if self._passing.acquire(blocking=False):
            try:
                if self._running:
                    self.reconcile(verify=False)
            except Exception:
                log.exception("reconcile pass failed; the loop tries again")
                self._woken_at = self._clock()
            finally:
                self._passing.release()
        self._woken.set()

    def links_changed(self) -> None:
        self._links_changed.set()
        self.wake()

    def run(self, stop: threading.Event) -> None:
        failures = 0
        self._running = True
        while not stop.is_set():
            woken = self._woken.wait(DRAINING_SECONDS if self._unfinished() else VERIFY_SECONDS)
            self._woken.clear()
            try:
                with self._passing:
                    if not woken or self._woken_at is not None:
                        self.reconcile(verify=False)
                    if self._clock() - self._last_verification >= VERIFY_SECONDS:
                        self.reconcile()
                self._prepare()
                failures = 0
            except Exception:
                failures += 1
                pause = RETRY.seconds(failures)
                log.exception("reconcile pass failed", extra={"retry_seconds": round(pause, 2)})
                stop.wait(pause)
                self._woken_at = self._clock()
                self._woken.set()
            self._last_pass = self._clock()
        with self._passing:
            self._running = False

    def count_sessions(self, stop: threading.Event, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> None:
        """Counts, as long as replicas drain; to run in a thread of its own."""
        while not stop.is_set():
            with self._changed:
                self._changed.wait_for(self._unfinished, STOP_SECONDS)
            try:
                self.count(timeouts)
            except Exception:
                log.exception("sessions of draining replicas could not be counted")
            stop.wait(DRAINING_SECONDS)

    def reconcile(self, verify: bool = True) -> None:
        """One pass; with `verify`, nothing that was observed before is used. Raises what the adapters raise; whatever
        was applied by then stays, and is observed next time."""
        woken_at = self._take_wake()
        cluster = self._cluster()
        left = self._state.plan
        links, observed = self._observe(verify)
        drains = self._drains(cluster, links)
        wanted = plan.desired(cluster, links, drains, observed or left, left)
        with self._datapath.succeeding(self._other_programs):
            applied = self._apply(plan.changes(observed or left, wanted))
        now = self._clock()
        advanced = {uid: self._advance(drain, now) for uid, drain in drains.items()}
        if any(advanced[uid].ended and not drains[uid].ended for uid in drains):
            final = plan.desired(cluster, links, advanced, wanted, wanted)
            applied += self._apply(plan.changes(wanted, final))
            wanted = final
        self._links_known = links
        self._publish(State(cluster, wanted, advanced, woken_at, now))
        if applied:
            _log_changes(applied, cluster.connection_names() if cluster else {})

    def count(self, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> None:
        """Counts the active sessions of the replicas that are out of the targets but not done."""
        drains, links, began = self._state.drains, self._state.links, self._clock()
        slots = {
            uid: [link.slot for link in links.get(uid, ())]
            for uid, drain in drains.items()
            if drain.out_of_targets_at is not None and not drain.ended
        }
        if slots:
            active = self._datapath.activity([slot for of_pod in slots.values() for slot in of_pod], timeouts=timeouts)
            self._counted = began, {uid: sum(active.get(slot, 0) for slot in slots[uid]) for uid in slots}
            self.wake()

    def drain(self, drain_id: str, asked_at: float, timeout: float) -> Drain | None:
        """Take the replica out of all targets and wait until its sessions are idle or its deadline has passed.

        None when no link of this node has that drain id; the hook must then not hold the pod. `timeout` (seconds)
        bounds the wait if the data path cannot be changed at all. Raises RetiredError when another
        agent is to be asked.
        """
        uid = _pod_of(drain_id, self._state.links) or _pod_of(drain_id, plan.by_pod(self._links.list()))
        if uid is None:
            return None
        with self._changed:
            known = self._state.drains.get(uid)
            if known is None or asked_at < known.asked_at:
                self._requests.setdefault(uid, self._begin(uid, self._cluster(), asked_at))
        self.wake()
        with self._changed:
            self._changed.wait_for(lambda: self._retired or self._finished(uid), timeout)
            if self._retired and not self._finished(uid):
                raise RetiredError
            return self._state.drains.get(uid) or self._requests.get(uid)

    def retire(self) -> tuple[Drain, ...]:
        """The drains in progress, to be gone on with by another; to be called when `run` has ended."""
        with self._changed:
            self._retired = True
            self._changed.notify_all()
            return tuple({**self._requests, **self._state.drains}.values())

    def _finished(self, uid: str) -> bool:
        drain = self._state.drains.get(uid)
        return drain.ended if drain else uid not in self._requests

    def _unfinished(self) -> bool:
        return any(not drain.ended for drain in self._state.drains.values())

    def _prepare(self) -> None:
        """Makes, while nothing else is to do, the tables that the next event will probably ask for: they are cached."""
        current = self._state.plan
        for replicas in plan.likely_targets(current) if self._prepared.parts != current.parts else ():
            if self._woken.is_set() or self._woken_at is not None:
                return
            maglev.table(replicas)
        self._prepared = current

    def _take_wake(self) -> float:
        """When the first of the events came that this pass is for."""
        woken_at, self._woken_at = self._woken_at, None
        return self._clock() if woken_at is None else woken_at

    def _observe(self, verify: bool) -> tuple[plan.Links, DataPlane | None]:
        """The links, and what is in the data path if that may be something else than the last pass left.

        Forgets what was observed: only a pass that ends well leaves something to rely on."""
        known, self._links_known = self._links_known, None
        stale = self._links_changed.is_set()
        self._links_changed.clear()
        if known is not None and not verify and not stale:
            return known, None
        links = self._links.list()
        self._own_program &= {link.ifindex for link in links}
        self._other_programs = frozenset(
            link.program for link in links if link.program and link.ifindex not in self._own_program
        )
        if known is not None and not verify:
            plane = self._state.plane
        else:
            plane, self._last_verification = self._datapath.observe(self._state.plane.targets), self._clock()
        filters = {link.ifindex: self._filter_slot(link) for link in links if link.filter_slot is not None}
        return plan.by_pod(links), replace(plane, filters=filters)

    def _begin(self, uid: str, cluster: Cluster | None, asked_at: float) -> Drain:
        replica = cluster.replicas.get(uid) if cluster else None
        chain = cluster.chain_of(replica) if cluster and replica else None
        stage = chain.stage(replica.stage) if chain and replica else None
        seconds = stage.drain_deadline_seconds if stage else names.DEFAULT_DRAIN_DEADLINE_SECONDS
        return Drain(uid, replica.incarnation if replica else "", asked_at, deadline=asked_at + seconds)

    def _drains(self, cluster: Cluster | None, links: plan.Links) -> dict[str, Drain]:
        replicas = cluster.replicas if cluster else {}
        with self._changed:
            asked, drains = dict(self._requests), dict(self._state.drains)
        for uid, request in asked.items():
            drains[uid] = drains_.earlier(drains[uid], request) if uid in drains else request
        for replica in cluster.terminating if cluster else ():
            if replica.uid in links and replica.uid not in drains:
                drains[replica.uid] = self._begin(replica.uid, cluster, self._clock())
        return {
            uid: drain
            for uid, drain in drains.items()
            if uid in links and not (uid in replicas and drains_.undone(drain, replicas[uid]))
        }

    def _apply(self, changes: Iterable[plan.Change]) -> tuple[plan.Change, ...]:
        ordered = tuple(changes)
        for change in ordered:
            self._change(change)
        return ordered

    def _filter_slot(self, link: HostLink) -> int:
        """0, which no link has, makes the plan attach the filter anew, which replaces the program in it."""
        return (link.filter_slot or 0) if link.ifindex in self._own_program else 0

    def _change(self, change: plan.Change) -> None:
        match change:
            case plan.AttachFilter(ifindex, slot):
                self._links.attach(ifindex, slot, self._datapath.program_fd, PROGRAM)
                self._own_program.add(ifindex)
                self._links_changed.set()
            case plan.DetachFilter(ifindex):
                self._links.detach(ifindex)
                self._links_changed.set()
            case plan.SetLink(slot, entry):
                self._datapath.set_link(slot, entry)
            case plan.ClearLink(slot):
                self._datapath.clear_link(slot)
            case plan.SetTargets(connection, side, table):
                self._datapath.set_targets(connection, side, table)
            case plan.ClearTargets(connection, side):
                self._datapath.clear_targets(connection, side)
            case plan.SetNeighbour(connection, side, address, mac):
                self._datapath.set_neighbour(connection, side, address, mac)
            case plan.ClearNeighbour(connection, side, address):
                self._datapath.clear_neighbour(connection, side, address)
            case plan.Forget(connection):
                self._datapath.forget(connection)

    def _advance(self, drain: Drain, now: float) -> Drain:
        """After a pass, which has taken the replica out of all targets."""
        counted_at, active = self._counted
        counted = drain.out_of_targets_at is not None and counted_at >= drain.out_of_targets_at
        return drains_.advance(drain, active_sessions=active.get(drain.pod_uid) if counted else None, now=now)

    def _publish(self, state: State) -> None:
        with self._changed:
            self._state = state
            self._requests = {
                uid: drain for uid, drain in self._requests.items() if uid in state.links and uid not in state.drains
            }
            self._changed.notify_all()
        for observer in self._observers:
            observer(state)


def _pod_of(drain_id: str, links: plan.Links) -> str | None:
    return next((uid for uid, of_pod in links.items() if any(link.drain_id == drain_id for link in of_pod)), None)


def _log_changes(changes: Iterable[plan.Change], names_: Mapping[int, str]) -> None:
    """`names_`: of the cross-connections, by number."""

    def shown(number: int, side: Side) -> dict[str, str | int]:
        return {"cross_connection": names_.get(number, number), "side": side.name.lower()}

    for change in changes:
        match change:
            case plan.SetLink(slot, entry):
                where = shown(entry.connection, entry.side)
                log.info("link set", extra={"slot": slot, "state": entry.state.name.lower(), **where})
            case plan.ClearLink(slot):
                log.info("link cleared", extra={"slot": slot})
            case plan.SetTargets(connection, side, _):
                log.info("targets set", extra=shown(connection, side))
            case plan.ClearTargets(connection, side):
                log.info("targets cleared", extra=shown(connection, side))

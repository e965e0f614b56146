"""observe → plan → apply, again and again: the only loop that changes the data path, and the only retry.

Events (netlink, watches, the PreStop hook) only wake it. Everything it knows is read anew in each pass, except the
drains in progress: who asked, and since when.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Protocol

from controller import drain as drains_
from controller import plan
from controller.drain import Drain
from controller.model import PROGRAM, DataPlane, HostLink, LinkEntry, LinkState
from controller.plan import Cluster, State
from sfc import names
from sfc.chain import Side

log = logging.getLogger(__name__)

IDLE_SECONDS = 10.0
"""Between two passes that nothing woke: drift is mended at the latest after this time."""
DRAINING_SECONDS = 0.2
"""Between two looks at the sessions of draining replicas."""
RETRY_SECONDS = (0.1, 5.0)
"""First and longest pause after a pass that failed."""


class Links(Protocol):
    def list(self) -> tuple[HostLink, ...]: ...
    def attach(self, ifindex: int, slot: int, program: int, program_name: str) -> None: ...
    def detach(self, ifindex: int) -> None: ...


class Datapath(Protocol):
    program_fd: int

    def observe(self) -> DataPlane: ...
    def set_link(self, slot: int, entry: LinkEntry) -> None: ...
    def clear_link(self, slot: int) -> None: ...
    def set_targets(self, connection: int, side: Side, table: bytes) -> None: ...
    def clear_targets(self, connection: int, side: Side) -> None: ...
    def set_neighbour(self, connection: int, side: Side, address: str, mac: str) -> None: ...
    def clear_neighbour(self, connection: int, side: Side, address: str) -> None: ...
    def forget(self, connection: int) -> None: ...
    def activity(self, slots: Collection[int]) -> Mapping[int, int]: ...


class Reconciler:
    """Owns the data path. `cluster` gives what the API server says, or None before it was ever heard."""

    def __init__(
        self,
        links: Links,
        datapath: Datapath,
        cluster: Callable[[], Cluster | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._links = links
        self._datapath = datapath
        self._cluster = cluster
        self._clock = clock
        self._state = State()
        self._requests: dict[str, Drain] = {}
        self._changed = threading.Condition()
        self._woken = threading.Event()
        self._observers: list[Callable[[], None]] = []
        self._last_pass = clock()
        self._own_program: set[int] = set()
        """Links whose filter holds the program of this process; before, it may be an earlier version's."""

    @property
    def state(self) -> State:
        return self._state

    def age_seconds(self) -> float:
        """Since the last pass ended, well or not: a loop that hangs shows here."""
        return self._clock() - self._last_pass

    def observe_with(self, observer: Callable[[], None]) -> None:
        """`observer` is called after each pass; it must be cheap."""
        self._observers.append(observer)

    def wake(self) -> None:
        self._woken.set()

    def run(self, stop: threading.Event) -> None:
        pause = 0.0
        while not stop.is_set():
            self._woken.wait(pause or (DRAINING_SECONDS if self._unfinished() else IDLE_SECONDS))
            self._woken.clear()
            try:
                self.reconcile()
                pause = 0.0
            except Exception:
                pause = min(max(RETRY_SECONDS[0], pause * 2), RETRY_SECONDS[1])
                log.exception("reconcile pass failed", extra={"retry_seconds": round(pause, 2)})
                stop.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                self._woken.set()
            self._last_pass = self._clock()

    def reconcile(self) -> None:
        """One pass. Raises what the adapters raise; whatever was applied by then stays and is observed next time."""
        cluster = self._cluster()
        links = self._links.list()
        drains = self._drains(cluster, links)
        plane = self._apply(cluster, links, drains)
        advanced = self._advance(drains, links, plane)
        if any(advanced[uid].ended and not drains[uid].ended for uid in drains):
            plane = self._apply(cluster, links, advanced)
        self._publish(State(cluster, links, plane, advanced))

    def drain(self, drain_id: str, timeout: float) -> Drain | None:
        """Take the replica out of all targets and wait until its sessions are idle or its deadline has passed.

        None when no link of this node has that drain id; the hook must then not hold the pod. `timeout` (seconds)
        bounds the wait if the data path cannot be changed at all.
        """
        uid = _pod_of(drain_id, self._state.links) or _pod_of(drain_id, self._links.list())
        if uid is None:
            return None
        with self._changed:
            if uid not in self._state.drains:
                self._requests.setdefault(uid, self._begin(uid, self._cluster()))
            self._woken.set()
            self._changed.wait_for(lambda: self._finished(uid), timeout)
            return self._state.drains.get(uid) or self._requests.get(uid)

    def _finished(self, uid: str) -> bool:
        drain = self._state.drains.get(uid)
        return drain.ended if drain else uid not in self._requests

    def _unfinished(self) -> bool:
        return any(not drain.ended for drain in self._state.drains.values())

    def _begin(self, uid: str, cluster: Cluster | None) -> Drain:
        replica = cluster.replicas.get(uid) if cluster else None
        chain = cluster.chain_of(replica) if cluster and replica else None
        stage = chain.stage(replica.stage) if chain and replica else None
        seconds = stage.drain_deadline_seconds if stage else names.DEFAULT_DRAIN_DEADLINE_SECONDS
        now = self._clock()
        log.info("drain asked for", extra={"pod": replica.path if replica else uid, "deadline_seconds": seconds})
        return Drain(uid, replica.incarnation if replica else "", asked_at=now, deadline=now + seconds)

    def _drains(self, cluster: Cluster | None, links: tuple[HostLink, ...]) -> dict[str, Drain]:
        present = {link.pod_uid for link in links}
        replicas = cluster.replicas if cluster else {}
        with self._changed:
            drains = {**self._requests, **self._state.drains}
        for uid, replica in replicas.items():
            if replica.terminating and uid in present and uid not in drains:
                drains[uid] = self._begin(uid, cluster)
        return {
            uid: drain
            for uid, drain in drains.items()
            if uid in present and not (uid in replicas and drains_.undone(drain, replicas[uid]))
        }

    def _apply(self, cluster: Cluster | None, links: tuple[HostLink, ...], drains: Mapping[str, Drain]) -> DataPlane:
        self._own_program &= {link.ifindex for link in links}
        filters = {link.ifindex: self._filter_slot(link) for link in links if link.filter_slot is not None}
        actual = replace(self._datapath.observe(), filters=filters)
        wanted = plan.desired(cluster, links, drains, actual)
        for change in plan.changes(actual, wanted):
            self._change(change)
            _log_change(change, cluster)
        return wanted

    def _filter_slot(self, link: HostLink) -> int:
        """0, which no link has, makes the plan attach the filter anew, which replaces the program in it."""
        return (link.filter_slot or 0) if link.ifindex in self._own_program else 0

    def _change(self, change: plan.Change) -> None:
        match change:
            case plan.AttachFilter(ifindex, slot):
                self._links.attach(ifindex, slot, self._datapath.program_fd, PROGRAM)
                self._own_program.add(ifindex)
            case plan.DetachFilter(ifindex):
                self._links.detach(ifindex)
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

    def _advance(self, drains: Mapping[str, Drain], links: tuple[HostLink, ...], plane: DataPlane) -> dict[str, Drain]:
        slots = {uid: [link.slot for link in links if link.pod_uid == uid] for uid in drains}
        watched = [slot for uid, drain in drains.items() if not drain.ended for slot in slots[uid]]
        now = self._clock()
        active = self._datapath.activity(watched) if watched else {}
        return {
            uid: drains_.advance(
                drain,
                in_targets=any(_serving(plane.links.get(slot)) for slot in slots[uid]),
                active_sessions=sum(active.get(slot, 0) for slot in slots[uid]),
                now=now,
            )
            for uid, drain in drains.items()
        }

    def _publish(self, state: State) -> None:
        for uid, drain in state.drains.items():
            _log_progress(state, self._state.drains.get(uid), drain)
        present = {link.pod_uid for link in state.links}
        with self._changed:
            self._state = state
            self._requests = {
                uid: drain for uid, drain in self._requests.items() if uid in present and uid not in state.drains
            }
            self._changed.notify_all()
        for observer in self._observers:
            observer()


def _pod_of(drain_id: str, links: tuple[HostLink, ...]) -> str | None:
    return next((link.pod_uid for link in links if link.drain_id == drain_id), None)


def _serving(entry: LinkEntry | None) -> bool:
    return entry is not None and entry.state == LinkState.SERVING


def _log_change(change: plan.Change, cluster: Cluster | None) -> None:
    match change:
        case plan.SetLink(slot, entry):
            where = _shown(cluster, entry.connection, entry.side)
            log.info("link set", extra={"slot": slot, "state": entry.state.name.lower(), **where})
        case plan.ClearLink(slot):
            log.info("link cleared", extra={"slot": slot})
        case plan.SetTargets(connection, side, _):
            log.info("targets set", extra=_shown(cluster, connection, side))
        case plan.ClearTargets(connection, side):
            log.info("targets cleared", extra=_shown(cluster, connection, side))


def _shown(cluster: Cluster | None, number: int, side: Side) -> dict[str, str | int]:
    name = cluster.connection_name(number) if cluster else None
    return {"cross_connection": name or number, "side": side.name.lower()}


def _log_progress(state: State, before: Drain | None, drain: Drain) -> None:
    replica = state.cluster.replicas.get(drain.pod_uid) if state.cluster else None
    fields = {"pod": replica.path if replica else drain.pod_uid}
    if drain.out_of_targets_at and not (before and before.out_of_targets_at):
        milliseconds = round((drain.out_of_targets_at - drain.asked_at) * 1000, 1)
        log.info("replica out of all targets", extra=fields | {"after_ms": milliseconds})
    if drain.ended_at and not (before and before.ended_at):
        seconds = round(drain.ended_at - drain.asked_at, 3)
        log.info("drain ended", extra=fields | {"after_seconds": seconds, "sessions_left": drain.active_sessions})

"""observe → plan → apply, again and again: the only loop that changes the data path, and the only retry.

An event (from netlink, a watch or the PreStop hook) only says that there is news. A pass compares what is with what
should be, and has no state of its own but the drains in progress. What the last pass left in the data path need not be
read again (node_view), so a pass for one event costs the plan of its chain, and the writes. Every few seconds a pass
reads everything, and so mends whatever else has happened.

Threads: passes run one at a time, under the lock `_passing`. The loop's thread runs them, and so does any thread that
calls `wake` while none is running. Only a pass uses the NodeView and the Applier. What a pass left is one immutable
State, which is replaced as a whole, so that reading it needs no lock. Hooks wait in `drains`. `confirm` and the session
counter have threads of their own. No thread holds the lock of `drains` while it runs a pass.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from controller.node.plane import maglev, refusals
from controller.node.plane.changes import changes
from controller.node.plane.cluster import AsMade, ChainKey, Cluster
from controller.node.plane.desired import desired
from controller.node.plane.drain import Drain, NotDeletedError, advance, begin, spared
from controller.node.plane.foreseen import likely_targets
from controller.node.plane.model import DataPlane, LinksByPod, by_pod
from controller.node.plane.plan import Plan, Refusal, State
from controller.node.plane.refusals import Outcome
from controller.node.reconcile.applier import Applier, log_changes
from controller.node.reconcile.deletions import ASK_SECONDS
from controller.node.reconcile.drains import Drains
from controller.node.reconcile.node_view import NodeView
from controller.node.reconcile.protocols import DataPathWriter, LinkFilters
from controller.node.reconcile.session_counter import SessionCounter
from kube.backoff import Backoff
from sfc import threads
from sfc.chain import AtDeadline

log = logging.getLogger(__name__)

VERIFY_SECONDS = 10.0
"""Between two passes that read everything: drift is mended after this time at the latest."""
DRAINING_SECONDS = 0.2
"""Between two passes while a replica drains: the most by which a deadline is overrun."""
REFUSED_SECONDS = 1.0
"""Between two passes while the kernel refuses a chain's part."""
WATCH_SECONDS = 0.1
"""For the watch to show the deletion that the kubelet has seen. Only then is the API server asked."""
RETRY = Backoff(first=0.1, longest=5.0)
"""After a pass that failed."""


class Reconciler:
    """Owns the data path while this agent leads its node."""

    def __init__(
        self,
        links: LinkFilters,
        datapath: DataPathWriter,
        cluster: Callable[[], Cluster | None],
        clock: Callable[[], float] = time.monotonic,
        drains: Drains | None = None,
    ) -> None:
        """`cluster` gives what the API server says, or None until it has been heard. `clock` is monotonic, in seconds.
        `drains` may have some that another agent began."""
        self._links = links
        self._datapath = datapath
        self._cluster = cluster
        self._clock = clock
        self._node = NodeView(links, datapath, clock)
        self._applier = Applier(links, datapath, self._node)
        self._as_made = AsMade()
        self.drains = drains or Drains()
        """To retire, when `run` has ended."""
        self.sessions = SessionCounter(datapath, self.drains, lambda: self._state, self.wake, clock)
        """To run beside `run`, in a thread of its own."""
        self._state = State()
        self._observers: list[Callable[[State], None]] = []
        self._passing = threading.Lock()
        """Held during a pass."""
        self._running = False
        """Whether `wake` may run passes: the loop has begun and not ended. Changes under `_passing` at the end."""
        self._woken = threading.Event()
        self._woken_at: float | None = None
        """When the first event came that no pass has taken into account yet; None when there is none."""
        self._prepared = Plan()

    @property
    def state(self) -> State:
        """What the last pass left behind; an empty State before the first."""
        return self._state

    def observe_with(self, observer: Callable[[State], None]) -> None:
        """`observer` is called after each pass with what it left behind, in the thread of the pass: it must be cheap.
        To be called before the loop runs."""
        self._observers.append(observer)

    def wake(self) -> None:
        """There is news. The notifying thread runs the pass itself unless one is already running: it has a processor
        already, while the loop's thread might have to wait for one."""
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
        """There is news of the node's links: the next pass lists them again."""
        self._node.links_changed()
        self.wake()

    def run(self, stop: threading.Event) -> None:
        """The loop, until `stop` is set and the thread is woken. A pass that fails is logged and retried."""
        failures = 0
        self._running = True
        while not stop.is_set():
            threads.beat()
            woken = self._woken.wait(self._pause())
            self._woken.clear()
            try:
                with self._passing:
                    if not woken or self._woken_at is not None:
                        self.reconcile(verify=False)
                    if self._clock() - self._node.verified_at >= VERIFY_SECONDS:
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
        with self._passing:
            self._running = False

    def confirm(self, stop: threading.Event) -> None:
        """Asks the API server about drains that no deletion has confirmed, until `stop`. To run beside `run`, in a
        thread of its own."""
        while not stop.wait(ASK_SECONDS):
            threads.beat()
            if self.drains.unconfirmed:
                self.drains.deletions.ask(self._clock())
                self.wake()

    def reconcile(self, verify: bool = True) -> None:
        """One pass; with `verify`, it reads links and maps in any case.

        Not to be called beside another pass. What goes wrong with one chain stays in it (State.refused). Raises what
        the kernel's adapters raise when they read; the next pass then observes everything.
        """
        woken_at = self._take_wake()
        cluster = self._cluster()
        left = self._state.plan
        links, observed = self._node.observe(left, verify)
        cluster = self._as_made(cluster, links) if cluster else None
        drains = self.drains.in_progress(cluster, links.keys(), self._clock())
        for uid in self._state.drains.keys() - drains.keys():
            if uid in links:
                log.warning("drain undone: the API server shows no deletion of the pod", extra={"pod_uid": uid})
        waiting = self._spared(cluster, links, drains, observed or left)
        drains = {uid: drain for uid, drain in drains.items() if uid not in waiting}
        wanted = desired(cluster, links, drains, observed or left, left)
        with self._datapath.succeeding(self._node.other_programs):
            outcome, applied = self._carry_out(left, observed or left, wanted)
        advanced = self._advanced(drains, cluster, outcome)
        if any(advanced[uid].ended and not drains[uid].ended for uid in drains):
            final = desired(cluster, links, advanced, applied, applied)
            more, applied = self._carry_out(applied, applied, final)
            outcome = Outcome(outcome.done + more.done, {**outcome.refused, **more.refused})
        self._node.confirm(links)
        now = self._clock()
        self._publish(State(cluster, applied, advanced, self._refusals(outcome, now), woken_at, now), waiting.values())
        if outcome.done:
            log_changes(outcome.done, ChainMap(applied.numbers.named, left.numbers.named))

    def _carry_out(self, before: Plan, actual: DataPlane | Plan, wanted: Plan) -> tuple[Outcome, Plan]:
        """What became of the changes, and the plan that is in the data path now."""
        outcome = self._applier.apply(changes(actual, wanted), before, wanted)
        return outcome, refusals.left(wanted, before, actual, outcome)

    def _advanced(self, drains: Mapping[str, Drain], cluster: Cluster | None, outcome: Outcome) -> dict[str, Drain]:
        """The drains after the pass. A replica whose chain was refused is perhaps in the targets still, so its drain
        waits for the next pass, or its deadline."""
        now = self._clock()
        return {
            uid: advance(
                drain,
                active_sessions=self.sessions.active(drain),
                now=now,
                resets=_resets(uid, cluster),
                all_reset=self.sessions.all_reset(drain),
            )
            if now >= drain.deadline or _chain_of(uid, cluster) not in outcome.refused
            else drain
            for uid, drain in drains.items()
        }

    def _refusals(self, outcome: Outcome, now: float) -> Mapping[ChainKey | None, Refusal]:
        """What was refused, since when. Logs what is new, and what has passed."""
        before = self._state.refused
        for key in before.keys() - outcome.refused.keys():
            log.info("the chain's part is in the data path now", extra={"chain": _path(key)})
        found = {}
        for key, message in outcome.refused.items():
            known = before.get(key)
            if known is None or known.message != message:
                log.error("part of a chain refused; all others go on", extra={"chain": _path(key), "error": message})
            found[key] = Refusal(message, known.since if known else now)
        return found

    def _pause(self) -> float:
        """Seconds until the next pass that nobody asks for."""
        if self.drains.unfinished:
            return DRAINING_SECONDS
        return REFUSED_SECONDS if self._state.refused else VERIFY_SECONDS

    def drain(self, drain_id: str, asked_at: float, timeout: float) -> Drain | None:
        """Takes the replica out of all targets and waits until its sessions have ended or its deadline has passed.

        None when no link of this node has that drain id, or not any more; the hook must then not hold the pod.
        `asked_at`, on the monotonic clock, is when the kubelet called. `timeout` (seconds) bounds the wait in case the
        data path cannot be changed at all. Raises NotDeletedError when the API server shows no deletion of the pod, and
        RetiredError when another agent is to be asked.
        """
        uids = _pods_of(drain_id, self._state.links) or _pods_of(drain_id, by_pod(self._links.list()))
        if not uids:
            return None
        leaving, confirmed = self._leaving(uids, asked_at)
        for uid in leaving:
            self.drains.request(begin(self._state.cluster, uid, asked_at, confirmed=confirmed))
        self.wake()
        drains = [self.drains.wait(uid, timeout) for uid in leaving]
        if drains[-1] is None and leaving[-1] in self._state.links:
            raise NotDeletedError(leaving[-1], undone=True)
        return drains[-1]

    def _leaving(self, uids: Sequence[str], asked_at: float) -> tuple[Sequence[str], bool]:
        """Those of the pods that are being deleted, and True; or, if the API server cannot be asked, the pod whose hook
        is believed, and False. Raises NotDeletedError.

        Copies of a pod may share its drain id. Then only a deletion shows which of them is meant.
        """
        if leaving := self.drains.confirmed(uids, WATCH_SECONDS):
            return leaving, True
        deleted = self.drains.deletions.ask(asked_at).deleted
        if leaving := [uid for uid in uids if deleted and uid in deleted]:
            return leaving, True
        if deleted is not None or len(uids) > 1:
            raise NotDeletedError(uids[0])
        return uids, False

    def _spared(
        self, cluster: Cluster | None, links: LinksByPod, drains: Mapping[str, Drain], actual: DataPlane | Plan
    ) -> dict[str, Drain]:
        """The drains that must wait: see `plane.drain.spared`."""
        confirmed = {uid: drain for uid, drain in drains.items() if drain.confirmed}
        if len(confirmed) == len(drains):
            return {}
        without = desired(cluster, links, confirmed, actual, self._state.plan)
        sides = [{uid for uid, _ in members} for part in without.parts.values() for members in part.serving.values()]
        return {uid: drains[uid] for uid in spared(sides, drains.values())}

    def _take_wake(self) -> float:
        """When the first of the events came that this pass is for."""
        woken_at, self._woken_at = self._woken_at, None
        return self._clock() if woken_at is None else woken_at

    def _publish(self, state: State, waiting: Iterable[Drain]) -> None:
        """Replaces the state before `settle` wakes the threads that read it."""
        self._state = state
        self.drains.settle(state.drains, waiting)
        for observer in self._observers:
            try:
                observer(state)
            except Exception:
                log.exception("what a pass left could not be reported")

    def _prepare(self) -> None:
        """Makes, while nothing else is to do, the tables that the next event will probably ask for: they are cached."""
        current = self._state.plan
        for members in likely_targets(current) if self._prepared.parts != current.parts else ():
            if self._woken.is_set() or self._woken_at is not None:
                return
            with suppress(Exception):  # the pass that needs the table says what is wrong, and with which chain
                maglev.table(members)
        self._prepared = current


def _chain_of(uid: str, cluster: Cluster | None) -> ChainKey | None:
    replica = cluster.replicas.get(uid) if cluster else None
    return (replica.namespace, replica.chain) if replica else None


def _resets(uid: str, cluster: Cluster | None) -> bool:
    """Whether the deadline of the replica's drain ends the sessions that it finds."""
    replica = cluster.replicas.get(uid) if cluster else None
    stage = cluster.stage_of(replica) if cluster and replica else None
    return stage is not None and stage.at_deadline is AtDeadline.RESET


def _path(key: ChainKey | None) -> str:
    """namespace/name of a chain; empty for links of unknown pods."""
    return "/".join(key or ())


def _pods_of(drain_id: str, links: LinksByPod) -> list[str]:
    return sorted(uid for uid, of_pod in links.items() if any(link.drain_id == drain_id for link in of_pod))

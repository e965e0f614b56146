"""The leader's work: workers take keys from the queue; a pass over a key observes, plans and applies.

Events of the watches only add keys (`queue`); a pass looks at the objects as they are (`store`), decides (`plan`), and
writes. What fails is repeated after a back-off of its own, and nothing else waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

from prometheus_client import Counter, Gauge, Histogram

from controller.cluster import plan, source_ports, trust, workloads
from controller.cluster.queue import Queue
from controller.cluster.snapshot import ChainObject, Pod, chain_object, pod_of
from controller.cluster.store import Store
from controller.cluster.workloads import Workload, workload_of
from controller.cluster.writes import Apply, Assign, Create, Delete, Outcome, Patch, Record, Withdraw, Write
from kube import events, lean, objects
from kube.api import MERGE_PATCH, STRATEGIC_MERGE_PATCH, ApiError, ApiServer, Collection
from kube.objects import CHAINS, CONNECTIONS, NETWORKS, NODES, PODS, Key, Object
from kube.watch import Watch
from sfc import names, threads
from sfc.source_ports import Share, Shares

log = logging.getLogger(__name__)

V = TypeVar("V")

WORKERS = 4
"""Passes at a time, each in another namespace: a request that hangs holds up its namespace only."""
LOOK_SECONDS = 30.0
"""Between two signs of life of a worker without work."""
TRUST_SECONDS = 5.0
"""Secrets are not watched; this is the time between two looks at them."""
KEYS_OF_STATEMENTS: Key = ("", "")
"""What stands for them in the queue."""

ECHO_SECONDS = 5.0
"""The watch may take so long to show what was written."""

OUTDATED = (404, 409)
"""Statuses of the answer for an object that was deleted, or has changed meanwhile."""

PASSES = Histogram("sfc_cluster_pass_seconds", "Time to observe, plan and apply once, for one chain or network")
WRITES = Counter("sfc_cluster_writes", "Writes of the cluster's objects that succeeded", ["write"])
FAILURES = Counter("sfc_cluster_failures", "Writes and passes that failed")
WAITING = Gauge("sfc_cluster_waiting", "Chains and networks that wait for a pass")


class Loop:
    """The workers, and the watches that give them work. `run` is for one thread; the other methods are for any."""

    def __init__(
        self,
        api: ApiServer,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._clock = clock
        self._store = Store()
        self._queue = Queue()
        self._turn = threading.Condition()
        """Held while the queue is used."""
        self._begun = False
        """All kinds were listed; nothing is planned before that."""
        self._stopped = False
        self._echoes: dict[Key, tuple[str, float]] = {}
        """By chain whose status was just written: its version before that, and until when the watch may show it."""

        ours = Collection(NETWORKS.path(), params={"fieldSelector": f"metadata.name={names.NETWORK_NAME}"})
        labelled = Collection(PODS.path(), lean.POD, {"labelSelector": names.CHAIN_LABEL})
        chains, connections, store = Collection(CHAINS.path(), lean.CHAIN), Collection(CONNECTIONS.path()), self._store
        self._chains: Watch[ChainObject] = self._watch(chains, chain_object, store.chain)
        self._connections: Watch[Object] = self._watch(connections, lambda obj, _: obj, store.connection)
        self._networks: Watch[Object] = self._watch(ours, lambda obj, _: obj, store.network)
        nodes = Collection(NODES.path(), lean.NAME)
        self._nodes: Watch[str] = self._watch(nodes, lambda obj, _: objects.name(obj), store.node)
        self._pods: Watch[Pod] = self._watch(labelled, lambda obj, _: pod_of(obj), store.pod)
        self._workloads: dict[str, Watch[Workload]] = {
            kind: self._watch(collection, lambda obj, _: workload_of(obj), store.workload)
            for kind, collection in workloads.collections().items()
        }

    @property
    def watches(self) -> dict[str, Watch[Any]]:
        """By the names that /readyz shows."""
        return {
            "chains": self._chains,
            "crossconnections": self._connections,
            "network-attachment-definitions": self._networks,
            "nodes": self._nodes,
            "pods": self._pods,
            **self._workloads,
        }

    def run(self) -> None:
        """Until `stop` is called, or a worker ends by itself. All have ended when this returns."""
        for watch in self.watches.values():
            watch.start()
        self._add([KEYS_OF_STATEMENTS])
        workers = [threads.start(f"worker {i}", self._work, until=lambda: self._stopped) for i in range(WORKERS)]
        while all(worker.is_alive() for worker in workers):
            threads.beat()
            workers[0].join(1.0)
        self.stop()
        for worker in workers:
            worker.join()

    def stop(self) -> None:
        """Returns at once; the passes under way are the last."""
        with self._turn:
            self._stopped = True
            self._turn.notify_all()

    def unsynced(self) -> list[str]:
        """The kinds that were not listed yet. Nothing is planned before all are."""
        return [name for name, watch in self.watches.items() if not watch.synced]

    def _watch(
        self,
        collection: Collection,
        read: Callable[[Object, V | None], V],
        note: Callable[[V | None, V | None], Iterable[Key]],
    ) -> Watch[V]:
        def changed(before: V | None, after: V | None) -> None:
            keys = note(before, after)
            if self._begun:
                self._add(keys)

        return Watch(self._api, collection, read, on_change=self._listed, on_object=changed)

    def _listed(self) -> None:
        """What changed before `_begun` was set is among the keys of the store, which are read after it."""
        if not self._begun and not self.unsynced():
            self._begun = True
            self._add(self._store.keys())

    def _add(self, keys: Iterable[Key], **delay: float) -> None:
        now = time.monotonic()
        with self._turn:
            for key in keys:  # of the same time: a namespace's network comes before its chains, which say what it lacks
                self._queue.add(key, now, **delay)
            self._turn.notify()

    def _work(self) -> None:
        while (key := self._next()) is not None:
            failed, pause = True, 0.0
            try:
                with PASSES.time():
                    failed = not self._pass(key)
            except ApiError as error:
                FAILURES.inc()
                log.error("pass broken off", extra={"object": "/".join(key), "error": str(error)})
                pause = error.retry_after
            except Exception:  # one object that this program cannot deal with must not end the work on all others
                FAILURES.inc()
                log.exception("pass failed", extra={"object": "/".join(key)})
            with self._turn:
                self._queue.done(key, time.monotonic(), failed=failed, pause=pause)

    def _next(self) -> Key | None:
        """Waits for the next key; None when the work is over."""
        with self._turn:
            while not self._stopped:
                threads.beat()
                now = time.monotonic()
                key = self._queue.take(now)
                WAITING.set(len(self._queue))
                if key is not None:
                    self._turn.notify()  # somebody has to wait for the next one
                    return key
                self._turn.wait(min(self._queue.next_due() - now, LOOK_SECONDS))
        return None

    def _pass(self, key: Key) -> bool:
        """Whether all of it succeeded. Raises ApiError when the API server gives no answer, or has too much to do."""
        namespace, name = key
        if key == KEYS_OF_STATEMENTS:
            trust.keep_statement_keys(self._api, self._clock())
            self._add([key], delay=TRUST_SECONDS)
            return True
        if not name:
            outcome = self._write(plan.network(self._store.place(namespace)))
            self._add(self._store.refuse(namespace, next(iter(outcome.refused.values()), None)))
            return not outcome.refused
        part = self._store.part(key)
        outcome = self._write(plan.needed(part, self._clock()))
        if outcome == Outcome() and (rest := self._echo_seconds(part)) > 0:
            self._add([key], delay=rest)
            return True
        writes = list(plan.told(part, outcome, self._clock()))
        said = self._write(writes)
        if any(isinstance(write, Apply) and write.path == CHAINS.path(*key, "status") for write in writes):
            self._echoes[key] = _version(part), time.monotonic() + ECHO_SECONDS
        return not (outcome.refused or said.refused)

    def _echo_seconds(self, part: plan.Part) -> float:
        """How long to wait for the watch to show the status that the pass before wrote: what a pass says by an older
        status it says twice, and counts as two events. 0 when it has been shown, or is late."""
        before, until = self._echoes.pop(part.key, ("", 0.0))
        rest = until - time.monotonic()
        if _version(part) != before or rest <= 0:
            return 0.0
        self._echoes[part.key] = before, until
        return rest

    def _write(self, writes: Iterable[Write]) -> Outcome:
        """A write that is refused does not keep the others from being done."""
        created: list[str] = []
        found: list[str] = []
        refused: dict[str, str] = {}
        for write in writes:
            fields = {"write": type(write).__name__.lower(), "object": _target(write)}
            try:
                done = apply(self._api, write)
            except ApiError as error:
                if error.busy or not error.status:
                    raise
                FAILURES.inc()
                log.error("write refused", extra={**fields, "error": str(error)})
                refused[_target(write)] = error.message
                continue
            finally:
                threads.beat()
            if isinstance(write, Create):
                (created if done else found).append(objects.name(write.obj))
            if done:
                WRITES.labels(fields["write"]).inc()
                log.info("written", extra=fields)
        return Outcome(tuple(created), tuple(found), refused)


def apply(api: ApiServer, write: Write) -> bool:
    """Does one write. False when the object was deleted meanwhile, or has changed: the next pass looks again.

    Raises ApiError.
    """
    match write:
        case Apply(path, obj):
            return _unless((404,) if path.endswith("/status") else (), lambda: api.apply(path, obj, plan.MANAGER))
        case Withdraw(path, obj, node):
            return _unless(OUTDATED, lambda: api.apply(path, obj, names.ENTRY_MANAGER + node))
        case Create(path, obj):
            return _unless((409,), lambda: api.create(path.rpartition("/")[0], obj))
        case Delete(path, uid):
            return _unless(OUTDATED, lambda: api.delete(path, uid=uid))
        case Patch(path, body):
            return _unless(OUTDATED, lambda: api.patch(path, body, STRATEGIC_MERGE_PATCH))
        case Assign(namespace, chain, stage, shares):
            _assign(api, PODS.path(namespace), f"{names.CHAIN_LABEL}={chain},{names.STAGE_LABEL}={stage}", shares)
        case Record(obj):
            events.record(api, obj)
    return True


def _version(part: plan.Part) -> str:
    """Of the chain as the watch last showed it."""
    return str(part.found.obj["metadata"].get("resourceVersion", "")) if part.found else ""


def _unless(statuses: Sequence[int], request: Callable[[], object]) -> bool:
    """Sends the request; False when the answer has one of these statuses."""
    try:
        request()
    except ApiError as error:
        if error.status not in statuses:
            raise
        return False
    return True


def _assign(api: ApiServer, path: str, selector: str, shares: Shares | None) -> None:
    """Decided by a fresh list, which shows every earlier write: those of this process a moment ago, and those of the
    leader before it. A pod that changes meanwhile is left to the next pass, which that change has woken. A pod that the
    API server refuses to change keeps no other from its share: the error that names it is raised at the end."""
    pages = api.pages(Collection(path, lean.POD, {"labelSelector": selector}))
    pods = [pod_of(obj) for page in pages for obj in page["items"]]
    refused: ApiError | None = None
    going = deque(source_ports.given(pods, shares))
    others = iter(source_ports.waiting(pods)[len(going) :])
    while going:
        pod, share = going.popleft()
        try:
            _give(api, f"{path}/{pod.name}", pod, share)
        except ApiError as error:
            if error.busy or not error.status:
                raise
            refused = refused or ApiError(error.status, error.reason, f"pod {pod.name}: {error.message}")
            if error.status < 500:  # otherwise the pod may have its share all the same
                going.extend((other, share) for other in islice(others, 1))
    if refused:
        raise refused


def _give(api: ApiServer, path: str, pod: Pod, share: Share | None) -> None:
    patch = source_ports.patch(pod, share)
    if _unless(OUTDATED, lambda: api.patch(path, patch, MERGE_PATCH)):
        ports = str(share.ports) if share and share.ports else None
        said = {"source_ports": ports, "number": share.number if share else None}
        log.info("source ports or number given", extra={"pod": f"{pod.namespace}/{pod.name}", **said})


def _target(write: Write) -> str:
    match write:
        case Apply(path) | Create(path) | Delete(path) | Patch(path):
            return path
        case Withdraw(path, _, node):
            return f"{path} of node {node}"
        case Assign(namespace, chain, stage):
            return source_ports.path(namespace, chain, stage)
        case Record(obj):
            return f"{obj['reason']} of {obj['metadata']['namespace']}/{obj['involvedObject']['name']}"

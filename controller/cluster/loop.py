"""The leader's loop: observe, plan, apply. Events of the watches only wake it. Tenants' writes go by turns, and what
failed is repeated after a back-off (`turns`)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from prometheus_client import Counter, Histogram

from controller.cluster import source_ports, trust
from controller.cluster.plan import MANAGER, Settled, plan
from controller.cluster.snapshot import ChainObject, Pod, Snapshot, chain_object, pod_of
from controller.cluster.turns import RETRY, Turns
from controller.cluster.writes import Apply, Assign, Delete, Patch, Record, Withdraw, Write
from kube import events, lean
from kube.api import MERGE_PATCH, STRATEGIC_MERGE_PATCH, ApiError, ApiServer, Collection
from kube.objects import CHAINS, CONNECTIONS, NETWORKS, NODES, PODS, Object
from kube.watch import Watch
from sfc import names

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.1
"""Wait this long after the first event, so that one pass covers those that follow it at once."""
TRUST_SECONDS = 5.0
"""Secrets are not watched; this is the time between two looks at them."""
WRITE_SECONDS = 2.0
"""For the writes of one pass. They go by turns, so what another tenant needs meanwhile waits for so long at most."""

OUTDATED = (404, 409)
"""Statuses of the answer for an object that was deleted, or has changed meanwhile."""

PASSES = Histogram("sfc_cluster_pass_seconds", "Time to observe, plan and apply once")
WRITES = Counter("sfc_cluster_writes", "Writes of the cluster's objects that succeeded", ["write"])
FAILURES = Counter("sfc_cluster_failures", "Writes, and passes over the keys, that failed")


class Loop:
    """The loop, and the watches that wake it. `run` is for one thread; the other methods are for any."""

    def __init__(
        self,
        api: ApiServer,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._clock = clock
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._trust_due = 0.0
        self._distrusted = 0
        """Looks at the certificates that failed in a row."""
        self._turns = Turns()
        self._settled: Settled = {}
        self._last_pass = time.monotonic()

        ours = Collection(NETWORKS.path(), params={"fieldSelector": f"metadata.name={names.NETWORK_NAME}"})
        labelled = Collection(PODS.path(), lean.POD, {"labelSelector": names.CHAIN_LABEL})
        chains, connections, wake = (
            Collection(CHAINS.path(), lean.CHAIN),
            Collection(CONNECTIONS.path()),
            self._wake.set,
        )
        self._chains = Watch[ChainObject](api, chains, chain_object, on_change=wake)
        self._connections = Watch[Object](api, connections, lambda obj, _: obj, on_change=wake)
        self._networks = Watch[Object](api, ours, lambda obj, _: obj, on_change=wake)
        nodes = Collection(NODES.path(), lean.NAME)
        self._nodes = Watch[bool](api, nodes, lambda *_: True, on_change=wake)  # whether it exists is all that matters
        self._pods = Watch[Pod](api, labelled, lambda obj, _: pod_of(obj), on_change=wake)

    @property
    def watches(self) -> dict[str, Watch[Any]]:
        """By the names that /readyz shows."""
        return {
            "chains": self._chains,
            "crossconnections": self._connections,
            "network-attachment-definitions": self._networks,
            "nodes": self._nodes,
            "pods": self._pods,
        }

    def run(self) -> None:
        """Until `stop` is called."""
        for watch in self.watches.values():
            watch.start()
        while not self._stopped.is_set():
            self._pass()
            self._rest()

    def stop(self) -> None:
        """Returns at once; the pass under way is the last."""
        self._stopped.set()
        self._wake.set()

    def age_seconds(self) -> float:
        """Seconds since the last pass ended; they show a loop that hangs."""
        return time.monotonic() - self._last_pass

    def unsynced(self) -> list[str]:
        """The kinds that were not listed yet. Nothing is planned before all are."""
        return [name for name, watch in self.watches.items() if not watch.synced]

    def _rest(self) -> None:
        self._wake.wait(max(0.0, min(self._trust_due, self._turns.next_due()) - time.monotonic()))
        self._stopped.wait(GATHER_SECONDS)

    def _pass(self) -> None:
        self._wake.clear()
        with PASSES.time():
            if time.monotonic() >= self._trust_due:
                self._trust()
            planned = {} if self.unsynced() else plan(self._observe(), self._clock(), self._settled)
            self._turns.keep(planned)
            self._write(planned)
        self._last_pass = time.monotonic()

    def _write(self, planned: Mapping[str, Sequence[Write]]) -> None:
        """Until all is written, or the time is over: then the next pass, which sees what is new, goes on."""
        until = time.monotonic() + WRITE_SECONDS
        results: dict[str, bool] = {}
        for namespace, write in self._turns.order(planned, time.monotonic()):
            if time.monotonic() >= until:
                self._wake.set()
                break
            results[namespace] = self._apply(write) and results.get(namespace, True)
        self._turns.note(results, time.monotonic())

    def _observe(self) -> Snapshot:
        return Snapshot(
            chains=self._chains.snapshot(),
            connections=self._connections.snapshot(),
            networks=self._networks.snapshot(),
            pods=self._pods.snapshot(),
            nodes=self._nodes.snapshot(),
        )

    def _trust(self) -> None:
        try:
            trust.keep_statement_keys(self._api, self._clock())
        except ApiError as error:
            FAILURES.inc()
            log.error("keys not reconciled", extra={"error": str(error)})
            self._distrusted += 1
            self._trust_due = time.monotonic() + RETRY.seconds(self._distrusted)
            return
        self._distrusted = 0
        self._trust_due = time.monotonic() + TRUST_SECONDS

    def _apply(self, write: Write) -> bool:
        """Whether it succeeded. A write that fails does not keep the others from being done."""
        fields = {"write": type(write).__name__.lower(), "object": _target(write)}
        try:
            apply(self._api, write)
        except ApiError as error:
            FAILURES.inc()
            log.error("write failed", extra={**fields, "error": str(error)})
            return False
        WRITES.labels(fields["write"]).inc()
        log.info("written", extra=fields)
        return True


def apply(api: ApiServer, write: Write) -> None:
    """Does one write. Success when the object was deleted meanwhile, or has changed and the next pass looks again.

    Raises ApiError.
    """
    match write:
        case Apply(path, obj):
            _unless((404,) if path.endswith("/status") else (), lambda: api.apply(path, obj, MANAGER))
        case Withdraw(path, obj, node):
            _unless(OUTDATED, lambda: api.apply(path, obj, names.ENTRY_MANAGER + node))
        case Delete(path):
            _unless((404,), lambda: api.delete(path))
        case Patch(path, body):
            _unless(OUTDATED, lambda: api.patch(path, body, STRATEGIC_MERGE_PATCH))
        case Assign(namespace, chain, stage, slices):
            _assign(api, PODS.path(namespace), f"{names.CHAIN_LABEL}={chain},{names.STAGE_LABEL}={stage}", slices)
        case Record(obj):
            events.record(api, obj)


def _unless(statuses: Sequence[int], request: Callable[[], object]) -> bool:
    """Sends the request; False when the answer has one of these statuses."""
    try:
        request()
    except ApiError as error:
        if error.status not in statuses:
            raise
        return False
    return True


def _assign(api: ApiServer, path: str, selector: str, slices: int | None) -> None:
    """Decided by a fresh list, which shows every earlier write: those of this process a moment ago, and those of the
    leader before it. A pod that changes meanwhile is left to the next pass, which that change has woken."""
    pages = api.pages(Collection(path, lean.POD, {"labelSelector": selector}))
    pods = [pod_of(obj) for page in pages for obj in page["items"]]
    for pod, ports in source_ports.given(pods, slices):
        patch = source_ports.patch(pod, ports)
        if _unless(OUTDATED, lambda: api.patch(f"{path}/{pod.name}", patch, MERGE_PATCH)):  # noqa: B023
            log.info("source ports given", extra={"pod": f"{pod.namespace}/{pod.name}", "source_ports": str(ports)})


def _target(write: Write) -> str:
    match write:
        case Apply(path) | Delete(path) | Patch(path):
            return path
        case Withdraw(path, _, node):
            return f"{path} of node {node}"
        case Assign(namespace, chain, stage):
            return f"pods of {namespace}/{chain} {stage}"
        case Record(obj):
            return f"{obj['reason']} of {obj['metadata']['namespace']}/{obj['involvedObject']['name']}"

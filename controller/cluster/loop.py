"""Observe, plan, apply, again: the leader's work. Events only wake it; what failed is tried again, ever more slowly."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from prometheus_client import Counter, Gauge, Histogram

from controller.cluster import source_ports, trust
from controller.cluster.changes import Apply, Assign, Change, Delete, Patch, Record
from controller.cluster.plan import MANAGER, Cluster, plan
from kube import objects
from kube.api import MERGE_PATCH, STRATEGIC_MERGE_PATCH, ApiError, ApiServer
from kube.backoff import Backoff
from kube.objects import CHAINS, CONNECTIONS, EVENTS, NETWORKS, PODS, Object
from kube.watch import Watch
from sfc import names

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.1
"""Events that come this close together are one reason to look."""
TRUST_SECONDS = 5.0
"""Between two looks at certificates and caBundles, which nothing announces."""
RETRY = Backoff(first=0.5, longest=30.0)
"""After a pass in which something failed."""

OUTDATED = (404, 409)
"""Answers for an object that is gone, or another one by now."""

PASSES = Histogram("sfc_cluster_pass_seconds", "Time to observe, plan and apply once")
CHANGES = Counter("sfc_cluster_changes", "Changes made to the cluster's objects", ["change"])
FAILURES = Counter("sfc_cluster_failures", "Changes and looks that failed")
EXPIRY = Gauge("sfc_certificate_expiry_timestamp_seconds", "When a certificate of the webhook expires", ["certificate"])


class Loop:
    """`certificates` False: somebody else keeps the webhook's certificates and the caBundles, cert-manager say."""

    def __init__(
        self,
        api: ApiServer,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        certificates: bool = True,
    ) -> None:
        self._api = api
        self._clock = clock
        self._certificates = certificates
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._trust_due = 0.0
        self._last_pass = time.monotonic()

        def watch(path: str, selector: str = "") -> Watch:
            params = {"labelSelector": selector} if selector else None
            return Watch(api, path, params=params, on_change=self._wake.set)

        self._chains = watch(CHAINS.path())
        self._connections = watch(CONNECTIONS.path())
        self._networks = watch(NETWORKS.path())
        self._pods = watch(PODS.path(), names.CHAIN_LABEL)

    @property
    def watches(self) -> dict[str, Watch]:
        return {
            "chains": self._chains,
            "crossconnections": self._connections,
            "network-attachment-definitions": self._networks,
            "pods": self._pods,
        }

    def run(self) -> None:
        """Until `stop` is called."""
        for watch in self.watches.values():
            watch.start()
        failures = 0
        while not self._stopped.is_set():
            failures = 0 if self._pass() else failures + 1
            self._rest(failures)

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()

    def age_seconds(self) -> float:
        """Since the last pass ended: a loop that hangs shows here."""
        return time.monotonic() - self._last_pass

    def unsynced(self) -> list[str]:
        """What was never listed so far. Nothing is planned on half a picture."""
        return [name for name, watch in self.watches.items() if not watch.synced]

    def _rest(self, failures: int) -> None:
        if failures:
            self._stopped.wait(RETRY.seconds(failures))
        else:
            self._wake.wait(max(0.0, self._trust_due - time.monotonic()))
            self._stopped.wait(GATHER_SECONDS)

    def _pass(self) -> bool:
        """Whether everything succeeded."""
        self._wake.clear()
        with PASSES.time():
            trusted = time.monotonic() < self._trust_due or self._trust()
            done = [self._apply(change) for change in self._plan()]
        self._last_pass = time.monotonic()
        return trusted and all(done)

    def _plan(self) -> list[Change]:
        return [] if self.unsynced() else plan(self._observe(), self._clock())

    def _observe(self) -> Cluster:
        return Cluster(
            chains=tuple(self._chains.snapshot().values()),
            connections=tuple(self._connections.snapshot().values()),
            networks=tuple(self._networks.snapshot().values()),
            pods=tuple(self._pods.snapshot().values()),
        )

    def _trust(self) -> bool:
        try:
            trust.keep_drain_key(self._api)
            expiries = trust.keep_certificates(self._api, self._clock()) if self._certificates else {}
        except ApiError as error:
            FAILURES.inc()
            log.error("certificates not reconciled", extra={"error": str(error)})
            return False
        for certificate, expiry in expiries.items():
            EXPIRY.labels(certificate).set(expiry.timestamp())
        self._trust_due = time.monotonic() + TRUST_SECONDS
        return True

    def _apply(self, change: Change) -> bool:
        """One change that fails does not keep the others from being made."""
        kind = type(change).__name__.lower()
        try:
            apply(self._api, change)
        except ApiError as error:
            FAILURES.inc()
            log.error("change failed", extra={"change": kind, "object": _target(change), "error": str(error)})
            return False
        CHANGES.labels(kind).inc()
        log.info("change made", extra={"change": kind, "object": _target(change)})
        return True


def apply(api: ApiServer, change: Change) -> None:
    match change:
        case Apply(path, obj):
            _unless((404,) if path.endswith("/status") else (), lambda: api.apply(path, obj, MANAGER))
        case Delete(path):
            _unless((404,), lambda: api.delete(path))
        case Patch(path, body):
            _unless(OUTDATED, lambda: api.patch(path, body, STRATEGIC_MERGE_PATCH))
        case Assign(namespace, chain, stage, slices):
            _assign(api, PODS.path(namespace), f"{names.CHAIN_LABEL}={chain},{names.STAGE_LABEL}={stage}", slices)
        case Record(obj):
            _record(api, obj)


def _unless(statuses: Sequence[int], request: Callable[[], object]) -> bool:
    """Whether it was done: an object that is gone meanwhile needs no status, and no deletion."""
    try:
        request()
    except ApiError as error:
        if error.status not in statuses:
            raise
        return False
    return True


def _assign(api: ApiServer, path: str, selector: str, slices: int | None) -> None:
    """Decided by a list of its own, which shows everything that was ever written: what this process gave away a moment
    ago, and what the leader before it did. A pod that changes meanwhile is left to the next pass, which that change
    has woken."""
    for pod, ports in source_ports.given(api.get(path, {"labelSelector": selector})["items"], slices):
        patch = source_ports.patch(pod, ports)
        name = objects.name(pod)
        if _unless(OUTDATED, lambda: api.patch(f"{path}/{name}", patch, MERGE_PATCH)):  # noqa: B023
            log.info(
                "source ports given", extra={"pod": f"{objects.namespace(pod)}/{name}", "source_ports": str(ports)}
            )


def _record(api: ApiServer, event: Object) -> None:
    namespace, name = event["metadata"]["namespace"], event["metadata"]["name"]
    try:
        api.create(EVENTS.path(namespace), event)
    except ApiError as error:
        if error.status != 409:
            raise
        path = EVENTS.path(namespace, name)
        count = api.get(path).get("count", 1) + 1
        api.patch(path, {"count": count, "lastTimestamp": event["lastTimestamp"]}, MERGE_PATCH)


def _target(change: Change) -> str:
    match change:
        case Apply(path) | Delete(path) | Patch(path):
            return path
        case Assign(namespace, chain, stage):
            return f"pods of {namespace}/{chain} {stage}"
        case Record(obj):
            return f"{obj['reason']} of {obj['metadata']['namespace']}/{obj['involvedObject']['name']}"

"""The two servers of the webhook process: admission over TLS, health and metrics in plain HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import uvicorn
from prometheus_client import Gauge

from webhook import app, mutate, validate
from webhook.certificate import ServingCertificate
from webhook.cluster import Cluster
from webhook.connection import BoundedConnection
from webhook.model import Decision, Request
from webhook.review import Decide

Address = tuple[str, int]
"""Host and port; the empty host is every address of the machine."""

KEEP_ALIVE_SECONDS = 120
"""Longer than the 90 s after which an API server closes an idle connection: closing first would race with its next
request."""
SHUTDOWN_SECONDS = 15
"""For requests in flight; the API server waits 5 s for an answer."""

STALE_SECONDS = 120.0
"""A watch that is well hears something every minute, if only a bookmark."""

AGE = Gauge("sfc_chain_cache_age_seconds", "Time since the API server's last word about chains.")


def routes(cluster: Cluster, key: bytes) -> dict[str, Decide]:
    """`key` is the cluster's drain key."""

    def when_synced(decide: Decide) -> Decide:
        return lambda request: aged(decide(request), cluster.age_seconds()) if cluster.synced else NOT_SYNCED

    def pod(request: Request) -> Decision:
        return mutate.pod(request, cluster.chain, cluster.auto_hook(request.namespace), key)

    def workload(request: Request) -> Decision:
        return mutate.workload(request, cluster.chain, cluster.auto_hook(request.namespace))

    return {
        "/mutate/workloads": when_synced(workload),
        "/mutate/pods": when_synced(pod),
        "/validate/chains": validate.chain,
    }


NOT_SYNCED = Decision(denied="The webhook has not read the cluster's chains yet; try again.", code=503)


def aged(decision: Decision, seconds: float) -> Decision:
    """A denial by knowledge that may be out of date says so."""
    if decision.denied is None or seconds < STALE_SECONDS:
        return decision
    return replace(
        decision, denied=f"{decision.denied} (The API server's last word about chains is {seconds:.0f} s old.)"
    )


def unready(cluster: Cluster, certificate: ServingCertificate) -> str | None:
    if not certificate.loaded:
        return "no serving certificate yet"
    if not cluster.synced:
        return "chains and namespaces not read yet"
    return None


class Servers:
    def __init__(
        self, cluster: Cluster, certificate: ServingCertificate, key: bytes, admission: Address, health: Address
    ) -> None:
        AGE.set_function(cluster.age_seconds)
        self._admission = server_of(
            app.admission(routes(cluster, key)),
            admission,
            ssl_context_factory=lambda *_: certificate.context,
        )
        self._health = server_of(app.health(lambda: unready(cluster, certificate)), health)

    def run(self) -> None:
        """Until SIGTERM or SIGINT, or `stop`; finishes the requests in flight."""
        background = threading.Thread(target=self._health.run, name="health", daemon=True)
        background.start()
        self._admission.run()
        self._health.should_exit = True
        background.join(SHUTDOWN_SECONDS)

    def stop(self) -> None:
        self._admission.should_exit = True


def server_of(application: Callable[..., Any], address: Address, **options: Any) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            application,
            host=address[0],
            port=address[1],
            **options,
            lifespan="off",
            ws="none",
            http=BoundedConnection,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
    )

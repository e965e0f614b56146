"""Two servers of the webhook process: admission over TLS, health in plain HTTP. Metrics have one of their own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import uvicorn
from prometheus_client import Gauge

from sfc import threads
from sfc.statement import Sign
from webhook import app
from webhook.cache import AdmissionCache
from webhook.callers import Callers
from webhook.certificate import ServingCertificate
from webhook.connection import BoundedConnection
from webhook.decide import mutate, validate
from webhook.decide.model import AdmissionRequest, Decision
from webhook.door import Application, Door, Message, guarded
from webhook.gate import Gate
from webhook.review import Decide

Address = tuple[str, int]
"""Host and port; the empty host is every address of the machine."""

KEEP_ALIVE_SECONDS = 120
"""Longer than the 90 s after which an API server closes an idle connection: closing it here could lose the next
request."""
LINGER_SECONDS = 10.0
"""From `stop` until connections are refused: by then, every API server sends its requests elsewhere."""
POLL_SECONDS = 0.1
BACKLOG = 4096
"""Connections that wait for their acceptance. When it is full, the kernel loses a new one, which comes again after a
second."""
SHUTDOWN_SECONDS = 15
"""For requests in flight; an API server waits 5 s for an answer."""

STALE_SECONDS = 120.0
"""A healthy watch receives something every minute, at least a bookmark."""

AGE = Gauge("sfc_chain_cache_age_seconds", "Time since the API server's last word about chains.")


ENDPOINTS = ("/mutate/workloads", "/mutate/pods", "/validate/chains")


def routes(cache: AdmissionCache, sign: Sign) -> dict[str, Decide]:
    """The decision for each path; `sign` signs statements."""

    def when_synced(decide: Decide) -> Decide:
        return lambda request: aged(decide(request), cache.age_seconds()) if cache.synced else NOT_SYNCED

    def pod(request: AdmissionRequest) -> Decision:
        return mutate.pod(request, cache.chain, cache.auto_hook(request.namespace), sign)

    def workload(request: AdmissionRequest) -> Decision:
        return mutate.workload(request, cache.chain, cache.auto_hook(request.namespace))

    return dict(zip(ENDPOINTS, (when_synced(workload), when_synced(pod), validate.chain), strict=True))


NOT_SYNCED = Decision(denied="The webhook has not read the cluster's chains yet; try again.", code=503)


def aged(decision: Decision, seconds: float) -> Decision:
    """The decision; a denial says how old the webhook's chains are, in seconds, when that is STALE_SECONDS or more."""
    if decision.denied is None or seconds < STALE_SECONDS:
        return decision
    return replace(
        decision, denied=f"{decision.denied} (The API server's last word about chains is {seconds:.0f} s old.)"
    )


def unready(cache: AdmissionCache, certificate: ServingCertificate, door: Door) -> str | None:
    """What is missing before admission can answer, or None."""
    if not certificate.loaded:
        return "no serving certificate yet"
    if not door.loaded:
        return "no path yet"
    if not cache.synced:
        return "chains and namespaces not read yet"
    return None


class Servers:
    """Both servers, until `stop`.

    Admission listens only when it can answer, because another process that can answer may share its port.

    Leaving takes two steps, so that no request is sent into a connection that closes. First, every answer has the
    header `Connection: close`: API servers give up their connections one by one and make new ones, which lead to other
    replicas as soon as the cluster knows that this one leaves. Only then are connections refused.
    """

    def __init__(
        self,
        cache: AdmissionCache,
        certificate: ServingCertificate,
        door: Door,
        sign: Sign,
        addresses: tuple[Address, Address],
    ) -> None:
        """`sign` signs statements. `addresses`: of admission, and of health and metrics."""
        AGE.set_function(cache.age_seconds)
        self._leaving = threading.Event()
        self._cache = cache
        self._certificate = certificate
        self._door = door
        self._address, health = addresses
        self._admission = server_of(
            guarded(_leaving(app.admission(routes(cache, sign)), self._leaving), door),
            self._address,
            callers=certificate.callers,
            ssl_context_factory=lambda *_: certificate.context,
        )
        self._health = server_of(app.health(self._unready), health)

    def run(self, linger_seconds: float = LINGER_SECONDS) -> bool:
        """Serve until `stop`, then finish the requests in flight.

        Returns False when a server ended by itself. Raises OSError when the admission port is not available.
        """
        threads.adopt("main", until=self._leaving.is_set)
        health = threads.start("health", self._health.run, until=self._leaving.is_set)
        while self._lacks() and not self._leaving.wait(POLL_SECONDS):
            threads.beat()
        listening = [_shared(self._address)]
        admission = threads.start("admission", lambda: self._admission.run(listening), until=self._leaving.is_set)
        while not self._leaving.wait(POLL_SECONDS):
            threads.beat()
            threads.problem()  # for the log, should the thread hang that answers probes
            if not (health.is_alive() and admission.is_alive()):
                return False
        admission.join(linger_seconds)
        for server, thread in ((self._admission, admission), (self._health, health)):
            server.should_exit = True
            thread.join(SHUTDOWN_SECONDS)
        return True

    def stop(self) -> None:
        """Make `run` return. May be called from a signal handler, and before `run`."""
        self._leaving.set()

    def _lacks(self) -> str | None:
        return unready(self._cache, self._certificate, self._door)

    def _unready(self) -> str | None:
        return self._lacks() or (None if self._admission.started else "not listening yet")


def _shared(address: Address) -> socket.socket:
    """A listening socket whose port other processes of the pod may share: the kernel gives each connection to one."""
    both = not address[0] and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    shared = socket.create_server(address, family=family, dualstack_ipv6=both, reuse_port=True, backlog=BACKLOG)
    # asyncio sets this only for sockets that name their protocol, which this one does not. Without it, the end of an
    # answer waits 40 ms for the API server's delayed acknowledgement. Connections inherit it.
    shared.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return shared


def _leaving(application: Application, leaving: threading.Event) -> Application:
    """`application`, but once `leaving` is set, each answer ends its connection."""

    async def wrapped(scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        async def closing(message: Message) -> None:
            if leaving.is_set() and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await application(scope, receive, closing)

    return wrapped


class GatedServer(uvicorn.Server):
    """uvicorn's server; a TLS server's connections come through a gate. It listens on one socket."""

    def __init__(self, config: uvicorn.Config, callers: Callers | None) -> None:
        super().__init__(config)
        self._callers = callers
        self._gate: Gate | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the gate, or listen as uvicorn does."""
        if not self.config.ssl:
            await super().startup(sockets)
            return
        (listening,) = sockets or [_shared((self.config.host, self.config.port))]
        await super().startup([])
        self._gate = Gate(listening, self._connection, self.config.ssl, self._callers)
        self._gate.open()

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls this ten times a second."""
        threads.beat()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the gate first."""
        if self._gate:
            self._gate.close()
        await super().shutdown(sockets)

    def _connection(self) -> BoundedConnection:
        return BoundedConnection(self.config, self.server_state, self.lifespan.state)


def server_of(
    application: Application, address: Address, *, callers: Callers | None = None, **options: Any
) -> uvicorn.Server:
    """A server that does not run yet. `callers`: nobody else is served; `options` are more of uvicorn's."""
    return GatedServer(
        uvicorn.Config(
            application,
            host=address[0],
            port=address[1],
            **options,
            lifespan="off",
            ws="none",
            http=BoundedConnection,
            log_config=None,
            log_level="error",  # strangers could fill the log by warnings about what they send
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        ),
        callers,
    )

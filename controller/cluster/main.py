"""`python -m controller cluster`: waits to be the leader, then runs the loop until a signal stops it.

A leader that cannot renew its lease ends its process, whatever its threads are waiting for. Only that makes sure that
it writes nothing more. For that reason all threads are daemons.
"""

from __future__ import annotations

import argparse
import logging
import platform
import signal
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import Gauge

from controller import health
from controller.cluster.lease import RENEW_DEADLINE_SECONDS, RETRY_SECONDS, Election
from controller.cluster.loop import Loop
from kube.api import ApiError, ApiServer
from serving.access import Access
from serving.bounded import listen
from serving.certificate import Certificate
from serving.metrics import MetricsServer, Page
from sfc import names, threads

log = logging.getLogger(__name__)

HEALTH_PORT = 8080
STOP_SECONDS = 5.0
"""How long the passes under way may take to end when the process stops."""

LEADING = Gauge("sfc_cluster_leading", "Whether this process leads")


def run(argv: list[str]) -> int:
    """Returns the exit status, once SIGTERM or SIGINT came or the process must not lead any longer."""
    parser = argparse.ArgumentParser(prog="controller cluster", description=__doc__)
    parser.add_argument("--port", type=int, default=HEALTH_PORT, help="of /healthz, /readyz (default %(default)s)")
    parser.add_argument(
        "--metrics-tls", type=Path, default=Path(names.METRICS_CERTIFICATE), help="folder of tls.crt and tls.key"
    )
    arguments = parser.parse_args(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        api = ApiServer.from_environment()
    except ApiError as error:
        log.error("no API server", extra={"error": str(error)})
        return 1
    metrics = MetricsServer(listen("", names.METRICS_PORT), Certificate(arguments.metrics_tls), Access(api), Page())
    metrics.start()
    return Candidate(api, Loop(api)).run(arguments.port, stop)


class Candidate:
    """One of the Deployment's pods: it waits to lead, or leads."""

    def __init__(self, api: ApiServer, loop: Loop) -> None:
        self._election = Election(api, f"{platform.node()}_{uuid.uuid4()}")
        self._loop = loop
        self._worker: threads.Thread | None = None
        self._leaving = threading.Event()
        self._renewed = float("-inf")

    def run(self, port: int, stop: threading.Event) -> int:
        """Returns 0 once `stop` is set, 1 when this process must not lead any longer.

        `port`: of health.
        """
        health.serve(port, healthy=threads.problem, ready=self._unready)
        threads.adopt("main", until=stop.is_set)
        threads.start("election", lambda: self._elect(stop), until=stop.is_set)
        while not stop.wait(0.5):
            threads.beat()
            threads.problem()  # for the log, should the thread hang that answers probes
            if self._worker and not self._worker.is_alive():
                log.error("the loop ended")
                return 1
            if self._leading and time.monotonic() - self._renewed > RENEW_DEADLINE_SECONDS:
                log.error("lease not renewed in time, another may lead now")
                return 1
        self._leave()
        return 0

    @property
    def _leading(self) -> bool:
        return self._worker is not None

    def _elect(self, stop: threading.Event) -> None:
        while not stop.is_set():
            threads.beat()
            asked = time.monotonic()
            if self._attempt(asked):
                self._renewed = asked
                if not self._leading:
                    log.info("leading")
                    LEADING.set(1)
                    self._worker = threads.start("loop", self._loop.run, until=self._leaving.is_set)
            stop.wait(RETRY_SECONDS)

    def _attempt(self, monotonic: float) -> bool:
        try:
            return self._election.attempt(monotonic, datetime.now(UTC))
        except ApiError as error:
            log.warning("could not ask for the lease", extra={"error": str(error)})
            return False

    def _leave(self) -> None:
        """Let another candidate take over at once, but only when no write is under way here."""
        if not self._worker:
            return
        self._leaving.set()
        self._loop.stop()
        self._worker.join(STOP_SECONDS)
        if not self._worker.is_alive():
            try:
                self._election.release(datetime.now(UTC))
            except ApiError as error:
                log.warning("lease not released", extra={"error": str(error)})

    def _unready(self) -> str | None:
        """A candidate that waits is ready."""
        unsynced = self._loop.unsynced() if self._leading else []
        return f"not listed yet: {', '.join(unsynced)}" if unsynced else None

"""The webhook process: `python -m webhook`."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kube.api import ApiError, ApiServer
from serving.access import Access
from serving.bounded import listen
from serving.certificate import Certificate
from serving.metrics import MetricsServer, Page
from sfc import log, names, threads
from webhook import callers
from webhook.cache import AdmissionCache
from webhook.certificate import ServingCertificate
from webhook.door import Door
from webhook.server import ENDPOINTS, LINGER_SECONDS, Servers
from webhook.signing_key import SigningKey

LOG = logging.getLogger(__name__)

CHECK_SECONDS = 2.0
"""Between two looks at mounted files."""


def main() -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code: 1 when it cannot start, or when a server ended by itself."""
    log.configure()
    options = _options()
    try:
        signing_key = SigningKey(options.statement_key)
        allowed = callers.read(options.callers)
        certificate = ServingCertificate(options.tls_dir, allowed)
        api = ApiServer.from_environment()
    except (OSError, ValueError, ApiError) as error:
        LOG.error("webhook cannot start", extra={"error": str(error)})
        return 1
    if not allowed:
        remedy = "see docs/operations.md, client certificates, for how API servers can show one"
        LOG.warning("the webhook asks for no client certificate", extra={"remedy": remedy})
    cache = AdmissionCache(api)
    cache.start()
    door = Door(ENDPOINTS, options.door)
    _keep_fresh(certificate.refresh, door.refresh)
    try:
        listener = listen("", options.metrics_port)
    except OSError as error:
        LOG.error("webhook cannot listen", extra={"port": options.metrics_port, "error": str(error)})
        return 1
    MetricsServer(listener, Certificate(options.metrics_tls), Access(api), Page()).start()
    servers = Servers(cache, certificate, door, signing_key.sign, (("", options.port), ("", options.health_port)))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: servers.stop())
    try:
        return 0 if servers.run(options.linger_seconds) else 1
    except OSError as error:
        LOG.error("webhook cannot listen", extra={"port": options.port, "error": str(error)})
        return 1


def _keep_fresh(*refreshes: Callable[[], None]) -> None:
    """Look at mounted files now, and every CHECK_SECONDS in a thread of its own."""

    def look() -> None:
        for refresh in refreshes:
            refresh()

    def run() -> None:
        while True:
            threads.beat()
            time.sleep(CHECK_SECONDS)
            look()

    look()
    threads.start("files", run)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="webhook", description="Admission webhook for service function chains.")
    parser.add_argument("--tls-dir", type=Path, default=Path("/etc/sfc/tls"), help="tls.crt and tls.key")
    parser.add_argument(
        "--statement-key",
        type=Path,
        default=Path("/etc/sfc/statement-key/key"),
        help="private key that signs what node agents believe of a replica",
    )
    parser.add_argument(
        "--door",
        type=Path,
        default=Path("/etc/sfc/door"),
        help=f"folder with the file {names.DOOR_FIELD}: what stands before the paths of requests",
    )
    parser.add_argument("--port", type=int, default=8443, help="admission, TLS")
    parser.add_argument("--health-port", type=int, default=8080, help="/healthz, /readyz; plain HTTP")
    parser.add_argument("--metrics-port", type=int, default=names.METRICS_PORT, help="/metrics, TLS, with a token")
    parser.add_argument(
        "--metrics-tls", type=Path, default=Path(names.METRICS_CERTIFICATE), help="tls.crt and tls.key for /metrics"
    )
    parser.add_argument(
        "--callers",
        type=Path,
        default=Path("/etc/sfc/callers"),
        help="folder that may have ca.crt, to serve only callers with a certificate of this authority (PEM), and "
        "names: the common names that they may have, one a line",
    )
    parser.add_argument(
        "--linger-seconds",
        type=float,
        default=LINGER_SECONDS,
        help="how long to keep answering after SIGTERM (default %(default)s)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

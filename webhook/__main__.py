"""The webhook process: `python -m webhook`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from kube.api import ApiError, ApiServer
from sfc import log
from webhook.cache import AdmissionCache
from webhook.certificate import ServingCertificate
from webhook.server import LINGER_SECONDS, Servers


def main() -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code: 1 when it cannot start, or when a server ended by itself."""
    options = _options()
    log.configure()
    try:
        key = options.drain_key.read_bytes()
        certificate = ServingCertificate(options.tls_dir, options.client_ca)
        api = ApiServer.from_environment()
    except (OSError, ApiError) as error:
        print(f"webhook cannot start: {error}", file=sys.stderr)
        return 1
    if not key:
        print(f"webhook cannot start: drain key {options.drain_key} is empty", file=sys.stderr)
        return 1
    cache = AdmissionCache(api)
    cache.start()
    certificate.refresh()
    certificate.keep_fresh(threading.Event())
    servers = Servers(cache, certificate, key, ("", options.port), ("", options.health_port))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: servers.stop())
    try:
        return 0 if servers.run(options.linger_seconds) else 1
    except OSError as error:
        print(f"webhook cannot listen on port {options.port}: {error}", file=sys.stderr)
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="webhook", description="Admission webhook for service function chains.")
    parser.add_argument("--tls-dir", type=Path, default=Path("/etc/sfc/tls"), help="tls.crt and tls.key")
    parser.add_argument(
        "--drain-key",
        type=Path,
        default=Path("/etc/sfc/drain-key/key"),
        help="binds drain ids to their pods",
    )
    parser.add_argument("--port", type=int, default=8443, help="admission, TLS")
    parser.add_argument("--health-port", type=int, default=8080, help="/healthz, /readyz, /metrics; plain HTTP")
    parser.add_argument("--client-ca", type=Path, help="serve only callers with a certificate of this authority (PEM)")
    parser.add_argument(
        "--linger-seconds",
        type=float,
        default=LINGER_SECONDS,
        help="how long to keep answering after SIGTERM (default %(default)s)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""/healthz, /readyz and /metrics of a controller, over plain HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from controller.listener import SharedPort

Check = Callable[[], str | None]
"""Returns None when all is well, otherwise what is wrong."""

REQUEST_TIMEOUT_SECONDS = 10


def serve(port: int, *, healthy: Check, ready: Check, address: str = "") -> SharedPort:
    """Answers in threads of its own, until the returned server is closed.

    `healthy` decides /healthz and `ready` decides /readyz: 200, or 503 with what is wrong. `address` is the local
    address to listen on; an empty one stands for all.
    """
    checks = {"/healthz": healthy, "/readyz": ready}

    class Probe(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_SECONDS

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
            elif check := checks.get(self.path):
                problem = check()
                self._answer(503 if problem else 200, "text/plain", f"{problem or 'ok'}\n".encode())
            else:
                self._answer(404, "text/plain", b"there are /healthz, /readyz and /metrics\n")

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silence: probes come every two seconds."""

    server = SharedPort((address, port), Probe)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server

"""/healthz and /readyz of a controller, over plain HTTP, for the kubelet. They say nothing of anybody's pods."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from controller.listener import shared_port
from serving.bounded import BoundedServer

Check = Callable[[], str | None]
"""Returns None when all is well, otherwise what is wrong."""

REQUEST_TIMEOUT_SECONDS = 10


def serve(port: int, *, healthy: Check, ready: Check, address: str = "") -> BoundedServer:
    """Answers in threads of its own, until the returned server is closed.

    `healthy` decides /healthz and `ready` decides /readyz: 200, or 503 with what is wrong. `address` is the local
    address to listen on; an empty one stands for all.
    """
    checks = {"/healthz": healthy, "/readyz": ready}

    class Probe(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_SECONDS

        def do_GET(self) -> None:
            if check := checks.get(self.path):
                problem = check()
                self._answer(503 if problem else 200, f"{problem or 'ok'}\n")
            else:
                self._answer(404, "there are /healthz and /readyz\n")

        def _answer(self, status: int, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silence: probes come every two seconds."""

    server = BoundedServer(shared_port(address, port), Probe, "health")
    server.start()
    return server

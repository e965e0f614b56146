"""/healthz, /readyz and /metrics over plain HTTP, for the node agent and the cluster controller alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


class HealthServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], unready: Callable[[], str | None]) -> None:
        """`unready` says what is still missing, or None."""
        self.unready = unready
        super().__init__(address, _Request)

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, name="health", daemon=True).start()


class _Request(BaseHTTPRequestHandler):
    server: HealthServer
    timeout = 10

    def do_GET(self) -> None:
        match self.path:
            case "/healthz":
                self._answer(200, b"ok\n")
            case "/readyz":
                reason = self.server.unready()
                self._answer(503 if reason else 200, f"{reason or 'ok'}\n".encode())
            case "/metrics":
                self._answer(200, generate_latest(), CONTENT_TYPE_LATEST)
            case _:
                self._answer(404, b"not found\n")

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: probes and scrapes are not events."""

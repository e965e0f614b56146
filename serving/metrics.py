"""/metrics over TLS, for callers with a token whose bearer may read them.

A scrape costs the same however often it is asked for: the page is made at most once a second. Connections that have
shown a good token stay open between scrapes, so that callers who have none cannot keep Prometheus out.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from serving.access import PATH, Access
from serving.bounded import BoundedServer
from serving.certificate import Certificate
from serving.sources import Sources

PAGE_SECONDS = 1.0
STRANGER_SECONDS = 5.0
"""For the handshake, and for the first request."""
IDLE_SECONDS = 150.0
"""Between two scrapes of one connection."""

WORDS = {
    HTTPStatus.UNAUTHORIZED: "metrics need a token that the API server knows: Authorization: Bearer TOKEN",
    HTTPStatus.FORBIDDEN: "the token's bearer may not get /metrics: bind it to the ClusterRole sfc-metrics-reader",
    HTTPStatus.SERVICE_UNAVAILABLE: "the API server cannot be asked who the token's bearer is",
    HTTPStatus.NOT_FOUND: "there is /metrics",
}


class Page:
    """What Prometheus reads, made at most once in PAGE_SECONDS. Thread-safe."""

    def __init__(
        self, make: Callable[[], bytes] = generate_latest, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make = make
        self._clock = clock
        self._guard = threading.Lock()
        self._text, self._made = b"", float("-inf")

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        with self._guard:
            if self._clock() - self._made >= PAGE_SECONDS:
                self._text, self._made = self._make(), self._clock()
            return self._text


class MetricsServer(BoundedServer):
    """Serves from `start` to `close`. Without a certificate it closes each connection at once."""

    def __init__(self, listener: socket.socket, certificate: Certificate, access: Access, page: Page) -> None:
        super().__init__(listener, _Scrape, "metrics")
        self._certificate = certificate
        self._sources = Sources()
        self.access = access
        self.page = page

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """socketserver calls this for each connection; False closes it."""
        return self._sources.admits(client_address[0], time.monotonic())

    def process_request(self, request: Any, client_address: Any) -> None:
        """The handshake is left to the connection's own thread."""
        if context := self._certificate.context():
            request.settimeout(STRANGER_SECONDS)
            secured = context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            super().process_request(secured, client_address)
        else:
            self.shutdown_request(request)


class _Scrape(BaseHTTPRequestHandler):
    server: MetricsServer
    protocol_version = "HTTP/1.1"
    timeout = STRANGER_SECONDS
    wbufsize = -1  # head and body leave together: the body would wait for the caller's delayed acknowledgement

    def do_GET(self) -> None:
        status = (
            self.server.access.status(self.headers.get("Authorization")) if self.path == PATH else HTTPStatus.NOT_FOUND
        )
        if status == HTTPStatus.OK:
            self.server.welcome(self.connection)
            self.connection.settimeout(IDLE_SECONDS)
            self._answer(status, CONTENT_TYPE_LATEST, self.server.page.text())
        else:
            self.close_connection = True
            self._answer(status, "text/plain", f"{WORDS[status]}\n".encode())

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Names no software."""
        return "sfc"

    def log_message(self, *_: object) -> None:
        """Silence: scrapes come all the time."""

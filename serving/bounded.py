"""An HTTP server that costs little, however many call it: connections are few, and the idle ones give way."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sfc import threads

log = logging.getLogger(__name__)

BACKLOG = 1024
POLL_SECONDS = 0.1
"""Until `close` is noticed."""
CONNECTIONS = 32
"""At one time, each with a thread. Beyond that the oldest one ends that is not `welcome`, or the oldest of all."""


def listen(address: str, port: int) -> socket.socket:
    """Listens on a TCP port, which other sockets of the same user may share. An empty address stands for all.

    Raises OSError.
    """
    both = not address and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, dualstack_ipv6=both, reuse_port=True, backlog=BACKLOG)


class BoundedServer(ThreadingHTTPServer):
    """Serves on a socket that listens, in threads of its own from `start` to `close`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, handler: type[BaseHTTPRequestHandler], name: str) -> None:
        """`name` is the thread's."""
        super().__init__(("", 0), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_address = listener.getsockname()
        self._open: dict[socket.socket, bool] = {}
        """In the order in which they came; True when welcome."""
        self._guard = threading.Lock()
        self._name = name
        self._closing = threading.Event()

    def start(self) -> None:
        """To be called once."""
        threads.start(self._name, lambda: self.serve_forever(POLL_SECONDS), until=self._closing.is_set)

    def close(self) -> None:
        """Stops serving and listening. Must not be called from the thread that serves."""
        self._closing.set()
        self.shutdown()
        self.server_close()

    def service_actions(self) -> None:
        """socketserver calls this every POLL_SECONDS."""
        threads.beat()

    def welcome(self, connection: socket.socket) -> None:
        """This connection stays when others have to go."""
        with self._guard:
            if connection in self._open:
                self._open[connection] = True

    def process_request(self, request: Any, client_address: Any) -> None:
        """socketserver calls this for each connection."""
        with self._guard:
            self._open[request] = False
            if len(self._open) > CONNECTIONS:
                oldest = min(self._open, key=self._open.__getitem__)  # the first one that has the least value
                del self._open[oldest]
                with suppress(OSError):
                    socket.socket.shutdown(oldest, socket.SHUT_RDWR)  # its thread finds the end of the stream
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """socketserver calls this when a connection ends."""
        with self._guard:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """socketserver calls this. A caller that breaks off or sends nonsense is not worth a line in the log."""
        if not isinstance(sys.exception(), OSError):
            log.exception("no answer to a caller", extra={"server": self._name})

"""Ports that two agents of a node share while one takes over from the other."""

from __future__ import annotations

import ctypes
import socket
import struct
from http.server import ThreadingHTTPServer

SO_ATTACH_REUSEPORT_CBPF = 51
RETURN_SECOND = struct.pack("=HBBI", 0x06, 0, 0, 1)
"""BPF_RET | BPF_K, 1: the second of the sockets in the order in which they began to listen."""


class SharedPort(ThreadingHTTPServer):
    """Listens beside an older listener of another process, and gets every connection from then on.

    SO_REUSEPORT alone would spread connections over both. An index that is not there, as when the older one has closed
    or there never was one, makes the kernel choose among those that are.
    """

    allow_reuse_port = True
    daemon_threads = True
    request_queue_size = 256

    def server_activate(self) -> None:
        super().server_activate()
        program = ctypes.create_string_buffer(RETURN_SECOND, len(RETURN_SECOND))
        filters = struct.pack("@HP", 1, ctypes.addressof(program))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, filters)

    def close(self) -> None:
        """Stops listening; who has connected by then is answered. Not to be called from `serve_forever`'s thread."""
        self.shutdown()
        self.socket.setblocking(False)
        while True:
            try:
                connection, caller = self.get_request()
            except BlockingIOError:
                break
            connection.setblocking(True)
            self.process_request(connection, caller)
        self.server_close()

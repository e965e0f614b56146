"""Listening beside or in place of another process, so that nobody finds a closed port when one takes over."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from http.server import ThreadingHTTPServer
from pathlib import Path

SO_ATTACH_REUSEPORT_CBPF = 51
RETURN_SECOND = struct.pack("=HBBI", 0x06, 0, 0, 1)
"""BPF_RET | BPF_K, 1: the second of the sockets in the order in which they began to listen."""


def newest_first(listener: socket.socket) -> None:
    """Of two listeners on one port, the newer one gets every connection from now on.

    SO_REUSEPORT alone would spread connections over both. An index that is not there, as when the older one has closed
    or there never was one, makes the kernel choose among those that are.
    """
    program = ctypes.create_string_buffer(RETURN_SECOND, len(RETURN_SECOND))
    filters = struct.pack("@HP", 1, ctypes.addressof(program))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, filters)


def take_over(path: Path) -> socket.socket:
    """A unix socket, for root alone, that listens at `path` in place of what is there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(fresh))
    fresh.chmod(0o600)
    listener.listen(socket.SOMAXCONN)
    fresh.rename(path)
    return listener


class SharedPort(ThreadingHTTPServer):
    """May listen beside an older listener, and gets every connection from then on."""

    allow_reuse_port = True
    daemon_threads = True

    def server_activate(self) -> None:
        super().server_activate()
        newest_first(self.socket)

    def close(self) -> None:
        """Not to be called from the thread that serves."""
        self.shutdown()
        self.server_close()

"""Listening beside another process or in its place, so that no caller finds a closed port when one takes over."""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from serving.bounded import listen
from sfc import threads

log = logging.getLogger(__name__)

SO_ATTACH_REUSEPORT_CBPF = 51
RETURN_SECOND = struct.pack("=HBBI", 0x06, 0, 0, 1)
"""BPF_RET | BPF_K, 1: the index of the second socket, in the order in which the sockets began to listen."""
PEER_CREDENTIALS = struct.Struct("iII")
"""struct ucred: process, user, group."""
POLL_SECONDS = 0.5
"""Between two signs of life of a thread to which nobody connects."""
REFUSED_SECONDS = 0.1
"""After the kernel could not accept a connection: the process has no descriptor left, for example."""


class Acceptor:
    """Accepts connections in a thread of its own, from `start` to `stop`."""

    def __init__(self, name: str, listener: socket.socket, serve: Callable[[socket.socket], object]) -> None:
        """`serve` gets each connection, in the thread, which is called `name`. It closes it, and must not raise."""
        self._name = name
        self._listener = listener
        self._serve = serve
        self._stopped = threading.Event()
        self._thread: threads.Thread | None = None

    def start(self) -> None:
        """To be called once."""
        self._listener.settimeout(POLL_SECONDS)
        self._thread = threads.start(self._name, self._accept, until=self._stopped.is_set)

    def stop(self) -> None:
        """Closes the socket; the connection that is being served is served first."""
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        if self._thread:
            self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        refused = False
        while not self._stopped.is_set():
            threads.beat()
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if not self._stopped.wait(REFUSED_SECONDS) and not refused:
                    refused = True
                    log.error("connections cannot be accepted", extra={"thread_name": self._name, "error": str(error)})
                continue
            refused = False
            self._serve(connection)


def newest_first(listener: socket.socket) -> None:
    """Of two listeners on one port, the newer one gets every connection from now on.

    SO_REUSEPORT alone would spread connections over both. If only one socket listens, the kernel falls back to it.
    """
    program = ctypes.create_string_buffer(RETURN_SECOND, len(RETURN_SECOND))
    filters = struct.pack("@HP", 1, ctypes.addressof(program))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, filters)


def shared_port(address: str, port: int) -> socket.socket:
    """Listens beside an older listener of the same user, and gets every connection from then on (`listen`)."""
    listener = listen(address, port)
    newest_first(listener)
    return listener


def take_over(path: Path, group: int | None = None) -> socket.socket:
    """Listens on a unix socket at `path`, for root alone or also for a `group`, in place of whatever listens there.

    The new socket listens before it gets the path, and rename(2) is atomic: a caller always finds a listener.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = _beside(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(fresh))
    _admit(fresh, group)
    listener.listen(socket.SOMAXCONN)
    fresh.rename(path)
    return listener


def lead_to(path: Path, other: Path, group: int | None = None) -> None:
    """From now on `path` is another name of the unix socket at `other`, which is then open to the `group`, too.

    A caller of `path` always finds a listener. Raises OSError.
    """
    fresh = _beside(path)
    fresh.hardlink_to(other)
    _admit(fresh, group)
    fresh.rename(path)
    fresh.unlink(missing_ok=True)  # rename(2) does nothing when both are already names of one file


def peer_user(connection: socket.socket) -> int:
    """The user of the process that connected to a unix socket."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
    _, user, _ = PEER_CREDENTIALS.unpack(credentials)
    return int(user)


def _beside(path: Path) -> Path:
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    return fresh


def _admit(path: Path, group: int | None) -> None:
    if group is not None:
        os.chown(path, -1, group)
    path.chmod(0o600 if group is None else 0o660)

"""The port of the PreStop hooks: the agent opens it, and the relay listens on it.

In a rollout two relays share the port. The kernel allows that only for sockets that one user made (SO_REUSEPORT), and
the relays of earlier versions run as root. The relay does not, so it gets a socket that the agent made, as systemd
gives sockets to services. Once it has the socket, it needs no agent to keep it.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

from controller.listener import Acceptor, peer_user, take_over

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0


def open_to_relay(folder: Path, relay: int) -> None:
    """Makes the folder of the sockets that the relay may reach, and may not replace."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, -1, relay)
    folder.chmod(0o710)


def open_port(host: str, port: int) -> socket.socket:
    """A TCP socket that may share its port, and does not listen yet. Raises OSError."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    opened.bind((host, port))
    return opened


def ask(path: Path) -> socket.socket:
    """The socket that the agent at the unix socket `path` gives, and then has no copy of. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        agent.settimeout(ANSWER_SECONDS)
        agent.connect(str(path))
        _, descriptors, _, _ = socket.recv_fds(agent, 1, 1)
        if not descriptors:
            raise ConnectionError(f"the agent at {path} gave no socket; its log says why")
        given = socket.socket(fileno=descriptors[0])
        with suppress(OSError):
            agent.recv(1)  # the end: the agent has closed its copy, which would keep the port open after ours is closed
    return given


class PortGiver:
    """Gives each relay that asks a socket of its own, in a thread, until `stop`."""

    def __init__(self, path: Path, address: tuple[str, int], relay: int) -> None:
        """`address`: host and port to give. `relay`: the user and group that may ask, besides root."""
        self._address = address
        self._users = (0, relay)
        self._acceptor = Acceptor("port", take_over(path, relay), self._answer)

    def start(self) -> None:
        """To be called once."""
        self._acceptor.start()

    def stop(self) -> None:
        """Leaves the path alone: a newer one may have taken it over."""
        self._acceptor.stop()

    def _answer(self, relay: socket.socket) -> None:
        with relay:
            try:
                self._give(relay)
            except OSError as error:
                log.error("no port for the relay", extra={"address": self._address, "error": str(error)})

    def _give(self, relay: socket.socket) -> None:
        if peer_user(relay) not in self._users:
            raise PermissionError("a process that is neither root nor the relay asked for it")
        with open_port(*self._address) as opened:
            socket.send_fds(relay, [b"\n"], [opened.fileno()])

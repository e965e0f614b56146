"""Whether the other nodes live: each is sent an echo through the tunnel, five times a second.

The program of the other node answers, with or without an agent there. A node that misses five is down: it gets no new
sessions, and those that it has choose again. All is undone when it is heard again. A node that loses most of the others
at once changes nothing: it is the one that is cut off.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from sfc import threads

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.2
MISSES = 5
SILENCE_NS = int(MISSES * BEAT_SECONDS * 1e9)
_ECHO_ASKED = 1 << 14 | 1 << 12
"""The version of the format, and the message (bpf/tunnel.h)."""
_VXLAN = struct.Struct("!BBHI")
_HAS_ID, _HAS_POLICY = 0x08, 0x80
_FRAME = bytes.fromhex("020000000000 020000000001 88b5").ljust(60, b"\0")
"""A frame that no stack would take: between two addresses of nobody, of a type for experiments."""
ECHO = _VXLAN.pack(_HAS_ID | _HAS_POLICY, 0, _ECHO_ASKED, 0) + _FRAME


class PeerHealth(Protocol):
    """The other nodes in the program's maps. Every method raises DatapathError."""

    def known(self) -> Mapping[str, int]:
        """The number of each node, by address."""

    def heard(self, number: int) -> int:
        """When it last answered: ns on CLOCK_MONOTONIC; 0: never."""

    def is_up(self, number: int) -> bool:
        """Whether frames are sent to it."""

    def set_up(self, number: int, up: bool) -> None:
        """Whether frames are to be sent to it."""


class Heartbeat:
    """Of one thread."""

    def __init__(self, peers: PeerHealth, send: Callable[[str], None], clock: Callable[[], int] = time.monotonic_ns):
        """`send` sends an echo to an address, and raises OSError. `clock`: CLOCK_MONOTONIC, ns."""
        self._peers = peers
        self._send = send
        self._clock = clock
        self._asked: dict[int, int] = {}
        """When each node was asked first, by number."""
        self._cut_off = False

    def beat(self) -> None:
        """Asks every node once, and follows what they have answered so far."""
        now, known = self._clock(), self._peers.known()
        for address, number in known.items():
            self._asked.setdefault(number, now)
            with suppress(OSError):  # an answer that does not come is all that counts
                self._send(address)
        numbers = {*known.values()}
        self._asked = {number: at for number, at in self._asked.items() if number in numbers}
        silent = {number for number, at in self._asked.items() if now - max(at, self._peers.heard(number)) > SILENCE_NS}
        self._follow(numbers, silent, {number: address for address, number in known.items()})

    def _follow(self, numbers: set[int], silent: set[int], addresses: Mapping[int, str]) -> None:
        up = {number for number in numbers if self._peers.is_up(number)}
        for number in numbers - silent - up:
            self._peers.set_up(number, up=True)
            log.warning("node heard again", extra={"address": addresses[number]})
        lost = silent & up
        cut_off = 2 * len(silent) > len(numbers) > 1
        if cut_off and not self._cut_off:
            log.error(
                "most other nodes are silent: this node is probably cut off, and changes nothing",
                extra={"silent": len(silent), "nodes": len(numbers)},
            )
        self._cut_off = cut_off
        for number in () if cut_off else lost:
            self._peers.set_up(number, up=False)
            log.error("node silent: its sessions choose again", extra={"address": addresses[number]})

    def run(self, stop: threading.Event) -> None:
        """Until `stop`."""
        while not stop.wait(BEAT_SECONDS):
            threads.beat()
            try:
                self.beat()
            except Exception:
                log.exception("the other nodes could not be looked at; tried again")


class EchoSender:
    """Sockets in the network namespace in which it was made."""

    def __init__(self, port: int) -> None:
        """`port`: the tunnel's, on every node."""
        self._port = port
        self._sockets = {4: socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)}
        with suppress(OSError):  # a kernel without IPv6
            self._sockets[6] = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def send(self, address: str) -> None:
        """Sends an echo. Raises OSError."""
        version = 6 if ":" in address else 4
        if version not in self._sockets:
            raise OSError(f"no socket for IPv{version}")
        self._sockets[version].sendto(ECHO, (address, self._port))

    def close(self) -> None:
        """Closes the sockets."""
        for each in self._sockets.values():
            each.close()

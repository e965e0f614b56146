"""Whether the other nodes live: each is sent an echo through the tunnel, five times a second.

The program of the other node answers, with or without an agent there. A node that misses five is down: it gets no new
sessions, and those that it has choose again. All is undone when it has answered five in a row: until then it may not
have found its own way to the others yet. A node that loses most of the others at once changes nothing: it is the one
that is cut off.

What counts are echoes without an answer, not the time that has passed: on a node with too much to do this thread may be
late by seconds, and then it has asked nobody. A node that sends in another version of the wire lives, and is down at
once.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from controller.node.plane.far import WIRE_VERSION
from controller.node.plane.hearing import Hearing, Silent
from sfc import threads

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.2
MISSES = 5
ANSWERS = 5
"""In a row, before a node that was silent counts as heard again."""
_ECHO_ASKED = 1 << 12
"""The message (bpf/tunnel.h)."""
_VXLAN = struct.Struct("!BBHI")
_HAS_ID, _HAS_POLICY = 0x08, 0x80
_FRAME = bytes.fromhex("020000000000 020000000001 88b5").ljust(60, b"\0")
"""A frame that no stack would take: between two addresses of nobody, of a type for experiments."""


def echo(version: int = WIRE_VERSION) -> bytes:
    """The payload of an echo, in that version of the wire."""
    return _VXLAN.pack(_HAS_ID | _HAS_POLICY, 0, version << 14 | _ECHO_ASKED, 0) + _FRAME


class PeerHealth(Protocol):
    """The other nodes in the program's maps. Every method raises DatapathError."""

    def known(self) -> Mapping[str, int]:
        """The number of each node, by address."""

    def heard(self, number: int) -> int:
        """When it last answered: ns on CLOCK_MONOTONIC; 0: never, or it sends in another version since."""

    def foreign(self, number: int) -> int | None:
        """The version of the wire in which it sends, if that is another one."""

    def is_up(self, number: int) -> bool:
        """Whether frames are sent to it."""

    def set_up(self, number: int, up: bool) -> None:
        """Whether frames are to be sent to it."""


@dataclass(slots=True)
class _Asked:
    """A node, and what it owes."""

    at: int
    """When it was asked last: ns."""
    since: int
    """When it answered last, or was asked first: ns."""
    misses: int = 0
    """Echoes since then without an answer."""
    answers: int = 0
    """In a row."""
    version: int | None = None
    """The one in which it sends, if that is another one."""

    def silent(self, up: bool) -> bool:
        """Whether it counts as down, or goes on doing so."""
        return self.misses >= MISSES or self.version is not None or (not up and self.answers < ANSWERS)


class Heartbeat:
    """Of one thread; others read `hearing`."""

    def __init__(
        self,
        peers: PeerHealth,
        send: Callable[[str], None],
        clock: Callable[[], int] = time.monotonic_ns,
        *,
        observe: Callable[[float], None] = lambda _: None,
        names: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`send` sends an echo to an address, and raises OSError. `clock`: CLOCK_MONOTONIC, ns. `observe` gets each
        round trip in seconds. `names`: of the nodes, by address, for the log."""
        self._peers = peers
        self._send = send
        self._clock = clock
        self._observe = observe
        self._names = names
        self._asked: dict[int, _Asked] = {}
        """By number."""
        self.hearing = Hearing()
        """After the last beat."""

    def beat(self) -> None:
        """Follows what every node has answered since it was asked last, and asks it again."""
        known = self._peers.known()
        self._asked = {number: self._asked[number] for number in known.values() if number in self._asked}
        for address, number in known.items():
            now = self._clock()
            if asked := self._asked.get(number):
                self._look(number, asked)
                asked.at = now
            else:
                self._asked[number] = _Asked(now, now)
            with suppress(OSError):  # an answer that does not come is all that counts
                self._send(address)
        self._follow(known)

    def _look(self, number: int, asked: _Asked) -> None:
        heard = self._peers.heard(number)
        if heard >= asked.at:
            self._observe((heard - asked.at) / 1e9)
            asked.since, asked.misses, asked.version = heard, 0, None
            asked.answers += 1
        else:
            asked.misses += 1
            asked.answers = 0
            asked.version = None if heard else self._peers.foreign(number)

    def _follow(self, known: Mapping[str, int]) -> None:
        up = {address: self._peers.is_up(number) for address, number in known.items()}
        silent = {address: its for address, number in known.items() if (its := self._asked[number]).silent(up[address])}
        foreign = [address for address, its in silent.items() if its.version is not None]
        unheard = sum(its.misses >= MISSES and its.version is None for its in silent.values())
        others = len(known) - len(foreign)
        cut_off = 2 * unheard > others > 1
        if cut_off and not self.hearing.cut_off:
            log.error(
                "most other nodes are silent: this node is probably cut off, and changes nothing",
                extra={"silent": unheard, "nodes": others},
            )
        for address, number in known.items():
            owes = silent.get(address)
            if up[address] == bool(owes) and (not owes or not cut_off or address in foreign):
                self._set(address, number, owes)
        found = {address: Silent(its.since / 1e9, its.version) for address, its in silent.items()}
        self.hearing = Hearing(known.keys(), found, cut_off)

    def _set(self, address: str, number: int, silent: _Asked | None) -> None:
        """Whether frames are sent to the node, which was otherwise before."""
        self._peers.set_up(number, up=not silent)
        fields = {"peer": self._names().get(address, ""), "address": address}
        if not silent:
            log.warning("node heard again", extra=fields)
        elif silent.version is None:
            log.error("node silent: its sessions choose again", extra=fields)
        else:
            log.error(
                "node sends in another version of the wire: its sessions choose again; finish the upgrade of sfc-node",
                extra=fields | {"version": silent.version, "own_version": WIRE_VERSION},
            )

    def run(self, stop: threading.Event) -> None:
        """Until `stop`."""
        threads.every(BEAT_SECONDS, stop, self.beat, "the other nodes could not be looked at; tried again")


class EchoSender:
    """Sockets in the network namespace in which it was made."""

    def __init__(self, port: int, version: int = WIRE_VERSION) -> None:
        """`port`: the tunnel's, on every node."""
        self._port = port
        self._echo = echo(version)
        self._sockets = {4: socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)}
        with suppress(OSError):  # a kernel without IPv6
            self._sockets[6] = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def send(self, address: str) -> None:
        """Sends an echo. Raises OSError."""
        version = 6 if ":" in address else 4
        if version not in self._sockets:
            raise OSError(f"no socket for IPv{version}")
        self._sockets[version].sendto(self._echo, (address, self._port))

    def close(self) -> None:
        """Closes the sockets."""
        for each in self._sockets.values():
            each.close()

"""Which of a node's agents leads: one at a time changes the data path and answers CNI calls and hooks.

The leader holds a lock that ends with its process. In a rollout the newcomer asks for it, once it knows the cluster:

    newcomer → leader    a connection to the leader's socket
    leader → newcomer    its drains in progress, after its last pass; the lock is free
    newcomer → leader    a byte, once it leads; from now on calls reach the newcomer
    leader               closes held hooks without an answer, so that the relay asks the newcomer, and stands by until
                         it is stopped

An agent that stands by takes the lock when its holder dies, so a newcomer that crashes costs nothing. An agent that is
killed hands nothing over, so the leader also notes its drains in a file. The next leader reads them there, and they go
on with their own deadlines, even before it knows the cluster.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from controller.listener import take_over
from controller.node.plane.drain import Drain
from sfc import threads

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
ANSWER_SECONDS = 10.0
"""For a leader to end its last pass, and for a newcomer to begin to lead."""
LEADING = b"\n"
LIMIT = 1 << 20
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Times on the monotonic clock mean nothing after another boot."""


class Leadership:
    """One agent's part in it.

    All agents of the node share `folder`. Its file `leader` holds the `name` of the agent that leads, for people and
    for the startup probe.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # whoever made it: the sockets in it are for root alone
        self._folder = folder
        self._name = name
        self._lock = os.open(folder / "leader", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._predecessor: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._noted: Sequence[Drain] | None = None
        """What `note` wrote last, without the numbers of sessions."""

    def acquire(self, stop: threading.Event, may_ask: Callable[[], bool]) -> Sequence[Drain] | None:
        """Waits until this agent leads; returns the drains that the former leader had in progress, as it hands them
        over, or as it noted them before it was killed.

        Asks the leader to hand over as soon as `may_ask()` is true. None when `stop` came first.
        """
        with self._standing_by():
            while not stop.is_set():
                threads.beat()
                if self._locked():
                    return self._left_behind()
                if may_ask() and (drains := self._ask()) is not None:
                    return drains
                stop.wait(POLL_SECONDS)
        return None

    def note(self, drains: Iterable[Drain]) -> None:
        """Writes down the drains in progress, for the case that this agent is killed. To be called by the leader, after
        each pass; costs next to nothing when they are as before. A failure is logged."""
        present = list(drains)
        lasting = [replace(drain, active_sessions=None) for drain in present]
        if lasting == self._noted:
            return
        fresh = self._folder / "drains.new"
        try:
            fresh.write_text(json.dumps({"boot": BOOT_ID.read_text(), "drains": [asdict(drain) for drain in present]}))
            fresh.replace(self._folder / "drains")
        except OSError as error:
            log.error(
                "drains are not noted: should the agent be killed, hooks begin them anew", extra={"error": str(error)}
            )
        self._noted = lasting

    def _left_behind(self) -> Sequence[Drain]:
        """The drains of a leader that was killed. An agent of an earlier version noted none."""
        try:
            told = json.loads((self._folder / "drains").read_text())
            return tuple(map(_drain, told["drains"])) if told["boot"] == BOOT_ID.read_text() else ()
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning(
                "the drains of the former leader can not be read; hooks begin them anew", extra={"error": str(error)}
            )
            return ()

    def begin(self) -> None:
        """Announces that this agent leads. To be called once it serves all that a leader serves."""
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, self._name.encode(), 0)
        self._listener = take_over(self._folder / "agent.sock")
        if self._predecessor:
            with self._predecessor, suppress(OSError):
                self._predecessor.sendall(LEADING)
            self._predecessor = None

    def asked(self, seconds: float) -> socket.socket | None:
        """Waits up to `seconds` for a newcomer that asks to lead; returns the connection to it, or None."""
        if self._listener:
            self._listener.settimeout(seconds)
            with suppress(TimeoutError):
                return self._listener.accept()[0]
        return None

    def somebody_stands_by(self) -> bool:
        """Whether another agent of the node waits to lead."""
        with _opened(self._folder / "standby") as probe:
            return not _lock(probe, fcntl.LOCK_EX)

    def hand_over(self, newcomer: socket.socket, drains: Sequence[Drain]) -> bool:
        """Gives up the lock, and gives `newcomer` the drains in progress. Closes the connection.

        True when another agent leads now, False when this agent still does: the newcomer failed.
        """
        with newcomer:
            newcomer.settimeout(ANSWER_SECONDS)
            self._release()
            with suppress(OSError):
                newcomer.sendall(json.dumps([asdict(drain) for drain in drains]).encode() + b"\n")
                if newcomer.recv(len(LEADING)):
                    return True
        log.warning("a newcomer asked to lead and then did not")
        return not self._locked()

    def resign(self) -> None:
        """Gives up the lock. If another agent stands by, waits until it has the lock, ANSWER_SECONDS at most."""
        awaited = self.somebody_stands_by()
        self._release()
        until = time.monotonic() + ANSWER_SECONDS
        while awaited and time.monotonic() < until:
            if not self._locked():
                return
            self._release()
            time.sleep(POLL_SECONDS)

    def _release(self) -> None:
        if self._listener:
            self._listener.close()
            self._listener = None
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _locked(self) -> bool:
        return _lock(self._lock, fcntl.LOCK_EX)

    @contextmanager
    def _standing_by(self) -> Iterator[None]:
        with _opened(self._folder / "standby") as standby:
            _lock(standby, fcntl.LOCK_SH)
            yield

    def _ask(self) -> Sequence[Drain] | None:
        """Asks the leader to hand over; returns its drains. None when it does not answer, or has ended."""
        leader = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        leader.settimeout(ANSWER_SECONDS)
        try:
            leader.connect(str(self._folder / "agent.sock"))
            answer = _line(leader)
        except OSError:
            answer = b""
        if not answer or not self._locked():
            leader.close()
            return None
        self._predecessor = leader
        return tuple(_drain(told) for told in json.loads(answer))


def _drain(told: dict[str, Any]) -> Drain:
    """A drain as the leader tells it, which may be of another version: without the fields that this version lacks."""
    return Drain(**{field.name: told[field.name] for field in fields(Drain) if field.name in told})


def _line(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"\n") and len(received) < LIMIT:
        part = connection.recv(1 << 16)
        if not part:
            return b""
        received += part
    return received


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

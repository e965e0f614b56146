"""Accepts connections, and lets few strangers in at a time, so that a flood of them costs API servers nothing.

asyncio starts TLS for every connection that it accepts, and uvicorn learns of a connection only afterwards. So this
accepts instead. A connection

1. waits at the gate, as a bare socket, until its first byte arrives;
2. is let in: TLS and HTTP begin. Strangers take turns, HANDSHAKES_PER_SECOND at most;
3. proves itself, by a client certificate or by a request that goes to a right path.

Whoever has not proved itself may have to go (`crowd`). An address from which a connection proved itself is familiar:
its connections are let in at once, and do not count as strangers.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress

from prometheus_client import Counter, Gauge

from webhook.callers import Callers
from webhook.connection import BoundedConnection
from webhook.crowd import Crowd

MAX_WAITING = 2048
"""Strangers at the gate that have sent nothing, and as many that have. Each costs a file descriptor and about 2 KB."""
MAX_INSIDE = 32
"""Strangers inside. Each costs about 80 KB."""
BUFFER_BYTES = 32 << 10
"""Of a connection with TLS, whose records have 16 KB at most. asyncio's own default of 256 KB, filled with zeros for
every connection, would cost as much time as the handshake, and 100 MB for 400 connections."""
HANDSHAKES_PER_SECOND = 100.0
"""Of strangers. One costs about a millisecond of the event loop."""
HANDSHAKES_AT_ONCE = 32
"""Of strangers, after a while without any: an API server that calls for the first time opens many connections."""
PROOF_SECONDS = 10.0
"""From the connection of a stranger until it has proved itself."""
HANDSHAKE_SECONDS = 10.0
FAMILIAR_SECONDS = 3600.0
"""An address stays familiar for this long after a connection from it proved itself: a pod's is used again one day."""
MAX_FAMILIAR = 1024
ACCEPTS_AT_ONCE = 32
"""Connections accepted before the event loop does something else."""
PAUSE_SECONDS = 0.1
"""Until the next attempt when the process has no file descriptor left."""
TLS_HANDSHAKE = b"\x16"
"""First byte of every TLS connection (RFC 8446, section 5.1)."""

DROPPED = Counter(
    "sfc_admission_connections_dropped_total", "Connections closed before they proved themselves.", ["why"]
)
STRANGERS = Gauge("sfc_admission_strangers", "Connections that have not proved themselves yet.")

CROWDED, SLOW, BROKEN, WRONG = "crowded", "slow", "broken", "wrong path"
"""Values of `why`: another one needed the place; PROOF_SECONDS passed; the connection ended, or was no TLS; it asked
for a path that is not right."""

asyncio.sslproto.SSLProtocol.max_size = BUFFER_BYTES

Make = Callable[[], BoundedConnection]


class Caller:
    """A connection, from its acceptance until it has proved itself."""

    __slots__ = ("address", "connection", "deadline", "handshake", "socket")

    def __init__(self, accepted: socket.socket, address: str) -> None:
        self.socket = accepted
        self.address = address
        self.deadline: asyncio.TimerHandle | None = None
        self.handshake: asyncio.Task[None] | None = None
        self.connection: BoundedConnection | None = None


class Gate:
    """The gate of one listening socket. All methods are for the thread of the running event loop."""

    def __init__(
        self, listening: socket.socket, make: Make, context: ssl.SSLContext, callers: Callers | None = None
    ) -> None:
        """`make`: makes uvicorn's side of a connection that is let in. `callers`: who proves itself by its certificate;
        nobody else may stay."""
        self._listening = listening
        self._make = make
        self._context = context
        self._callers = callers
        self._loop = asyncio.get_running_loop()
        self._silent = Crowd[Caller](MAX_WAITING)
        self._speaking = Crowd[Caller](MAX_WAITING)
        self._inside = Crowd[Caller](MAX_INSIDE)
        self._familiar: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tokens = float(HANDSHAKES_AT_ONCE)
        self._counted_at = time.monotonic()
        self._turn: asyncio.Handle | None = None
        STRANGERS.set_function(lambda: len(self._silent) + len(self._speaking) + len(self._inside))

    def open(self) -> None:
        """Accept from now on."""
        self._listening.setblocking(False)
        self._loop.add_reader(self._listening, self._accept)

    def close(self) -> None:
        """Accept nobody any more, and turn away everybody who waits. Connections that were let in go on."""
        self._loop.remove_reader(self._listening)
        self._listening.close()
        for caller in (*self._silent.all(), *self._speaking.all()):
            self._end(caller)
        if self._turn:
            self._turn.cancel()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                accepted, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._loop.remove_reader(self._listening)
                self._loop.call_later(PAUSE_SECONDS, self._accept_again)
                return
            accepted.setblocking(False)
            self._welcome(Caller(accepted, address[0]))

    def _accept_again(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._listening, self._accept)

    def _welcome(self, caller: Caller) -> None:
        if self._is_familiar(caller.address):
            self._let_in(caller)
            return
        caller.deadline = self._loop.call_later(PROOF_SECONDS, self._drop, caller, SLOW)
        self._loop.add_reader(caller.socket, self._speaks, caller)
        self._crowd_out(self._silent.add(caller.address, caller))

    def _speaks(self, caller: Caller) -> None:
        """It has sent something, or has ended."""
        self._loop.remove_reader(caller.socket)
        try:
            first = caller.socket.recv(1, socket.MSG_PEEK)
        except OSError:
            first = b""
        if first != TLS_HANDSHAKE:
            self._drop(caller, BROKEN)
            return
        self._silent.discard(caller.address, caller)
        self._crowd_out(self._speaking.add(caller.address, caller))
        self._take_turns()

    def _take_turns(self) -> None:
        """Let one stranger in, if it may be now, and come back for the next one."""
        if self._turn or not self._speaking:
            return
        now = time.monotonic()
        self._tokens = min(HANDSHAKES_AT_ONCE, self._tokens + (now - self._counted_at) * HANDSHAKES_PER_SECOND)
        self._counted_at = now
        if self._tokens < 1:
            self._turn = self._loop.call_later((1 - self._tokens) / HANDSHAKES_PER_SECOND, self._next_turn)
            return
        self._tokens -= 1
        if found := self._speaking.next():
            address, caller = found
            self._crowd_out(self._inside.add(address, caller))
            self._let_in(caller)
        self._turn = self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn = None
        self._take_turns()

    def _let_in(self, caller: Caller) -> None:
        caller.connection = self._make()
        caller.connection.on_proof = lambda: self._proved(caller)
        caller.connection.on_end = lambda: self._ended(caller)
        caller.handshake = self._loop.create_task(self._shake_hands(caller))
        self._tasks.add(caller.handshake)  # the loop itself keeps only weak references
        caller.handshake.add_done_callback(self._tasks.discard)

    async def _shake_hands(self, caller: Caller) -> None:
        connection = caller.connection
        assert connection is not None  # noqa: S101
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: connection, caller.socket, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except OSError:
            self._ended(caller)
            return
        # asyncio wakes this up before the connection's first request begins.
        if self._callers and not self._callers.admit(transport.get_extra_info("peercert")):
            connection.turn_away()
        elif self._callers:
            self._proved(caller)

    def _proved(self, caller: Caller) -> None:
        self._familiar.pop(caller.address, None)
        self._familiar[caller.address] = time.monotonic()
        if len(self._familiar) > MAX_FAMILIAR:
            del self._familiar[next(iter(self._familiar))]
        for stranger in self._inside.of(caller.address):
            _stop(stranger)
        for waiting in (*self._silent.of(caller.address), *self._speaking.of(caller.address)):
            self._loop.remove_reader(waiting.socket)
            _stop(waiting)
            self._let_in(waiting)

    def _is_familiar(self, address: str) -> bool:
        proved_at = self._familiar.get(address)
        return proved_at is not None and time.monotonic() - proved_at < FAMILIAR_SECONDS

    def _crowd_out(self, caller: Caller | None) -> None:
        if caller:
            self._end(caller)
            DROPPED.labels(CROWDED).inc()

    def _drop(self, caller: Caller, why: str) -> None:
        if any(crowd.discard(caller.address, caller) for crowd in (self._silent, self._speaking, self._inside)):
            self._end(caller)
            DROPPED.labels(why).inc()

    def _ended(self, caller: Caller) -> None:
        """The caller itself, or uvicorn, ended a connection that was let in."""
        if self._inside.discard(caller.address, caller):
            DROPPED.labels(WRONG if caller.connection and caller.connection.turned_away else BROKEN).inc()
        _stop(caller)
        caller.connection = None  # otherwise both stay in memory until the next search for cycles

    def _end(self, caller: Caller) -> None:
        """It is in no crowd any more."""
        _stop(caller)
        if caller.handshake is None:
            self._loop.remove_reader(caller.socket)
            with suppress(OSError):
                caller.socket.close()
        elif not caller.handshake.done():
            caller.handshake.cancel()  # closes the socket
        elif caller.connection and caller.connection.transport:
            caller.connection.transport.abort()


def _stop(caller: Caller) -> None:
    if caller.deadline:
        caller.deadline.cancel()
        caller.deadline = None

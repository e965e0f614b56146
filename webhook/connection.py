"""A connection that no caller can hold for ever, be it by sending slowly, by reading slowly, or by doing nothing.

uvicorn bounds only the pause between two requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 1024
"""An API server holds one for each request in flight, 200 at its default limits."""
UNUSED_SECONDS = 120.0
"""Until the first byte. An API server opens connections before it needs them and keeps them for 90 s. It does not
repeat a request that was the first one of its connection, so closing earlier could lose a request."""
EXCHANGE_SECONDS = 20.0
"""From the first byte of a request until its answer is read: twice as long as an API server waits at most."""


class BoundedConnection(H11Protocol):
    """uvicorn's HTTP/1.1 connection, aborted when it exceeds a limit of this module."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limit: asyncio.TimerHandle | None = None
        self.app_state = {"connection": self}
        """Requests find it as `scope["state"]`."""
        self.turned_away = False
        self.on_proof: Callable[[], None] = _nothing
        self.on_end: Callable[[], None] = _nothing

    def prove(self) -> None:
        """The caller is who it should be."""
        self.on_proof()

    def turn_away(self) -> None:
        """End the connection once its answer is with the kernel. What the caller still sends is not even decrypted, as
        it would be in an orderly end of TLS."""
        self.turned_away = True
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the limit for an unused connection; abort the connection when there are too many."""
        super().connection_made(transport)
        self._start(UNUSED_SECONDS)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Start the limit for an exchange at its first byte."""
        if self._idle:
            self._start(EXCHANGE_SECONDS)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the limit."""
        self._stop()
        super().connection_lost(exc)
        self.on_end()

    @property
    def _idle(self) -> bool:
        """True when nothing is on its way in either direction."""
        complete = self.cycle is None or self.cycle.response_complete
        return complete and not self.conn.trailing_data[0] and not self.transport.get_write_buffer_size()

    def _start(self, seconds: float) -> None:
        self._stop()
        self._limit = self.loop.call_later(seconds, self._passed)

    def _stop(self) -> None:
        if self._limit is not None:
            self._limit.cancel()

    def _passed(self) -> None:
        """uvicorn ends a connection that is idle after an answer; every other one is ended here."""
        if self.cycle is None or not self._idle:
            self.transport.abort()


def _nothing() -> None:
    """Until somebody wants to know."""

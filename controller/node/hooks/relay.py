"""Holds the kubelet's PreStop calls while node agents come and go: `python -m controller hooks`.

The kubelet calls a hook once, and takes a broken connection for an answer: it stops the pod at once. So a process that
does nothing else holds the connection. It asks the leading agent over a unix socket, and asks again until an answer
comes, even if the agent is killed or another agent takes its place.

It reads what any process of the node sends to its port, so it has no right that matters: a user of its own without
capabilities or token, who reaches the agent's two sockets for hooks and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

from controller import health
from controller.listener import newest_first
from controller.node.hooks import port
from sfc import names, threads

log = logging.getLogger(__name__)

BACKLOG = 256
CALL_SECONDS = 10.0
"""For the whole call to arrive."""
RETRY_SECONDS = 0.05
BEAT_SECONDS = 1.0
LAST_CALLS_SECONDS = 0.2
"""Between SIGTERM and closing the port, so that calls on their way to this listener arrive. In a rollout, later calls
go to the newer listener."""


def run(argv: list[str]) -> int:
    """Holds hooks until SIGTERM or SIGINT, and then until every call is answered; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="controller hooks", description=__doc__.partition("\n")[0])
    parser.add_argument("--socket", type=Path, default=Path(names.HOOK_SOCKET), help="where the leading agent listens")
    parser.add_argument("--port", type=Path, default=Path(names.PORT_SOCKET), help="where it gives the hooks' port")
    parser.add_argument("--listening", type=Path, help="file to make once hooks are held, for the startup probe")
    options = parser.parse_args(argv)
    if options.listening:
        options.listening.unlink(missing_ok=True)  # of the container before
    threads.adopt("main")
    listener = _listener(options.port)  # until then, a signal ends the process (controller/__main__.py)
    asyncio.run(_until_stopped(Relay(options.socket), listener, options.listening))
    return 0


def _listener(path: Path) -> socket.socket:
    """Asks the leading agent for the port until one gives it."""
    told = False
    while True:
        try:
            return port.ask(path)
        except OSError as error:
            if not told:
                log.warning("no agent gives the port for hooks yet", extra={"socket": str(path), "error": str(error)})
                told = True
            threads.beat()
            time.sleep(RETRY_SECONDS)


async def _until_stopped(relay: Relay, listener: socket.socket, listening: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await relay.listen(listener)
    beating = asyncio.create_task(_beat())
    probes = health.serve(
        names.RELAY_HEALTH_PORT, healthy=threads.problem, ready=lambda: None, address=names.HEALTH_HOST
    )
    if listening:
        listening.touch()
    log.info("relay listens for hooks")
    await stop.wait()
    await relay.close()
    beating.cancel()
    probes.close()


async def _beat() -> None:
    while True:
        threads.beat()
        threads.problem()  # for the log, should the thread hang that answers probes
        await asyncio.sleep(BEAT_SECONDS)


class Relay:
    """Holds calls, each of which it passes on to the agent that listens on the unix socket `agent`."""

    def __init__(self, agent: Path) -> None:
        self._agent = agent
        self._held: set[asyncio.Task[None]] = set()

    async def listen(self, listener: socket.socket) -> None:
        """Begins to hold calls. `listener` is bound to the port, which an older relay may share."""
        self._server = await asyncio.start_server(self._hold, sock=listener, backlog=BACKLOG)
        newest_first(listener)

    async def close(self) -> None:
        """Stops listening; returns once every call is answered."""
        await asyncio.sleep(LAST_CALLS_SECONDS)
        self._server.close()
        while self._held:
            await asyncio.wait(self._held)

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked_at = time.monotonic()
        task = asyncio.current_task()
        assert task  # noqa: S101 - a connection's callback is a task
        self._held.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), CALL_SECONDS)
                asked = f"{names.ASKED_AT_HEADER}: {asked_at:.6f}\r\n\r\n".encode()
                writer.write(await self._answer(head.removesuffix(b"\r\n") + asked, reader))
                await writer.drain()
        finally:
            writer.close()
            self._held.discard(task)

    async def _answer(self, call: bytes, caller: asyncio.StreamReader) -> bytes:
        """Asks until an agent answers. Empty when the caller hangs up first."""
        while not caller.at_eof():
            with suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(self._agent)
                try:
                    writer.write(call)
                    if answer := await reader.read():
                        return answer
                finally:
                    writer.close()
            await asyncio.sleep(RETRY_SECONDS)
        return b""

"""Carries TCP connections from the machine's 127.0.0.1, or from one node, to the API server inside node 1.

No link joins the machine and the testbed. This process inherits a listening socket of the machine, then moves into the
node's network namespace, so that the connections it makes start there.

Between a node's agent and the API server it holds back what the server sends unasked, which is what watches bring.
Answers pass at once, so only the node's view of the cluster is late.

It runs as a plain script: standard library only, and no import of the testbed.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import sys
import time
from collections.abc import Coroutine
from pathlib import Path

CLONE_NEWNET = 0x40000000
CHUNK = 1 << 16
ASKED_SECONDS = 1.0
"""What the server sends so long after the client's last bytes was not asked for."""


def enter_network(namespace: str) -> None:
    """Moves this thread into the network namespace of that path; OSError when that fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(namespace, os.O_RDONLY)
    if libc.setns(handle, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    os.close(handle)


class Lag:
    """Of one connection: how long to hold back what the server sends now."""

    def __init__(self, file: Path) -> None:
        """`file` has the seconds. It is read again each time, because it may change."""
        self._file = file
        self._asked = 0.0

    def asked(self) -> None:
        """The client has sent something."""
        self._asked = time.monotonic()

    def seconds(self) -> float:
        """0 for an answer."""
        return 0.0 if time.monotonic() - self._asked < ASKED_SECONDS else float(self._file.read_text())


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lag: Lag | None = None) -> None:
    """Copies one direction of a connection to its end. The other direction may continue.

    `lag`: of the other direction.
    """
    while data := await reader.read(CHUNK):
        if lag:
            lag.asked()
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def pump_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lag: Lag) -> None:
    """As `pump`, late, and in order. The server is never held up."""
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def receive() -> None:
        while data := await reader.read(CHUNK):
            waiting.put_nowait((time.monotonic() + lag.seconds(), data))
        waiting.put_nowait((0.0, b""))

    async with asyncio.TaskGroup() as both:
        both.create_task(receive())
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(due - time.monotonic())
            if not data:
                break
            writer.write(data)
            await writer.drain()
    writer.write_eof()


async def carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, lag: Lag | None
) -> None:
    """Joins an accepted connection with a new one to `host`; returns when both directions have ended."""
    with contextlib.suppress(OSError), contextlib.closing(writer):
        far_reader, far_writer = await asyncio.open_connection(host, port)
        there = pump(reader, far_writer, lag)
        back = pump_late(far_reader, writer, lag) if lag else pump(far_reader, writer)
        with contextlib.closing(far_writer):
            # A broken direction breaks the connection; a finished one waits for the other.
            async with asyncio.TaskGroup() as both:
                both.create_task(quiet(there, writer, far_writer))
                both.create_task(quiet(back, writer, far_writer))


async def quiet(direction: Coroutine[None, None, None], *ends: asyncio.StreamWriter) -> None:
    """Runs one direction; when it breaks, aborts both ends instead of raising."""
    try:
        await direction
    except* OSError:
        for end in ends:
            end.transport.abort()


async def serve(listener: socket.socket, host: str, port: int, lag: Path | None) -> None:
    """Accepts connections for ever, each carried to `host`."""
    server = await asyncio.start_server(
        lambda reader, writer: carry(reader, writer, host, port, Lag(lag) if lag else None), sock=listener
    )
    await server.serve_forever()


def main() -> None:
    """Arguments: number of the listening socket, path of the network namespace, address and port to connect to.

    Or, to be late: the port to listen on in that namespace, the same three, and the file with the seconds.
    """
    listener, namespace, host, port, *lag = sys.argv[1:]
    enter_network(namespace)
    if lag:
        asyncio.run(serve(socket.create_server(("127.0.0.1", int(listener))), host, int(port), Path(lag[0])))
    else:
        asyncio.run(serve(socket.socket(fileno=int(listener)), host, int(port), None))


if __name__ == "__main__":
    main()

"""Carries TCP connections from the machine's 127.0.0.1 to the API server inside node 1.

No link joins the machine and the testbed. This process inherits a listening socket of the machine, then moves into the
node's network namespace, so that the connections it makes start there.

It runs as a plain script: standard library only, and no import of the testbed.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import sys
from collections.abc import Coroutine

CLONE_NEWNET = 0x40000000
CHUNK = 1 << 16


def enter_network(namespace: str) -> None:
    """Moves this thread into the network namespace of that path; OSError when that fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(namespace, os.O_RDONLY)
    if libc.setns(handle, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    os.close(handle)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies one direction of a connection to its end. The other direction may continue."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    """Joins an accepted connection with a new one to `host`; returns when both directions have ended."""
    with contextlib.suppress(OSError), contextlib.closing(writer):
        far_reader, far_writer = await asyncio.open_connection(host, port)
        with contextlib.closing(far_writer):
            # A broken direction breaks the connection; a finished one waits for the other.
            async with asyncio.TaskGroup() as both:
                both.create_task(quiet(pump(reader, far_writer), writer, far_writer))
                both.create_task(quiet(pump(far_reader, writer), writer, far_writer))


async def quiet(direction: Coroutine[None, None, None], *ends: asyncio.StreamWriter) -> None:
    """Runs one direction; when it breaks, aborts both ends instead of raising."""
    try:
        await direction
    except OSError:
        for end in ends:
            end.transport.abort()


async def serve(listener: socket.socket, host: str, port: int) -> None:
    """Accepts connections for ever, each carried to `host`."""
    server = await asyncio.start_server(lambda reader, writer: carry(reader, writer, host, port), sock=listener)
    await server.serve_forever()


def main() -> None:
    """Arguments: number of the listening socket, path of the network namespace, address and port to connect to."""
    listener, namespace, host, port = sys.argv[1:]
    enter_network(namespace)
    asyncio.run(serve(socket.socket(fileno=int(listener)), host, int(port)))


if __name__ == "__main__":
    main()

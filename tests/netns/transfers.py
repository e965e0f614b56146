"""TCP transfers that notice every wrong byte, plain or under TLS: thousands at the same time, in one thread.

A client sends random blocks and expects each back unchanged. Both directions are busy at the same time.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable

from tests.netns.topology import Replica
from tests.netns.world import family_of

PORT, TLS_PORT = 8000, 8443
BLOCK = 8192
BLOCKS_ON_THE_WAY = 8
BACKLOG = 4096
PATIENCE = 60
"""Seconds that a transfer may take: far more than it needs, so that a busy machine causes no failure."""

Enough = Callable[[int], bool]
"""Gets the number of blocks sent so far; True ends the transfer."""


class WrongBytesError(Exception):
    """The block that came back is not the one that was sent."""


async def serve(replica: Replica, tls: ssl.SSLContext | None = None) -> asyncio.Server:
    """Starts an echo server in the replica; use it in `async with`."""
    listener = replica.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", TLS_PORT if tls else PORT))
    return await asyncio.start_server(_echo, sock=listener, ssl=tls, backlog=BACKLOG)


async def transfer(
    client: Replica, address: str, enough: Enough, tls: ssl.SSLContext | None = None, pause: float = 0
) -> int:
    """The number of blocks sent and verified. `pause` is in seconds, after each block.

    Raises OSError, TimeoutError, EOFError or WrongBytesError when the transfer breaks.
    """
    sock = client.socket(family_of(address), socket.SOCK_STREAM)
    sock.setblocking(False)
    async with asyncio.timeout(PATIENCE):
        await asyncio.get_running_loop().sock_connect(sock, (address, TLS_PORT if tls else PORT))
        reader, writer = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname="server" if tls else None)
        try:
            return await _exchange(reader, writer, enough, pause)
        finally:
            writer.close()


async def outcomes(transfers: Iterable[Awaitable[int]]) -> tuple[list[int], list[BaseException]]:
    """(blocks of each transfer that succeeded, the errors of the others)"""
    results = await asyncio.gather(*transfers, return_exceptions=True)
    return [each for each in results if isinstance(each, int)], [each for each in results if not isinstance(each, int)]


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, enough: Enough, pause: float) -> int:
    expected: asyncio.Queue[bytes] = asyncio.Queue(BLOCKS_ON_THE_WAY)

    async def send() -> int:
        sent = 0
        while not enough(sent):
            block = random.randbytes(BLOCK)
            await expected.put(block)
            writer.write(block)
            await writer.drain()
            sent += 1
            await asyncio.sleep(pause)
        await expected.put(b"")
        return sent

    async def verify() -> None:
        while block := await expected.get():
            if await reader.readexactly(len(block)) != block:
                raise WrongBytesError

    async with asyncio.TaskGroup() as tasks:
        sent = tasks.create_task(send())
        tasks.create_task(verify())
    return sent.result()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # the client counts it
    finally:
        writer.close()

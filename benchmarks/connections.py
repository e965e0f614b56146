"""Opens many TCP connections to one server, and checks that none receives another one's bytes.

    connections.py serve
    connections.py open SERVER --from ADDRESS... --connections 20000 --at-a-time 2000

The client's addresses use the same source ports in turn, as independent clients may. Each connection sends unique
bytes, twice with a pause in between, and expects them back both times. A connection that is refused, reset, silent, or
gets other bytes is broken. The last line of the output is the account, as JSON.

It runs as a plain script inside a network namespace: standard library only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
from collections import Counter

PORT = 7
FIRST_PORT = 10000
PAYLOAD_BYTES = 256
HOLD_SECONDS = 0.5
"""The pause between the two exchanges of a connection. Meanwhile many are open that must not be confused."""
PATIENCE_SECONDS = 4.0
"""A connection without an answer for so long is broken. Long enough for two retransmissions."""
BACKLOG = 4096


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends every byte back, to the end of the connection."""
    try:
        while data := await reader.read(4096):
            writer.write(data)
    except OSError:
        pass  # the client counts it
    finally:
        writer.close()


async def serve() -> None:
    """Runs the server; prints a line when it listens."""
    server = await asyncio.start_server(echo, "0.0.0.0", PORT, backlog=BACKLOG)  # noqa: S104 - of a namespace
    print("ready", flush=True)
    await server.serve_forever()


class Client:
    """Opens the connections and counts their outcomes."""

    def __init__(self, server: str, addresses: list[str], connections: int) -> None:
        self._server = (server, PORT)
        self._addresses = addresses
        self._numbers = iter(range(connections))
        self.outcomes: Counter[str] = Counter()
        self._open = 0
        self.most_open = 0

    async def run(self, at_a_time: int) -> None:
        """Runs all connections, so many at the same time; `outcomes` has the result."""
        await asyncio.gather(*(self._one_after_the_other() for _ in range(at_a_time)))

    async def _one_after_the_other(self) -> None:
        for number in self._numbers:
            self.outcomes[await self._outcome(number)] += 1

    async def _outcome(self, number: int) -> str:
        port, address = divmod(number, len(self._addresses))
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.bind((self._addresses[address], FIRST_PORT + port))
            try:
                return await self._converse(sock)
            except TimeoutError:
                return "silent"
            except ConnectionRefusedError:
                return "refused"
            except OSError:
                return "reset"

    async def _converse(self, sock: socket.socket) -> str:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await loop.sock_connect(sock, self._server)
        self._open += 1
        self.most_open = max(self.most_open, self._open)
        try:
            for pause in (HOLD_SECONDS, 0):
                payload = os.urandom(PAYLOAD_BYTES)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await loop.sock_sendall(sock, payload)
                    if await received(sock) != payload:
                        return "other bytes"
                await asyncio.sleep(pause)
        finally:
            self._open -= 1
        return "sound"


async def received(sock: socket.socket) -> bytes:
    """PAYLOAD_BYTES bytes; fewer when the connection ends."""
    data = b""
    while len(data) < PAYLOAD_BYTES and (part := await asyncio.get_running_loop().sock_recv(sock, PAYLOAD_BYTES)):
        data += part
    return data


async def open_connections(options: argparse.Namespace) -> None:
    """Runs the client; prints the account."""
    client = Client(options.server, options.addresses, options.connections)
    await client.run(options.at_a_time)
    broken = {why: number for why, number in client.outcomes.items() if why != "sound"}
    account = {
        "connections": client.outcomes.total(),
        "mostOpen": client.most_open,
        "broken": sum(broken.values()),
        "why": broken,
    }
    print(json.dumps(account))


def main() -> None:
    """Runs the server or the client, as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve")
    client = commands.add_parser("open")
    client.add_argument("server", help="its address")
    client.add_argument("--from", dest="addresses", nargs="+", required=True, help="the client's addresses")
    client.add_argument("--connections", type=int, required=True, help="in all")
    client.add_argument("--at-a-time", type=int, required=True, help="open at the same time")
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(serve() if options.command == "serve" else open_connections(options))


if __name__ == "__main__":
    main()

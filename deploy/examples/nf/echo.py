"""The echo server, and what it shares with the sender: the layout of a datagram, and how to read a socket."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

DATAGRAM = struct.Struct("!IIIII")
"""Magic, run, flow, sequence number; in the echo also how many datagrams of the flow have reached the server."""
MAGIC = 0x53464331

SERVER_SOCKETS = 16
REMEMBERED_FLOWS = 10000


def read_all(sock: socket.socket) -> Iterator[tuple[bytes, Any]]:
    """All datagrams in the socket's buffer, each with its sender.

    Reads until the buffer is empty, so that no datagram counts as lost while it waits there.
    """
    while True:
        try:
            yield sock.recvfrom(65535)
        except BlockingIOError:
            return
        except OSError:
            continue  # an ICMP error about an earlier datagram; whether that was lost is counted elsewhere


class Server:
    """Echoes datagrams and connections. Each echo says how many datagrams of the flow have arrived."""

    def __init__(self) -> None:
        self._flows: OrderedDict[tuple[int, int], int] = OrderedDict()
        self.totals = {"datagrams": 0, "flows": 0, "connections": 0}

    def listen(self, port: int) -> None:
        """Echo datagrams that come to this UDP port, IPv4 and IPv6.

        Many sockets share the port, because each has a buffer of its own. Together they hold what arrives while this
        process waits for a CPU.
        """
        for _ in range(SERVER_SOCKETS):
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.setblocking(False)
            sock.bind(("::", port))
            asyncio.get_running_loop().add_reader(sock, self._echo_datagrams, sock)

    def _echo_datagrams(self, sock: socket.socket) -> None:
        for data, peer in read_all(sock):
            if len(data) >= DATAGRAM.size:
                magic, run, flow, sequence, _ = DATAGRAM.unpack_from(data)
                header = DATAGRAM.pack(magic, run, flow, sequence, self._arrived((run, flow)))
                sock.sendto(header + data[DATAGRAM.size :], peer)

    def _arrived(self, flow: tuple[int, int]) -> int:
        self.totals["datagrams"] += 1
        self.totals["flows"] += flow not in self._flows
        self._flows[flow] = self._flows.get(flow, 0) + 1
        self._flows.move_to_end(flow)
        if len(self._flows) > REMEMBERED_FLOWS:
            self._flows.popitem(last=False)
        return self._flows[flow]

    async def echo_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Echo a connection until the client closes it. A connection that breaks is not an error here."""
        self.totals["connections"] += 1
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # the client counts broken connections
        finally:
            writer.close()

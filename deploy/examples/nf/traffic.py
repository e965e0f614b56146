#!/usr/bin/python3
"""Traffic that counts itself: an echo server, and a client that knows what happened to everything it sent.

    traffic.py server
    traffic.py client 198.51.100.2 --duration 60

The client keeps a number of short UDP flows and TCP connections running. When one ends, a new one with a new source
port takes its place. So the replicas of a chain always get new sessions, and always have some. The client prints its
totals as one JSON line a second. Its last line is the word RESULT and the result.

It needs only the standard library, because its image has nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from account import Account
from echo import Server
from sender import PORTS, Client, most_at_a_time

PORT = 7000
PROGRESS_SECONDS = 1.0
SERVER_TOTALS_SECONDS = 10.0


def buffer_errors(snmp: str) -> int:
    """Datagrams dropped at full socket buffers of this network namespace, from the text of /proc/net/snmp."""
    names, values = (line.split() for line in snmp.splitlines() if line.startswith("Udp:"))
    return int(dict(zip(names, values, strict=True))["RcvbufErrors"])


def own_buffer_errors() -> int:
    """`buffer_errors` of the network namespace of this process."""
    return buffer_errors(Path("/proc/net/snmp").read_text())


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def stamp(line: str) -> None:
    """Print a line in the format of the other network functions: first the time, UTC with milliseconds."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    say(f"{now} {line}")


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


def stop_on_enter(stop: Callable[[], None]) -> None:
    """Call `stop` when standard input has a line or ends. So the client also ends with the process that started it."""
    loop = asyncio.get_running_loop()

    def wait() -> None:
        sys.stdin.readline()
        loop.call_soon_threadsafe(stop)

    threading.Thread(target=wait, daemon=True).start()


async def serve(port: int) -> None:
    """Echo datagrams and connections until SIGTERM or SIGINT; prints totals when they have changed."""
    stopping = asyncio.Event()

    def stop() -> None:
        stamp("SIGTERM received")
        stopping.set()

    stop_on_signals(stop)
    server = Server()
    server.listen(port)
    await asyncio.start_server(server.echo_connection, None, port, backlog=1024)
    stamp(f"ready: echo on port {port}")
    shown = 0
    while not stopping.is_set():
        if server.totals["datagrams"] != shown:
            shown = server.totals["datagrams"]
            say(json.dumps(server.totals | {"bufferErrors": own_buffer_errors()}))
        await _first(stopping.wait(), asyncio.sleep(SERVER_TOTALS_SECONDS))


async def send(options: argparse.Namespace) -> None:
    """Run the client until one of the options or a signal stops it; prints totals and the result."""
    client = Client(
        (options.server, options.port),
        rate=options.rate,
        flows=options.flows,
        connections=options.connections,
        ports=options.ports,
    )
    stop_on_signals(client.stop)
    if options.until_enter:
        stop_on_enter(client.stop)
    if options.duration:
        asyncio.get_running_loop().call_later(options.duration, client.stop)
    started, errors = datetime.now(UTC), own_buffer_errors()
    showing = asyncio.create_task(_show(client.account))
    await client.run()
    showing.cancel()
    result = client.account.report(time.monotonic())
    result |= {"started": started.isoformat(timespec="milliseconds"), "bufferErrors": own_buffer_errors() - errors}
    say(f"RESULT {json.dumps(result)}")


async def _show(account: Account) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        say(json.dumps(account.progress(time.monotonic())))


async def _first(*awaitables: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(a) for a in awaitables]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def ports(text: str) -> range:
    """Ports from their first and last number. Raises ValueError."""
    first, last = text.split("-")
    return range(int(first), int(last) + 1)


def arguments(argv: list[str]) -> argparse.Namespace:
    """The parsed command line. Exits with status 2 if it is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("server", help="echo datagrams and connections")
    client = commands.add_parser("client", help="send, and account for what was sent")
    for command in (server, client):
        command.add_argument("--port", type=int, default=PORT)
    client.add_argument("server", help="address of the server")
    client.add_argument("--rate", type=float, default=2000, help="datagrams a second, all flows together")
    client.add_argument("--flows", type=int, default=100, help="UDP flows at a time")
    client.add_argument("--connections", type=int, default=8, help="TCP connections at a time")
    client.add_argument("--ports", type=ports, default=PORTS, help="source ports, such as 10000-29999")
    client.add_argument("--duration", type=float, help="seconds to send; without it, until SIGTERM or SIGINT")
    client.add_argument("--until-enter", action="store_true", help="stop on a line, or the end, of standard input")
    options = parser.parse_args(argv)
    if options.command == "client" and max(options.flows, options.connections) > (
        most := most_at_a_time(options.ports)
    ):
        parser.error(f"--flows, --connections: at most {most}, or a source port comes back too soon")
    return options


def main() -> None:
    """Run the command that the command line names."""
    options = arguments(sys.argv[1:])
    asyncio.run(serve(options.port) if options.command == "server" else send(options))


if __name__ == "__main__":
    main()

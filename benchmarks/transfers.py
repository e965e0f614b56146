"""Long TCP transfers and many short connections, until standard input ends. It runs inside a network namespace.

    python -m benchmarks.transfers SERVER --long 200 --short-per-second 40 --seed 1

The server is `python -m benchmarks.connections serve`. A long transfer sends block after block for a quarter of a
minute; when it ends, another takes its place. A short connection sends a single block. The sender expects each block
back, and compares the checksum of all blocks. A transfer that is refused, reset, silent, or gets other bytes is broken.
The last line of the output is the account, as JSON; its times are in ns since 1970.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field

from benchmarks.connections import PORT

BLOCK_BYTES = 4096
PAUSE_SECONDS = 0.5
LONG_SECONDS = (10.0, 20.0)
PATIENCE_SECONDS = 20.0
"""A transfer without an answer for so long is broken. Long enough for several retransmissions on a busy machine."""


@dataclass(slots=True)
class Account:
    """What became of the transfers of one kind, long or short."""

    completed: int = 0
    blocks: int = 0
    broken: list[dict[str, object]] = field(default_factory=list)


class Client:
    """Runs the transfers and counts their outcomes."""

    def __init__(self, server: str, seed: int) -> None:
        self._server = server
        self._random = random.Random(seed)  # noqa: S311 - nothing secret
        self._stop = asyncio.Event()
        self.accounts = {"long": Account(), "short": Account()}

    async def run(self, long: int, short_per_second: float) -> None:
        """Runs until standard input ends and all transfers are over; `accounts` has the result."""
        asyncio.get_running_loop().run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: self._stop.set())
        async with asyncio.TaskGroup() as tasks:
            for _ in range(long):
                tasks.create_task(self._one_after_the_other())
            while not await self._stopped(1 / short_per_second):
                tasks.create_task(self._converse("short", 0))

    async def _one_after_the_other(self) -> None:
        """Runs long transfers. The first has a random length, so that not all end at the same time."""
        seconds = self._random.uniform(0, LONG_SECONDS[1])
        while not self._stop.is_set():
            await self._converse("long", seconds)
            seconds = self._random.uniform(*LONG_SECONDS)

    async def _stopped(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _converse(self, kind: str, seconds: float) -> None:
        account, began, port = self.accounts[kind], time.time_ns(), 0
        why = ""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                reader, writer = await asyncio.open_connection(self._server, PORT)
            port = writer.get_extra_info("sockname")[1]
            try:
                await self._exchange(reader, writer, seconds, account)
            finally:
                writer.close()
        except TimeoutError:
            why = "silent"
        except ConnectionRefusedError:
            why = "refused"
        except (OSError, asyncio.IncompleteReadError):
            why = "reset"
        except ValueError:
            why = "other bytes"
        if why:
            account.broken.append({"kind": kind, "port": port, "began": began, "ended": time.time_ns(), "why": why})
        else:
            account.completed += 1

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float, account: Account
    ) -> None:
        sent, received = hashlib.sha256(), hashlib.sha256()
        until = time.monotonic() + seconds
        while True:
            block = self._random.randbytes(BLOCK_BYTES)
            sent.update(block)
            writer.write(block)
            async with asyncio.timeout(PATIENCE_SECONDS):
                received.update(await reader.readexactly(BLOCK_BYTES))
            account.blocks += 1
            if received.digest() != sent.digest():
                raise ValueError
            if time.monotonic() > until or await self._stopped(PAUSE_SECONDS):
                return


async def run(options: argparse.Namespace) -> None:
    """Runs the client; prints the account."""
    client = Client(options.server, options.seed)
    await client.run(options.long, options.short_per_second)
    print(json.dumps({kind: asdict(account) for kind, account in client.accounts.items()}))


def main() -> None:
    """Runs the client with the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("server", help="its address")
    parser.add_argument("--long", type=int, required=True, help="at a time")
    parser.add_argument("--short-per-second", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()

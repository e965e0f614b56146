"""The process that holds hooks, between a caller on a real port and agents that come, go and die."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from controller.node.hooks import relay as relay_module
from controller.node.hooks.port import open_port
from controller.node.hooks.relay import Relay
from sfc import names, threads

CALL = b"GET /drain/abc HTTP/1.1\r\nX-Sfc-Signature: s\r\n\r\n"
HOST = "127.0.0.1"

Agent = Callable[[bytes], Awaitable[bytes]]
"""Returns the answer to a call; an empty one closes the connection without an answer."""


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sfc-relay-") as folder:
        yield Path(folder, "hooks.sock")


async def agent(path: Path, answers: Agent) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            writer.write(await answers(await reader.readuntil(b"\r\n\r\n")))
        writer.close()

    path.unlink(missing_ok=True)
    return await asyncio.start_unix_server(serve, path)


async def listening(relay: Relay, port: int = 0) -> int:
    """The port, which is any that is free unless it is given."""
    opened = open_port(HOST, port)
    await relay.listen(opened)
    bound: int = opened.getsockname()[1]
    return bound


async def call(port: int, request: bytes = CALL) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return answer


async def yes(_: bytes) -> bytes:
    return b"HTTP/1.0 200 OK\r\n\r\nyes"


async def nothing(_: bytes) -> bytes:
    return b""


def test_a_call_and_its_answer_are_passed_on_with_the_time_of_the_call(path: Path) -> None:
    heard: list[bytes] = []

    async def listen(request: bytes) -> bytes:
        heard.append(request)
        return await yes(request)

    async def scene() -> bytes:
        await agent(path, listen)
        relay = Relay(path)
        return await call(await listening(relay))

    before = time.monotonic()
    answer = asyncio.run(scene())

    assert answer.endswith(b"yes")
    assert heard[0].startswith(CALL.removesuffix(b"\r\n"))
    told = float(heard[0].rpartition(b"X-Sfc-Asked-At: ")[2])
    assert before - 0.001 <= told <= time.monotonic()


def test_a_call_is_held_until_an_agent_is_there_that_answers(path: Path) -> None:
    async def scene() -> tuple[bool, bytes]:
        relay = Relay(path)
        caller = asyncio.create_task(call(await listening(relay)))
        await asyncio.sleep(0.2)
        stepping_down = await agent(path, nothing)
        await asyncio.sleep(0.2)
        held = not caller.done()
        stepping_down.close()
        await agent(path, yes)
        return held, await caller

    held, answer = asyncio.run(scene())

    assert held
    assert answer.endswith(b"yes")


def test_an_agent_that_dies_with_a_call_is_asked_again_when_it_is_back(path: Path) -> None:
    async def scene() -> bytes:
        dying = asyncio.Event()

        async def die(_: bytes) -> bytes:
            await dying.wait()
            return b""

        first = await agent(path, die)
        relay = Relay(path)
        caller = asyncio.create_task(call(await listening(relay)))
        await asyncio.sleep(0.1)
        first.close()
        dying.set()
        await asyncio.sleep(0.2)
        await agent(path, yes)
        return await caller

    assert asyncio.run(scene()).endswith(b"yes")


def test_in_a_rollout_no_call_finds_a_closed_port_and_the_old_relay_ends_when_its_calls_have(path: Path) -> None:
    async def scene() -> tuple[bytes, list[bytes], bool]:
        release = asyncio.Event()

        async def later(_: bytes) -> bytes:
            await release.wait()
            return await yes(_)

        slow = await agent(path, later)
        old = Relay(path)
        port = await listening(old)
        held = asyncio.create_task(call(port))
        await asyncio.sleep(0.1)
        slow.close()
        await agent(path, yes)
        new = Relay(path)
        await listening(new, port)
        closing = asyncio.create_task(old.close())
        during = [await call(port) for _ in range(50)]
        ended_early = closing.done()
        release.set()
        answer = await held
        await asyncio.wait_for(closing, 60)
        during += [await call(port)]
        return answer, during, ended_early

    answer, during, ended_early = asyncio.run(scene())

    assert answer.endswith(b"yes")
    assert all(each.endswith(b"yes") for each in during)
    assert not ended_early


def test_a_caller_that_hangs_up_or_says_nothing_sensible_is_not_held(path: Path) -> None:
    async def scene() -> None:
        relay = Relay(path)
        port = await listening(relay)
        with socket.create_connection((HOST, port)) as caller:
            caller.sendall(CALL)
        with socket.create_connection((HOST, port)) as caller:
            caller.sendall(b"\0" * 100)
        await asyncio.sleep(0.2)
        await asyncio.wait_for(relay.close(), 5)

    asyncio.run(scene())


def test_a_loop_that_hangs_makes_the_relay_unhealthy(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    with open_port(HOST, 0) as free:
        monkeypatch.setattr(names, "RELAY_HEALTH_PORT", free.getsockname()[1])
    url = f"http://{HOST}:{names.RELAY_HEALTH_PORT}/healthz"
    threads.adopt("main", silent=0.5)
    answers: list[tuple[int, str]] = []

    def probe(wanted: int) -> None:
        while not answers or answers[-1][0] != wanted:
            with suppress(httpx.TransportError):
                answer = httpx.get(url)
                answers.append((answer.status_code, answer.text))
            time.sleep(0.01)

    async def scene() -> None:
        monkeypatch.setattr(relay_module, "BEAT_SECONDS", 0.01)
        holding = asyncio.create_task(relay_module._until_stopped(Relay(path), open_port(HOST, 0), None))
        await asyncio.to_thread(probe, 200)
        prober = threading.Thread(target=probe, args=(503,))
        prober.start()
        prober.join()  # nothing else runs in the loop meanwhile
        await asyncio.to_thread(probe, 200)
        os.kill(os.getpid(), signal.SIGTERM)
        await holding

    asyncio.run(scene())

    hanging = [text for status, text in answers if status == 503]
    assert all(text.startswith("thread main hangs: no sign of life for ") for text in hanging)
    assert answers[-1] == (200, "ok\n")

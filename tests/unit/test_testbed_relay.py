"""The testbed's relay holds back what the API server sends unasked, and nothing else."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from testbed import relay

LATE_SECONDS = 0.4


@pytest.fixture
def lag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(relay, "ASKED_SECONDS", 0.1)
    file = tmp_path / "lag"
    file.write_text(str(LATE_SECONDS))
    return file


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a line at once; 0.2 s later it sends three events, and then ends."""
    await reader.readline()
    writer.write(b"answer\n")
    await asyncio.sleep(0.2)
    for number in range(3):
        writer.write(f"event {number}\n".encode())
        await asyncio.sleep(0.02)
    writer.close()


async def seen(file: Path | None) -> list[tuple[str, float]]:
    """What a client reads through the relay, and when: seconds after its question."""
    over = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await relay.carry(reader, writer, "127.0.0.1", port, relay.Lag(file) if file else None)
        over.set()

    between = await asyncio.start_server(carry, "127.0.0.1")
    reader, writer = await asyncio.open_connection(*between.sockets[0].getsockname()[:2])
    asked = time.monotonic()
    writer.write(b"question\n")
    lines = []
    async with asyncio.timeout(10):
        while line := await reader.readline():
            lines.append((line.decode().strip(), time.monotonic() - asked))
        writer.close()
        await over.wait()
    between.close()
    server.close()
    return lines


def test_what_was_not_asked_for_comes_late_and_in_order_and_an_answer_at_once(lag: Path) -> None:
    (answer, at), *events = asyncio.run(seen(lag))

    assert answer == "answer"
    assert at < LATE_SECONDS
    assert [event for event, _ in events] == ["event 0", "event 1", "event 2"]
    assert all(moment >= 0.2 + LATE_SECONDS for _, moment in events)


@pytest.mark.parametrize("seconds", ["0", None], ids=["not late any more", "never late"])
def test_without_a_lag_everything_passes_at_once(lag: Path, seconds: str | None) -> None:
    lag.write_text(seconds or "")

    lines = asyncio.run(seen(lag if seconds else None))

    assert [line for line, _ in lines] == ["answer", "event 0", "event 1", "event 2"]
    assert lines[1][1] < 0.2 + LATE_SECONDS

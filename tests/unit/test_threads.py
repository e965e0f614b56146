"""A thread that ends or hangs is named, in the answer to the liveness probe and in the log."""

from __future__ import annotations

import ast
import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfc.threads import Supervisor, every

CHECKOUT = Path(__file__).resolve().parents[2]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def eventually(found: Callable[[], Any]) -> Any:
    """What it returns, once that is true."""
    for _ in range(10_000):
        if what := found():
            return what
        time.sleep(0.001)
    raise AssertionError(f"never: {found}")


def said(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.getMessage() == message]


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda: None, "its function returned"),
        (lambda: fail(RuntimeError("no more")), "RuntimeError: no more"),
        (lambda: fail(SystemExit(1)), "SystemExit: 1"),
    ],
)
def test_a_thread_that_ends_is_named_with_the_reason_and_logged_once(
    run: Callable[[], None], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor()

    supervisor.start("status writer", run).join()
    answers = [supervisor.problem(), supervisor.problem()]

    assert answers == [f"thread status writer ended: {why}"] * 2
    (line,) = said(caplog, "thread ended")
    assert (line["thread_name"], line["error"], line["levelname"]) == ("status writer", why, "ERROR")


def test_a_thread_that_was_told_to_end_is_no_problem() -> None:
    supervisor = Supervisor()
    stop = threading.Event()
    thread = supervisor.start("loop", stop.wait, until=stop.is_set)

    stop.set()
    thread.join()

    assert supervisor.problem() is None


def test_a_thread_without_a_sign_of_life_is_named_until_it_gives_one_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock, turn, stop = Clock(), threading.Semaphore(0), threading.Event()
    beats: list[int] = []
    supervisor = Supervisor(clock)

    def run() -> None:
        while not stop.is_set():
            turn.acquire()
            supervisor.beat()
            beats.append(1)

    supervisor.start("reconciler", run, until=stop.is_set, silent=60)
    clock.now = 60
    in_time = supervisor.problem()
    clock.now = 61
    hanging = [supervisor.problem(), supervisor.problem()]
    turn.release()
    eventually(lambda: beats)
    again = supervisor.problem()
    stop.set()
    turn.release()

    assert in_time is None
    assert hanging == ["thread reconciler hangs: no sign of life for 61 s"] * 2
    assert again is None
    (line,) = said(caplog, "thread hangs")
    assert "turn.acquire()" in line["stack"]  # where it hangs
    assert [line["thread_name"] for line in said(caplog, "thread goes on")] == ["reconciler"]


def test_a_task_of_a_pool_that_takes_too_long_is_named_and_one_that_has_ended_is_not() -> None:
    clock, free, begun = Clock(), threading.Event(), threading.Event()
    supervisor = Supervisor(clock)

    def dump() -> None:
        begun.set()
        free.wait()

    pool = supervisor.pool(2, "netlink", longest=60)
    pool.submit(int).result()
    held = pool.submit(dump)
    begun.wait()
    clock.now = 61
    hanging = supervisor.problem()
    free.set()
    held.result()
    eventually(lambda: supervisor.problem() is None)

    assert hanging == "thread netlink hangs: dump for 61 s"


def test_the_main_thread_is_supervised_like_the_others() -> None:
    clock = Clock()
    supervisor = Supervisor(clock)

    supervisor.adopt("main")
    clock.now = 200
    hanging = supervisor.problem()
    supervisor.beat()

    assert hanging == "thread main hangs: no sign of life for 200 s"
    assert supervisor.problem() is None


def test_signs_of_life_of_threads_that_nobody_supervises_count_for_none() -> None:
    clock = Clock()
    supervisor = Supervisor(clock)
    stop = threading.Event()
    supervisor.start("loop", stop.wait, until=stop.is_set)

    clock.now = 200
    supervisor.beat()

    assert supervisor.problem() == "thread loop hangs: no sign of life for 200 s"
    stop.set()


def lasting_loops(source: str) -> list[ast.While]:
    """Those that end when somebody says so."""
    loops = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.While)]
    return [loop for loop in loops if re.search(r"stop|leaving", ast.unparse(loop.test))]


def test_a_step_that_fails_is_logged_and_the_next_one_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    taken = iter(range(3))

    def step() -> None:
        if next(taken) == 2:
            stop.set()
        raise ValueError("not now")

    every(0, stop, step, "could not be told")

    assert len(said(caplog, "could not be told")) == 3


def test_every_loop_that_lasts_gives_a_sign_of_life_each_time_round() -> None:
    files = [file for room in ("controller", "kube", "serving", "webhook") for file in (CHECKOUT / room).rglob("*.py")]
    loops = {f"{file.name}:{loop.lineno}": loop for file in files for loop in lasting_loops(file.read_text())}

    silent = [place for place, loop in loops.items() if "threads.beat()" not in ast.unparse(loop)]

    assert len(loops) > 15
    assert silent == []

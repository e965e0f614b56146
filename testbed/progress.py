"""Lines for the user: what happens, and how long it takes."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

REPORT_SECONDS = 10.0
_start = time.monotonic()


def say(text: str) -> None:
    """Prints a line to standard error, with the seconds since the program's start."""
    print(f"[{time.monotonic() - _start:6.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def long_step(text: str, detail: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Prints `text` at once, and every ten seconds again with the time so far and what `detail` returns."""
    began, done = time.monotonic(), Event()

    def report() -> None:
        while not done.wait(REPORT_SECONDS):
            say(f"  {text}: {time.monotonic() - began:.0f} s {detail()}".rstrip())

    say(text)
    reporter = Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a file, indented."""
    if not log.exists():
        return "  (no such file)"
    return "\n".join("  " + line for line in log.read_text(errors="replace").splitlines()[-lines:])

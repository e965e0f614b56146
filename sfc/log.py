"""Structured logs: one JSON object a line on standard error, and nothing else there.

`message` is constant text; everything that varies is in fields of its own.

log = logging.getLogger(__name__)
log.info("replica out of targets", extra={"pod": "telco/nat-1", "slot": 7})
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType

log = logging.getLogger(__name__)

STANDARD_ERROR = 2
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's time (UTC), level, logger, message, `extra` fields and exception; values JSON lacks as text."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Printed(io.TextIOBase):
    """Standard error of those that print instead of logging: each line becomes a record."""

    def __init__(self) -> None:
        self._own = threading.local()

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, text: str) -> int:
        """A record of each line; what has no end of a line yet waits for it, in its thread."""
        if getattr(self._own, "busy", False):  # the log itself cannot be written, and says so
            return len(text)
        *lines, rest = (getattr(self._own, "rest", "") + text).split("\n")
        self._own.rest = rest
        self._own.busy = True
        try:
            for line in filter(str.strip, lines):
                log.warning("printed", extra={"text": line})
        finally:
            self._own.busy = False
        return len(text)


def configure() -> None:
    """Send every logger's output from INFO on to standard error in JSON, and whatever else Python would print there:
    warnings, what ends a thread or the process, what libraries print. The entry point of a process calls it, first."""
    output = logging.StreamHandler(os.fdopen(os.dup(sys.__stderr__.fileno()), "w", encoding="utf-8"))  # type: ignore[union-attr]
    output.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[output], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _ended
    threading.excepthook = _thread_ended
    sys.unraisablehook = _ignored
    sys.stderr = _Printed()


@contextmanager
def printed_by_libraries() -> Iterator[None]:
    """What libraries that are not Python write to standard error meanwhile is logged at the end, a record a line."""
    sys.stdout.flush()
    kept = os.memfd_create("printed")
    before = os.dup(STANDARD_ERROR)
    os.dup2(kept, STANDARD_ERROR)
    try:
        yield
    finally:
        os.dup2(before, STANDARD_ERROR)
        os.close(before)
        with os.fdopen(kept, "rb") as file:
            file.seek(0)
            lines = file.read().decode(errors="replace").splitlines()
        for line in filter(str.strip, lines):
            log.warning("printed", extra={"text": line})


def _ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("the process ends", exc_info=(kind, error, trace))


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    name = ended.thread.name if ended.thread else ""
    error = ended.exc_value or ended.exc_type()
    log.error("thread ended", exc_info=error, extra={"thread_name": name, "error": f"{type(error).__name__}: {error}"})


def _ignored(ignored: sys.UnraisableHookArgs) -> None:
    log.error("an exception could not be raised", exc_info=ignored.exc_value, extra={"where": repr(ignored.object)})

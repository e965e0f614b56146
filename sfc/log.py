"""Structured logs: one JSON object a line on standard error.

`message` is constant text; everything that varies is in fields of its own.

log = logging.getLogger(__name__)
log.info("replica out of targets", extra={"pod": "telco/nat-1", "slot": 7})
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

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


def configure() -> None:
    """Send every logger's output from INFO on to standard error in JSON. The entry point of a process calls it once."""
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[output], force=True)

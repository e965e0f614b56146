"""JSON as RFC 8259 defines it and Go reads it: UTF-8, without NaN or Infinity, and numbers that fit a double."""

from __future__ import annotations

import json
from typing import Any


def loads(data: bytes | str) -> Any:
    """The parsed value. Of equal keys the last one counts, as in Go. Raises ValueError, also for too deep nesting."""
    try:
        text = data.decode() if isinstance(data, bytes) else data
        return json.loads(text, parse_constant=_refused, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value

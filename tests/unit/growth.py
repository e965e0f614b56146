"""How much work something is, counted and not timed: the count is the same on every machine, whatever else it does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from sfc import ip


def steps(work: Callable[[], object]) -> int:
    """How many lines of Python, and calls of functions in C, `work` executes."""
    count = 0

    def line(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        count += event == "c_call"

    for memory in (ip._address, ip._interface, ip._network):
        memory.cache_clear()
    sys.settrace(line)
    sys.setprofile(call)
    try:
        work()
    finally:
        sys.settrace(None)
        sys.setprofile(None)
    return count

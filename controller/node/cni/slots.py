"""Which slot a new link gets."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

from controller.node.cni.answer import CniError, Code
from controller.node.plane.model import SLOTS


class Slots:
    """Hands out the slots 1 to SLOTS-1 in turn, so that a slot rests as long as possible before its next link.

    `in_use` returns the slots that links carry. It is called once per lap around all slots. The first lap begins at a
    random slot, because an agent that has just started does not know which slots have rested. Safe to use from several
    threads.
    """

    def __init__(self, in_use: Callable[[], Iterable[int]]) -> None:
        self._in_use = in_use
        self._lock = threading.Lock()
        self._pending: set[int] = set()
        self._last = secrets.randbelow(SLOTS)
        self._lap: Iterator[int] = iter(())

    @contextmanager
    def take(self) -> Iterator[int]:
        """Reserves a free slot until the block ends. By then a link carries the slot, or it is free again.

        Raises CniError (NO_SLOT_LEFT) when every slot is in use.
        """
        with self._lock:
            slot = self._last = self._next()
            self._pending.add(slot)
        try:
            yield slot
        finally:
            with self._lock:
                self._pending.discard(slot)

    def _next(self) -> int:
        slot = next(self._lap, None)
        if slot is None:
            self._lap = self._free()
            slot = next(self._lap, None)
        if slot is None:
            raise CniError(
                Code.NO_SLOT_LEFT,
                f"all {SLOTS - 1} data links of this node are in use: spread the chain's pods over more nodes",
            )
        return slot

    def _free(self) -> Iterator[int]:
        used = self._pending | set(self._in_use())
        lap = chain(range(self._last + 1, SLOTS), range(1, self._last + 1))
        return iter([slot for slot in lap if slot not in used])

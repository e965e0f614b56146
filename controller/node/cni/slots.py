"""Which slot a new link gets."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

from controller.node.cni.answer import CniError, Code
from controller.node.plane.model import SLOTS


class Slots:
    """Hands out the slots 1 to SLOTS-1 in turn, so that a slot rests as long as possible before its next link.

    `in_use` returns the slots that links carry. It is called once per lap around all slots. The first lap begins at a
    random slot, because an agent that has just started does not know which slots have rested. Safe to use from several
    threads.

    A namespace gets another slot as long as it does not hold more than are free. So no namespace takes more than half
    of them, and however many are greedy, there is something left for the next one. `held` returns how many links each
    namespace has; it is called for each slot, and must be cheap.
    """

    def __init__(self, in_use: Callable[[], Iterable[int]], held: Callable[[], Mapping[str, int]]) -> None:
        self._in_use = in_use
        self._held = held
        self._lock = threading.Lock()
        self._pending: dict[int, str] = {}
        """By slot, the namespace whose link is being made."""
        self._last = secrets.randbelow(SLOTS)
        self._lap: Iterator[int] = iter(())

    @contextmanager
    def take(self, namespace: str) -> Iterator[int]:
        """Reserves a free slot for a pod of the namespace until the block ends. By then a link carries the slot, or it
        is free again.

        Raises CniError (NO_SLOT_LEFT) when every slot is in use, or the namespace has its share.
        """
        with self._lock:
            self._require_share(namespace)
            slot = self._last = self._next()
            self._pending[slot] = namespace
        try:
            yield slot
        finally:
            with self._lock:
                del self._pending[slot]

    def _next(self) -> int:
        slot = next(self._lap, None)
        if slot is None:
            self._lap = self._free()
            slot = next(self._lap, None)
        if slot is None:
            raise CniError(
                Code.NO_SLOT_LEFT,
                f"all {SLOTS - 1} data links of this node are in use{self._most()}: spread the chain's pods over more "
                "nodes",
            )
        return slot

    def _require_share(self, namespace: str) -> None:
        held = Counter(self._pending.values())
        held.update(self._held())
        if held[namespace] > (free := SLOTS - 1 - held.total()) > 0:
            raise CniError(
                Code.NO_SLOT_LEFT,
                f"namespace {namespace} has {held[namespace]} of the {SLOTS - 1} data links of this node, and {free} "
                "are free, which are left for other namespaces: spread the chain's pods over more nodes, or give its "
                "stages fewer interfaces",
            )

    def _most(self) -> str:
        """Who holds most, for a message."""
        held = Counter(self._held())
        return "".join(f", {count} of them by namespace {namespace}" for namespace, count in held.most_common(1))

    def _free(self) -> Iterator[int]:
        used = self._pending.keys() | set(self._in_use())
        lap = chain(range(self._last + 1, SLOTS), range(1, self._last + 1))
        return iter([slot for slot in lap if slot not in used])

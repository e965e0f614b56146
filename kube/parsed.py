"""Values that are parsed of what a watch has, but only of what somebody asked for.

A program follows few of the objects that it watches, and parsing one takes long. The first who asks parses it. From
then on the watch's thread parses each new version, so that who asks does not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Generic, TypeVar

from kube.objects import Key

S = TypeVar("S")
V = TypeVar("V")


class ParsedObjects(Generic[S, V]):
    """The values parsed from snapshots of one watch. Any thread may ask; `refresh` is for the watch's `on_change`."""

    def __init__(self, parse: Callable[[S, V | None], V]) -> None:
        """`parse` gets what is stored and the value of the version before, None for a new object. It must not raise."""
        self._parse = parse
        self._known: dict[Key, tuple[S, V]] = {}
        """Each value beside what it was parsed from."""
        self._newest: Mapping[Key, S] = {}
        """What `refresh` was given last."""

    def one(self, snapshot: Mapping[Key, S], key: Key) -> V | None:
        """The value of one object, None when it does not exist.

        While `refresh` is at work on a new version, the value is that of the version before.
        """
        stored = snapshot.get(key)
        if stored is None:
            self._known.pop(key, None)
            return None
        entry = self._known.get(key)
        if entry is None:
            entry = self._known[key] = stored, self._parse(stored, None)
            newer = self._newest.get(key, stored)
            if newer is not stored:  # `refresh` did not know yet that somebody asks
                entry = self._known[key] = newer, self._parse(newer, entry[1])
        return entry[1]

    def refresh(self, snapshot: Mapping[Key, S]) -> None:
        """Parse the new versions of what was asked for, and forget what is gone."""
        self._newest = snapshot
        for key, (before, value) in list(self._known.items()):
            stored = snapshot.get(key)
            if stored is None:
                self._known.pop(key, None)
            elif stored is not before:
                self._known[key] = stored, self._parse(stored, value)

    def keep(self, wanted: Collection[Key]) -> None:
        """Forget all others: nobody will ask for them soon."""
        for key in [key for key in list(self._known) if key not in wanted]:
            self._known.pop(key, None)

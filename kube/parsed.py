"""One cache of what is read from the objects of a watch: each version of an object is read once.

A new version is a new Python object, so identity tells whether an object has to be read again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from kube.objects import Key, Object

V = TypeVar("V")


class ParsedObjects(Generic[V]):
    """The values read from snapshots of one watch.

    `all` and `one` may be called from any thread. Two calls at once may read an object twice; each caller still gets
    values of the snapshot that it gave. `read` is called in the caller's thread.
    """

    def __init__(self, read: Callable[[Object, V | None], V]) -> None:
        """`read` gets an object and the value of its version before, None for a new object. It must not raise."""
        self._read = read
        self._known: dict[Key, tuple[Object, V]] = {}
        """Each value beside the object that it was read from."""
        self._latest: tuple[Mapping[Key, Object] | None, Mapping[Key, V]] = None, {}

    def all(self, snapshot: Mapping[Key, Object]) -> Mapping[Key, V]:
        """The value of every object. The same mapping again while `snapshot` is the same mapping."""
        latest, values = self._latest
        if latest is not snapshot:
            before = self._known
            known = {
                key: entry if (entry := before.get(key)) and entry[0] is obj else self._entry(obj, entry)
                for key, obj in snapshot.items()
            }
            values = {key: entry[1] for key, entry in known.items()}
            self._known, self._latest = known, (snapshot, values)
        return values

    def one(self, snapshot: Mapping[Key, Object], key: Key) -> V | None:
        """The value of one object, None when it does not exist. Only this object is read."""
        obj = snapshot.get(key)
        if obj is None:
            self._known.pop(key, None)
            return None
        entry = self._known.get(key)
        if entry is None or entry[0] is not obj:
            entry = self._known[key] = self._entry(obj, entry)
        return entry[1]

    def _entry(self, obj: Object, before: tuple[Object, V] | None) -> tuple[Object, V]:
        return obj, self._read(obj, before[1] if before else None)

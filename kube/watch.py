"""A list-watch cache: the objects of one kind, as the API server last sent them.

The official client's informer asks for no bookmarks, sets no read time-out and does not back off, so it can follow a
dead connection for ever. Here one rule covers every failure: keep the last snapshot, wait (`kube.backoff`), then
continue from the last resource version. After an answer with an error status (410 Gone, a resource version from before
a restored backup, …) list anew instead; but not after 429 and 503, by which a server with too much to do asks for fewer
requests, and not for larger ones. Then wait as long as the answer asks for, at least.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from kube.api import ApiError, ApiServer, Collection, Params
from kube.backoff import Backoff
from kube.objects import Key, Object, key
from sfc import threads

log = logging.getLogger(__name__)

V = TypeVar("V")

READ_TIMEOUT_SECONDS = (70.0, 75.0)
"""Bookmarks come about once a minute, and the server is asked to end the watch five seconds before this. A longer
silence means that the connection is dead."""
REFUSED = Backoff(first=0.5, longest=30.0)
"""After an answer with an error: the server may be overloaded."""
AWAY = Backoff(first=0.5, longest=5.0)
"""After no answer at all. Once the server is back, a replica that joins or ends must not wait for half a minute, and
it is cheap for the server to continue a watch."""
SETTLED_SECONDS = 5.0
"""A request that lasted this long ends a row of failures, even if it failed."""


_NOTHING: Any = object()
"""Stands for an object that is not known; its value may be None."""


class Watch(Generic[V]):
    """What was read of the objects of a collection, kept current by a thread of its own.

    Each version of an object is read once, in that thread; the object itself is forgotten then. Every method may be
    called from any thread. Take one snapshot, then decide by it.
    """

    def __init__(  # noqa: PLR0913
        self,
        api: ApiServer,
        collection: Collection,
        read: Callable[[Object, V | None], V],
        *,
        on_change: Callable[[], None] | None = None,
        on_object: Callable[[V | None, V | None], None] | None = None,
        read_timeout: tuple[float, float] = READ_TIMEOUT_SECONDS,
    ) -> None:
        """`read` gets an object, without what the collection's shape leaves out, and what was read of its version
        before; None for a new object. It must not raise. A version that reads like the one before is no change.

        `on_change` is called in the watch's thread after every change; it must be cheap and must not raise. `on_object`
        likewise, before it, for each object that changed, with what was read before and what is read now; None for an
        object that is not there.
        `read_timeout`: seconds, (least, most); each request chooses at random between them.
        """
        self._api = api
        self._collection = collection
        self._path = collection.path
        self._read = read
        self._on_change = on_change or (lambda: None)
        self._on_object = on_object or (lambda before, after: None)
        self._read_timeout = read_timeout
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        """Held while `_values` changes or is copied."""
        self._values: dict[Key, V] = {}
        self._snapshot: Mapping[Key, V] | None = MappingProxyType({})
        """None when the values have changed since the last one was taken."""
        self._version: str | None = None
        """Where to go on watching; None to list first."""
        self._last_word: float | None = None

    def start(self) -> None:
        """Starts the thread; to be called once."""
        threads.start(f"watch {self._path}", self._run, until=self._stopped.is_set)

    def stop(self) -> None:
        """Returns at once. The thread, a daemon, ends with its current request at the latest."""
        self._stopped.set()

    def snapshot(self) -> Mapping[Key, V]:
        """Read-only and never changed later. The same mapping until something changes.

        What reads like before stays the same Python object.
        """
        with self._lock:
            if self._snapshot is None:
                self._snapshot = MappingProxyType(dict(self._values))
            return self._snapshot

    @property
    def synced(self) -> bool:
        """Whether the objects were listed at least once. Stays true when the API server is lost later."""
        return self._last_word is not None

    def age_seconds(self) -> float:
        """Seconds since the API server last sent an event, a bookmark or a list. Infinite before the first."""
        return float("inf") if self._last_word is None else time.monotonic() - self._last_word

    def _run(self) -> None:
        failures, answered = 0, True
        while not self._stopped.is_set():
            threads.beat()
            started, asked_to_wait = time.monotonic(), 0.0
            try:
                self._follow()
            except ApiError as error:
                log.warning("watch interrupted", extra={"path": self._path, "error": str(error)})
                if error.status:
                    failures = failures if answered else 0  # 410 after an outage, say, is the first of its kind
                    self._version = self._version if error.busy else None
                answered, asked_to_wait = bool(error.status), error.retry_after
            failures = 0 if time.monotonic() - started >= SETTLED_SECONDS else failures + 1
            # The sum: clients that were told the same time must not come back together.
            self._stopped.wait(asked_to_wait + (REFUSED if answered else AWAY).seconds(failures))

    def _follow(self) -> None:
        """List if there is nothing to go on from, then watch until the request ends."""
        if self._version is None:
            self._version = self._list()
        read_timeout = random.uniform(*self._read_timeout)  # noqa: S311
        params: Params = {
            **self._collection.params,
            "resourceVersion": self._version,
            "allowWatchBookmarks": True,
            "timeoutSeconds": max(1, int(read_timeout) - 5),
        }
        for event in self._api.watch(self._path, params, read_timeout, self._collection.shape):
            threads.beat()
            if self._stopped.is_set():
                return
            self._version = self._take(event["type"], event["object"])

    def _list(self) -> str:
        listed: dict[Key, V] = {}
        version = ""
        for page in self._api.pages(self._collection):
            threads.beat()
            try:
                version = page["metadata"]["resourceVersion"]
                # Items of a list do not repeat what the list says; events do. Readers see objects that look alike.
                kind = {"apiVersion": page["apiVersion"], "kind": page["kind"].removesuffix("List")}
                for item in page["items"]:
                    listed[key(item)] = self._value({**kind, **item}, key(item))
            except (KeyError, TypeError, AttributeError) as error:
                raise ApiError(0, "Unreadable", f"list of {self._path} lacks {error}") from error
        with self._lock:
            before, self._values, self._snapshot = self._values, listed, None
        for each in before.keys() | listed.keys():
            if before.get(each) is not listed.get(each):
                self._on_object(before.get(each), listed.get(each))
        self._last_word = time.monotonic()
        self._on_change()
        return version

    def _take(self, kind: str, obj: Object) -> str:
        """Apply one event; returns its resource version."""
        try:
            version: str = obj["metadata"]["resourceVersion"]
            changed = key(obj) if kind != "BOOKMARK" else None
        except (KeyError, TypeError) as error:
            raise ApiError(0, "Unreadable", f"event of {self._path} lacks {error}") from error
        if changed is not None and self._changes(kind, obj, changed):
            self._on_change()
        self._last_word = time.monotonic()
        return version

    def _changes(self, kind: str, obj: Object, changed: Key) -> bool:
        """Whether the event changes what is known."""
        before = self._values.get(changed, _NOTHING)
        value = _NOTHING if kind == "DELETED" else self._value(obj, changed)
        if before is value:
            return False
        with self._lock:
            self._snapshot = None
            if value is _NOTHING:
                del self._values[changed]
            else:
                self._values[changed] = value
        self._on_object(*(None if each is _NOTHING else each for each in (before, value)))
        return True

    def _value(self, obj: Object, of: Key) -> V:
        """What is read of the object: the value that is known, if it is equal."""
        known = self._values.get(of)
        value = self._read(obj, known)
        return known if known is not None and known == value else value

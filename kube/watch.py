"""A list-watch cache: the objects of one kind, as the API server last sent them.

The official client's informer asks for no bookmarks, sets no read time-out and does not back off, so it can follow a
dead connection for ever. Here one rule covers every failure: keep the last snapshot, wait (`kube.backoff`), then
continue from the last resource version. After an answer with an error status (410 Gone, a resource version from before
a restored backup, …) list anew instead.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from kube.api import ApiError, ApiServer, Params
from kube.backoff import Backoff
from kube.objects import Key, key

log = logging.getLogger(__name__)

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


class Watch:
    """The objects under `path`, kept current by a thread of its own.

    Every method may be called from any thread. Take one snapshot, then decide by it.
    """

    def __init__(
        self,
        api: ApiServer,
        path: str,
        *,
        params: Params | None = None,
        on_change: Callable[[], None] | None = None,
        read_timeout: tuple[float, float] = READ_TIMEOUT_SECONDS,
    ) -> None:
        """`path`: of a collection. `params`: of the list and of the watch, selectors for example.

        `on_change` is called in the watch's thread after every change; it must be cheap and must not raise.
        `read_timeout`: seconds, (least, most); each request chooses at random between them.
        """
        self._api = api
        self._path = path
        self._params = dict(params or {})
        self._on_change = on_change or (lambda: None)
        self._read_timeout = read_timeout
        self._stopped = threading.Event()
        self._snapshot: Mapping[Key, dict[str, Any]] = MappingProxyType({})
        self._version: str | None = None
        """Where to go on watching; None to list first."""
        self._last_word: float | None = None

    def start(self) -> None:
        """Starts the thread; to be called once."""
        threading.Thread(target=self._run, name=f"watch {self._path}", daemon=True).start()

    def stop(self) -> None:
        """Returns at once. The thread, a daemon, ends with its current request at the latest."""
        self._stopped.set()

    def snapshot(self) -> Mapping[Key, dict[str, Any]]:
        """Read-only and never changed later. The same mapping until something changes.

        An object that did not change stays the same Python object, unless the objects were listed anew.
        """
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
            started = time.monotonic()
            try:
                self._follow()
            except ApiError as error:
                log.warning("watch interrupted", extra={"path": self._path, "error": str(error)})
                if error.status:
                    failures = failures if answered else 0  # 410 after an outage, say, is the first of its kind
                    self._version = None
                answered = bool(error.status)
            failures = 0 if time.monotonic() - started >= SETTLED_SECONDS else failures + 1
            self._stopped.wait((REFUSED if answered else AWAY).seconds(failures))

    def _follow(self) -> None:
        """List if there is nothing to go on from, then watch until the request ends."""
        if self._version is None:
            self._version = self._list()
        read_timeout = random.uniform(*self._read_timeout)  # noqa: S311
        params: Params = {
            **self._params,
            "resourceVersion": self._version,
            "allowWatchBookmarks": True,
            "timeoutSeconds": max(1, int(read_timeout) - 5),
        }
        for event in self._api.watch(self._path, params, read_timeout):
            if self._stopped.is_set():
                return
            self._version = self._take(event["type"], event["object"])

    def _list(self) -> str:
        answer = self._api.get(self._path, self._params)
        try:
            version: str = answer["metadata"]["resourceVersion"]
            # Items of a list do not repeat what the list says; events do. A snapshot's objects look alike.
            kind = {"apiVersion": answer["apiVersion"], "kind": answer["kind"].removesuffix("List")}
            listed = {key(item): {**kind, **item} for item in answer["items"]}
        except (KeyError, TypeError, AttributeError) as error:
            raise ApiError(0, "Unreadable", f"list of {self._path} lacks {error}") from error
        self._publish(listed)
        return version

    def _take(self, kind: str, obj: dict[str, Any]) -> str:
        """Apply one event; returns its resource version."""
        try:
            version: str = obj["metadata"]["resourceVersion"]
            changed = key(obj) if kind != "BOOKMARK" else None
        except (KeyError, TypeError) as error:
            raise ApiError(0, "Unreadable", f"event of {self._path} lacks {error}") from error
        if changed is None:
            self._last_word = time.monotonic()
        elif kind == "DELETED":
            self._publish({k: v for k, v in self._snapshot.items() if k != changed})
        else:
            self._publish({**self._snapshot, changed: obj})
        return version

    def _publish(self, objects: dict[Key, dict[str, Any]]) -> None:
        self._snapshot = MappingProxyType(objects)
        self._last_word = time.monotonic()
        self._on_change()

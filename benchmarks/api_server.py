"""An API server in memory, over HTTP: lists in pages, watches, and the writes of the cluster controller."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
KEPT = 1000
"""Events of a kind that a watch may still ask for."""
IDLE_SECONDS = 60.0
"""A watch gets a bookmark when nothing happened for so long."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a path names. Empty: not said."""

    kind: str
    namespace: str
    name: str
    status: bool

    @classmethod
    def of(cls, path: str) -> Place:
        parts = path.strip("/").split("/")
        rest = parts[2 if parts[0] == "api" else 3 :]
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        return cls(rest[0], namespace, rest[1] if len(rest) > 1 else "", len(rest) > 2)

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name


class FakeCluster:
    """The objects, and the server. Any thread may change objects."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[tuple[str, str], Json]] = defaultdict(dict)
        """By kind, namespace and name."""
        self.writes: list[tuple[float, Place]] = []
        """What clients wrote, and when it came, on the monotonic clock."""
        self.refuse: Callable[[Place], str | None] = lambda place: None
        """Why a write is refused (403), if it is."""
        self.changed = threading.Condition(threading.RLock())
        self._version = 1
        self._news: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        """By kind: (version, event)."""
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def put(self, place: Place, obj: Json) -> Json:
        """Stores the object in a new version."""
        with self.changed:
            known = self.objects[place.kind].get(place.key)
            self._version += 1
            metadata = {**obj["metadata"], "namespace": place.namespace, "resourceVersion": str(self._version)}
            metadata["uid"] = known["metadata"]["uid"] if known else f"uid-{self._version}"
            metadata.setdefault("generation", 1)
            stored = {**obj, "metadata": metadata}
            self.objects[place.kind][place.key] = stored
            self._tell(place.kind, "MODIFIED" if known else "ADDED", stored)
            return stored

    def delete(self, place: Place) -> Json | None:
        with self.changed:
            gone = self.objects[place.kind].pop(place.key, None)
            if gone:
                self._version += 1
                gone["metadata"]["resourceVersion"] = str(self._version)
                self._tell(place.kind, "DELETED", gone)
            return gone

    def page(self, place: Place, limit: int, start: int) -> Json:
        with self.changed:
            found = self.objects[place.kind]
            objs = [o for (namespace, _), o in found.items() if place.namespace in ("", namespace)]
            metadata = {"resourceVersion": str(self._version)}
            if limit and len(objs) > start + limit:
                metadata["continue"] = str(start + limit)
            items = objs[start : start + limit] if limit else objs
            return {"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items}

    def news(self, kind: str, since: int) -> list[tuple[int, bytes]]:
        """Events of a kind after version `since`; waits for the first. Empty after IDLE_SECONDS."""
        with self.changed:
            self.changed.wait_for(lambda: self._news[kind] and self._news[kind][-1][0] > since, IDLE_SECONDS)
            return [one for one in self._news[kind] if one[0] > since]

    def written(self, wanted: Callable[[Place], bool], since: int, seconds: float) -> float:
        """When the first write of this kind came, of those after the first `since` ones. Raises TimeoutError."""
        until, seen = time.monotonic() + seconds, since
        with self.changed:
            while time.monotonic() < until:
                for at, place in self.writes[seen:]:
                    if wanted(place):
                        return at
                seen = len(self.writes)
                self.changed.wait(0.1)
        raise TimeoutError("the write that was waited for did not come")

    def _tell(self, kind: str, what: str, obj: Json) -> None:
        event = json.dumps({"type": what, "object": obj}).encode() + b"\n"
        self._news[kind].append((int(obj["metadata"]["resourceVersion"]), event))
        del self._news[kind][:-KEPT]
        self.changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has ended is no matter."""


def _handler(cluster: FakeCluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def respond(self) -> None:
            url = urlsplit(self.path)
            query = {k: v[0] for k, v in parse_qs(url.query).items()}
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            place = Place.of(url.path)
            if "watch" in query:
                self.watch(place, int(query["resourceVersion"]))
            elif self.command == "GET" and not place.name:
                self.answer(200, cluster.page(place, int(query.get("limit", 0)), int(query.get("continue", 0))))
            elif self.command == "GET":
                self.found(cluster.objects[place.kind].get(place.key))
            else:
                self.write(place, json.loads(text) if text else {})

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = respond  # noqa: N815

        def write(self, place: Place, body: Json) -> None:
            if self.command == "POST":
                place = Place(place.kind, place.namespace, body["metadata"]["name"], False)
            with cluster.changed:
                known = cluster.objects[place.kind].get(place.key)
                why = cluster.refuse(place)
                if why:
                    self.answer(403, _status(403, "Forbidden", why))
                elif self.command == "POST" and known:
                    self.answer(409, _status(409, "AlreadyExists", "exists"))
                elif self.command == "DELETE":
                    self.found(cluster.delete(place))
                elif place.status and not known:
                    self.found(None)
                else:
                    part = {"status": body["status"]} if place.status else body
                    metadata = {**(known or {}).get("metadata", {}), **body["metadata"]}
                    self.answer(200, cluster.put(place, {**(known or {}), **part, "metadata": metadata}))
                cluster.writes.append((time.monotonic(), place))
                cluster.changed.notify_all()

        def found(self, obj: Json | None) -> None:
            if obj is None:
                self.answer(404, _status(404, "NotFound", "not found"))
            else:
                self.answer(200, obj)

        def answer(self, code: int, obj: Json) -> None:
            body = json.dumps(obj).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def watch(self, place: Place, version: int) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while True:
                news = cluster.news(place.kind, version)
                version = news[-1][0] if news else version
                bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}
                self.chunk(b"".join(event for _, event in news) or json.dumps(bookmark).encode() + b"\n")

        def chunk(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            """Silence."""

    return Handler


def _status(code: int, reason: str, message: str) -> Json:
    return {"kind": "Status", "code": code, "reason": reason, "message": message}

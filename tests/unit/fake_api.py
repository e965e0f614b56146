"""A fake Kubernetes API server on a real socket, which fails in the ways that a test scripts."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes.client import Configuration

from kube.api import ApiServer

HANG = object()
"""In a watch: keeps the connection open and sends nothing more, like a peer whose machine has died."""


def pod(name: str, version: int, **labels: str) -> dict[str, Any]:
    return {"metadata": {"namespace": "telco", "name": name, "resourceVersion": str(version), "labels": labels}}


def event(kind: str, obj: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": obj}


def status(code: int, reason: str) -> dict[str, Any]:
    return {"kind": "Status", "code": code, "reason": reason, "message": f"told to answer {code}"}


class FakeApi:
    """`lists` and `watches` script the answers in order; the last list repeats, a watch beyond the script hangs.

    A list is a sequence of objects, or a status code to answer. A watch is a status code, or a sequence of events
    (dict), raw lines (bytes) and HANG; it ends cleanly after the last.
    """

    def __init__(self) -> None:
        self.lists: deque[int | Sequence[dict[str, Any]]] = deque([[]])
        self.watches: deque[int | Sequence[Any]] = deque()
        self.listed: Sequence[dict[str, Any]] = []
        """The list whose pages are asked for."""
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.asked_at: list[float] = []
        """When each request came, in seconds on the monotonic clock."""
        self.retry_after = ""
        """Header of answers with an error status."""
        self.released = threading.Event()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def respond(self) -> None:
                url = urlsplit(self.path)
                query = {k: v[0] for k, v in parse_qs(url.query).items()}
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                api.asked_at.append(time.monotonic())
                api.requests.append((self.command, url.path, query, json.loads(body) if body else None))
                self.content_type = self.headers.get("Content-Type")
                if "watch" in query:
                    self.watch(api.watches.popleft() if api.watches else [HANG])
                elif self.command == "GET" and "continue" in query:
                    self.page(int(query["limit"]), int(query["continue"]))
                elif self.command == "GET":
                    self.list(api.lists.popleft() if len(api.lists) > 1 else api.lists[0], int(query.get("limit", 0)))
                else:
                    self.answer(200, {"echo": json.loads(body) if body else None, "contentType": self.content_type})

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = respond  # noqa: N815

            def answer(self, code: int, obj: Any) -> None:
                body = obj if isinstance(obj, bytes) else json.dumps(obj).encode()
                self.send_response(code)
                if code >= 400 and api.retry_after:
                    self.send_header("Retry-After", api.retry_after)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def list(self, script: int | Sequence[dict[str, Any]], limit: int) -> None:
                if isinstance(script, int):
                    self.answer(script, status(script, "Told"))
                    return
                api.listed = script
                self.page(limit or len(script) or 1, 0)

            def page(self, limit: int, start: int) -> None:
                version = max((int(o["metadata"]["resourceVersion"]) for o in api.listed), default=1)
                metadata = {"resourceVersion": str(version)}
                if len(api.listed) > start + limit:
                    metadata["continue"] = str(start + limit)
                items = list(api.listed[start : start + limit])
                self.answer(200, {"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": items})

            def watch(self, script: int | Sequence[Any]) -> None:
                if isinstance(script, int):
                    self.answer(script, status(script, "Told"))
                    return
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for step in script:
                    if step is HANG:
                        api.released.wait(60)
                        self.close_connection = True
                        return
                    self.chunk(step if isinstance(step, bytes) else json.dumps(step).encode() + b"\n")
                self.chunk(b"")

            def chunk(self, data: bytes) -> None:
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Ignores errors: in some tests a client leaves in the middle of an answer."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def client(self) -> ApiServer:
        return ApiServer.to(Configuration(host=self.url))

    def queries(self, *, watch: bool) -> list[dict[str, str]]:
        return [query for _, _, query, _ in self.requests if ("watch" in query) == watch]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

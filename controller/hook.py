"""The PreStop endpoint: GET /drain/<drain id> on 127.0.0.1, called by the kubelet, answered when the drain has ended.

The kubelet ignores the status and waits for the answer, whatever its value, so every refusal is immediate: a hook
that cannot be honoured must not hold the pod. 403 for a bad signature, 404 for an id that no link of this node bears.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler
from typing import Any

from prometheus_client import Counter

from controller.drain import Drain, RetiredError
from controller.listener import SharedPort
from sfc import drain_id, names

log = logging.getLogger(__name__)

PASS_ON_SECONDS = 30.0
"""Longer than a change of the leader takes."""

HOOKS = Counter("sfc_drain_hooks_total", "PreStop hook calls by outcome", ["outcome"])


class HookServer(SharedPort):
    """One thread a call, for a call is held for as long as the drain lasts."""

    def __init__(self, address: tuple[str, int], key: bytes, drain: Callable[[str, float], Drain | None]) -> None:
        """`drain` blocks until the replica of that drain id has drained; None when it is not known here. It is told
        when the hook was called, in seconds on the monotonic clock. Raises RetiredError when another
        agent is to be asked."""
        self.key = key
        self.drain = drain
        self.closed = threading.Event()
        self.held = 0
        """Calls that are not answered yet."""
        self._counting = threading.Lock()
        super().__init__(address, _Request)

    def close(self) -> None:
        """Calls that are held are passed on from now on, if `drain` does not answer them."""
        super().close()
        self.closed.set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._count(1)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._count(-1)

    def _count(self, calls: int) -> None:
        with self._counting:
            self.held += calls

    def get_request(self) -> tuple[socket.socket, Any]:
        """Notes the time beside the caller's address, where the request finds it."""
        connection, caller = super().get_request()
        return connection, (*caller, time.monotonic())


class _Request(BaseHTTPRequestHandler):
    server: HookServer
    timeout = 10
    """Seconds for the request to arrive; the answer may take longer."""

    def do_GET(self) -> None:
        wanted = self.path.removeprefix(names.HOOK_PATH) if self.path.startswith(names.HOOK_PATH) else ""
        if not drain_id.verify(self.server.key, wanted, self.headers.get(names.SIGNATURE_HEADER, "")):
            self._answer(403, "refused", {"error": "signature does not fit the drain id; nothing is drained"})
            return
        try:
            drain = self.server.drain(wanted, self.client_address[-1])
        except RetiredError:
            self._pass_on()
            return
        if drain is None:
            self._answer(404, "unknown", {"error": "no link of this node has this drain id; nothing to drain"})
        elif not drain.ended:
            self._answer(504, "unfinished", _times(drain))
        else:
            self._answer(200, "drained", _times(drain))

    def _pass_on(self) -> None:
        """Asks the agent that leads now, which listens where this one did; its answer is ours."""
        self.server.closed.wait(PASS_ON_SECONDS)
        connection = HTTPConnection(names.HOOK_HOST, self.server.server_port)
        try:
            connection.request("GET", self.path, headers={names.SIGNATURE_HEADER: self.headers[names.SIGNATURE_HEADER]})
            answer = connection.getresponse()
            self._answer(answer.status, "passed on", json.loads(answer.read()))
        except (OSError, HTTPException, ValueError) as error:
            self._answer(503, "abandoned", {"error": f"no agent leads that could drain: {error}"})
        finally:
            connection.close()

    def _answer(self, status: int, outcome: str, body: dict[str, Any]) -> None:
        HOOKS.labels(outcome).inc()
        log.info("hook answered", extra={"status": status, "outcome": outcome} | body)
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: the answer is logged above, with its fields."""


def _times(drain: Drain) -> dict[str, Any]:
    return {
        "pod_uid": drain.pod_uid,
        "out_of_targets_seconds": _since(drain.asked_at, drain.out_of_targets_at),
        "drained_seconds": _since(drain.asked_at, drain.ended_at),
        "sessions_left": drain.active_sessions,
    }


def _since(start: float, end: float | None) -> float | None:
    return None if end is None else round(end - start, 4)

"""The PreStop endpoint: GET /drain/<drain id>, answered when the drain has ended.

The kubelet calls it on the node's 127.0.0.1. The relay holds that call, and asks here over a unix socket until it gets
an answer. The kubelet waits for the answer but ignores its status, so every refusal is immediate: a hook that cannot be
honoured must not hold the pod. The answer is 200 for a drain that ended, 504 for one that did not end in time, 409 when
the pod is not being deleted, 404 for an id that no link of this node has. An agent that does not lead any more closes
the connection without an answer; the relay then asks the agent that leads.

Whoever makes the kubelet send a request can call this. So a call proves nothing, and carries nothing that would: the
API server is asked whether the pod is being deleted.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

from prometheus_client import Counter

from controller.listener import lead_to, peer_user, take_over
from controller.node.plane.drain import Drain, NotDeletedError, RetiredError
from sfc import names, threads

log = logging.getLogger(__name__)

FORMER_SOCKET = "hooks.sock"
"""In the folder above ours: where earlier agents meet their relays, which run as root."""

MOST_HELD = 1024
"""Calls, each with a thread: more than a node has pods, and few enough for the agent's memory."""

HOOKS = Counter("sfc_drain_hooks_total", "PreStop hook calls by outcome", ["outcome"])


class HookServer(ThreadingMixIn, UnixStreamServer):
    """Answers each call in a thread of its own, because a call is held for as long as its drain lasts."""

    daemon_threads = True

    def __init__(self, path: Path, drain: Callable[[str, float], Drain | None], relay: int) -> None:
        """`relay` is the user and group that may call, besides root. `drain` gets a drain id and the time of the hook's
        call, in seconds on the monotonic clock. It blocks until that replica has drained, and returns None when no link
        of this node has the drain id. It raises NotDeletedError when the pod is not being deleted, and RetiredError
        when another agent leads."""
        super().__init__(str(path), _HookCall, bind_and_activate=False)
        self.socket.close()
        self.socket = take_over(path, relay)
        self._path, self._former = path, path.parent.parent / FORMER_SOCKET
        self._inode = path.stat().st_ino
        self._relay = relay
        lead_to(self._former, path, relay)
        self.drain = drain
        self._calls: set[Any] = set()
        """The connections of those that are not answered yet."""
        self._closing = threading.Event()

    def start(self) -> None:
        """Serves in a thread of its own, until `close`. To be called once."""
        threads.start("hooks", self.serve_forever, until=self._closing.is_set)

    @property
    def held(self) -> int:
        """Number of calls that are not answered yet."""
        return len(self._calls)

    def close(self) -> None:
        """Stops listening; calls that are held go on. Must not be called from the thread that serves.

        Leaves the path alone: a newer server may have taken it over. If an earlier agent took over, it listens
        at the former path only, which the relay does not see: then our path leads there.
        """
        self._closing.set()
        self.shutdown()
        self.server_close()
        with suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode != self._former.stat().st_ino:
                lead_to(self._path, self._former, self._relay)

    def service_actions(self) -> None:
        """socketserver calls this every half second."""
        threads.beat()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """socketserver calls this for an exception. It would print a traceback."""
        if isinstance(sys.exception(), OSError):
            log.info("a caller of a hook hung up", extra={"error": str(sys.exception())})
        else:
            log.exception("no answer to a hook")

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """socketserver calls this for each connection; False closes it, and the relay asks again."""
        return self.held < MOST_HELD and peer_user(request) in (0, self._relay)

    def process_request(self, request: Any, client_address: Any) -> None:
        """socketserver calls this for each connection."""
        self._calls.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """socketserver calls this when a connection ends, and for one that `verify_request` closes."""
        super().shutdown_request(request)
        self._calls.discard(request)


class _HookCall(BaseHTTPRequestHandler):
    server: HookServer
    timeout = 10
    """Seconds for the call to arrive; the answer may take longer."""

    def do_GET(self) -> None:
        wanted = self.path.removeprefix(names.HOOK_PATH) if self.path.startswith(names.HOOK_PATH) else ""
        try:
            drain = self.server.drain(wanted, self._asked_at()) if wanted else None
        except RetiredError:
            self.close_connection = True
            return
        except NotDeletedError as error:
            self._refuse(error)
            return
        if drain is None:
            self._answer(404, "unknown", {"error": "no link of this node has this drain id; nothing to drain"})
        elif not drain.ended:
            self._answer(504, "unfinished", _times(drain))
        else:
            self._answer(200, "drained", _times(drain))

    def _refuse(self, error: NotDeletedError) -> None:
        if error.undone:
            words = "the API server, which could not be asked before, shows no deletion of the pod: it serves again"
        else:
            words = "the API server shows no deletion of the pod: nothing is drained"
        self._answer(409, "undone" if error.undone else "refused", {"pod_uid": error.pod_uid, "error": words})

    def _asked_at(self) -> float:
        """When the relay got the call. The relay's header is the last one; others come from the caller."""
        now = time.monotonic()
        try:
            return min(now, float((self.headers.get_all(names.ASKED_AT_HEADER) or [""])[-1]))
        except ValueError:
            return now

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
        "confirmed": drain.confirmed,
        "out_of_targets_seconds": _since(drain.asked_at, drain.out_of_targets_at),
        "drained_seconds": _since(drain.asked_at, drain.ended_at),
        "sessions_left": drain.active_sessions,
    }


def _since(start: float, end: float | None) -> float | None:
    return None if end is None else round(end - start, 4)

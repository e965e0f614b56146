"""The secret part of the webhook's URLs: only who knows it gets an answer.

An API server learns it from the webhook configuration, which tenants cannot read. Its errors quote the whole URL to
whoever made the request, so the secret keeps strangers away and is no substitute for client certificates.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

from sfc import names
from webhook.connection import BoundedConnection

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Application = Callable[[Message, Any, Callable[[Message], Awaitable[None]]], Awaitable[None]]
"""An ASGI application."""

_SECRET = re.compile(r"[0-9a-z]{32,}")


class Door:
    """Which paths are right: those of `endpoints` behind a secret of `directory`, the mounted Secret."""

    def __init__(self, endpoints: Iterable[str], directory: Path) -> None:
        self._endpoints = tuple(endpoints)
        self._directory = directory
        self._found: tuple[str, ...] = ()
        self._salt = secrets.token_bytes(32)
        self._right: tuple[tuple[bytes, str], ...] = ()

    @property
    def loaded(self) -> bool:
        """True once there is a path that is right."""
        return bool(self._right)

    def refresh(self) -> None:
        """Take over a changed Secret. When it cannot be used, an error is logged and the last one stays in force."""
        try:
            found = tuple(prefixes((self._directory / names.DOOR_FIELD).read_text(encoding="ascii")))
        except (OSError, ValueError) as error:
            log.error("the webhook's path cannot be read", extra={"path": str(self._directory), "error": str(error)})
            return
        if found != self._found:
            self._found = found
            self._accept(found)
            log.info("the webhook's path loaded", extra={"paths": len(found)})

    def endpoint(self, path: bytes) -> str | None:
        """The endpoint that a raw request path leads to, or None. Takes the same time for every wrong path."""
        digest = self._digest(path)
        endpoint = None
        for right, leads_to in self._right:
            if hmac.compare_digest(right, digest):
                endpoint = leads_to
        return endpoint

    def _accept(self, found: Iterable[str]) -> None:
        self._right = tuple(
            (self._digest(f"{prefix}{endpoint}".encode()), endpoint) for prefix in found for endpoint in self._endpoints
        )

    def _digest(self, path: bytes) -> bytes:
        # Digests have one length, and nobody outside can choose how one begins.
        return hashlib.blake2b(path, key=self._salt, digest_size=32).digest()


def prefixes(content: str) -> list[str]:
    """What may stand before an endpoint: one line each, a slash and a secret of 32 characters or more.

    A single slash stands for no prefix, as versions before this one had it. Raises ValueError for anything else.
    """
    found = []
    for line in content.split():
        if line != "/" and not (line.startswith("/") and _SECRET.fullmatch(line[1:])):
            raise ValueError("a line must be a slash and 32 or more of 0-9 a-z; run the install Job again")
        found.append(line.rstrip("/"))
    if not found:
        raise ValueError("it has no line; run the install Job again")
    return found


def guarded(application: Application, door: Door) -> Application:
    """`application` for requests to a right path; every other one gets a bare 404, and its body is not read."""

    async def wrapped(scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        connection: BoundedConnection = scope["state"]["connection"]
        endpoint = door.endpoint(scope["raw_path"])
        if endpoint is None:
            headers = [(b"connection", b"close"), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            connection.turn_away()
            return
        connection.prove()
        await application({**scope, "path": endpoint, "raw_path": endpoint.encode()}, receive, send)

    return wrapped

"""HTTP, and nothing else: reads bodies of bounded size, sends answers. No body leads to a status of 500 or above."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from fastapi import FastAPI, Request, Response
from prometheus_client import Counter, Histogram
from starlette.requests import ClientDisconnect

from sfc import threads
from webhook.decide.model import Malformed
from webhook.review import Decide
from webhook.turns import Reviews, TooManyError

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 7 << 20
"""An object has at most 1.5 MiB in etcd, and 3 MiB as a request; an UPDATE carries two of them, and the envelope."""
MAX_HELD_BYTES = 32 << 20
"""Of all bodies that are being read at one time."""
SMALL_BODY_BYTES = 64 << 10
RESERVED_BYTES = 8 << 20
"""Of MAX_HELD_BYTES, for bodies of at most SMALL_BODY_BYTES: large ones never keep them out."""
BODY_TIMEOUT_SECONDS = 10.0
"""From the end of the headers to the end of the body."""

REQUESTS = Counter("sfc_admission_requests_total", "Admission requests answered.", ["path", "result"])
SECONDS = Histogram(
    "sfc_admission_seconds",
    "Time to answer an admission request, its body already read.",
    ["path"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5),
)


class _RefusedError(Exception):
    """The body is not read. Answered with the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def admission(routes: Mapping[str, Decide]) -> FastAPI:
    """Answers an AdmissionReview that is posted to a path of `routes` with the decision of its function."""
    app = _bare()
    bodies, reviews = _Bodies(), Reviews()
    for path, decide in routes.items():
        app.post(path)(_endpoint(path, decide, bodies, reviews))
    return app


def health(unready: Callable[[], str | None]) -> FastAPI:
    """/healthz and /readyz, for the kubelet. `unready` returns what is still missing, or None when all is there."""
    app = _bare()

    @app.get("/healthz")
    async def healthz() -> Response:
        problem = threads.problem()
        return Response(f"{problem or 'ok'}\n", status_code=503 if problem else 200)

    @app.get("/readyz")
    async def readyz() -> Response:
        reason = unready()
        return Response(f"{reason or 'ok'}\n", status_code=503 if reason else 200)

    return app


def _bare() -> FastAPI:
    return FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


def _endpoint(path: str, decide: Decide, bodies: _Bodies, reviews: Reviews) -> Callable[[Request], object]:
    async def admit(request: Request) -> Response:
        try:
            body = await bodies.read(request)
            started = time.perf_counter()
            answer = await reviews.answer(body, decide)
        except _RefusedError as error:
            return _refusal(path, error.status, error)
        except TooManyError as error:
            return _refusal(path, 429, error)
        except Malformed as error:
            return _refusal(path, 400, error)
        SECONDS.labels(path).observe(time.perf_counter() - started)
        REQUESTS.labels(path, answer.result).inc()
        if answer.reason:
            log.info("denied", extra={"path": path, "uid": answer.uid, "reason": answer.reason})
        return Response(answer.body, media_type="application/json")

    return admit


def _refusal(path: str, status: int, error: Exception) -> Response:
    REQUESTS.labels(path, "malformed").inc()
    log.warning("not an admission request", extra={"path": path, "status": status, "error": str(error)})
    return Response(
        str(error).encode(errors="backslashreplace"),  # it may quote a lone surrogate, which UTF-8 cannot encode
        status_code=status,
        media_type="text/plain",
        headers={"connection": "close"},  # otherwise uvicorn would read the rest of the body, of any size
    )


class _Bodies:
    """Reads bodies, never more than MAX_BODY_BYTES of one and MAX_HELD_BYTES of all in memory."""

    def __init__(self) -> None:
        self._held = 0

    async def read(self, request: Request) -> bytes:
        _check_headers(request)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
                async for piece in request.stream():
                    body += piece
                    self._held += len(piece)
                    self._check(len(body))
        except TimeoutError:
            raise _RefusedError(408, f"body did not arrive within {BODY_TIMEOUT_SECONDS:g} s") from None
        except ClientDisconnect:
            raise _RefusedError(400, "body broke off") from None
        finally:
            self._held -= len(body)
        return bytes(body)

    def _check(self, length: int) -> None:
        if length > MAX_BODY_BYTES:
            raise _RefusedError(413, f"body is larger than {MAX_BODY_BYTES} bytes")
        if self._held > MAX_HELD_BYTES - (RESERVED_BYTES if length > SMALL_BODY_BYTES else 0):
            raise _RefusedError(429, f"more than {MAX_HELD_BYTES} bytes of bodies are being read; try again")


def _check_headers(request: Request) -> None:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise _RefusedError(415, f"content type is {content_type or 'missing'}; send application/json")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise _RefusedError(415, f"content encoding is {encoding}; send the body as it is")

"""Who may read metrics: whose token the API server knows, and lets GET the URL path /metrics (TokenReview and
SubjectAccessReview, as controller-runtime and kube-rbac-proxy ask)."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from kube.api import ApiError, ApiServer
from kube.objects import ACCESS_REVIEWS, TOKEN_REVIEWS

log = logging.getLogger(__name__)

PATH = "/metrics"
ALLOWED_SECONDS, REFUSED_SECONDS = 60.0, 10.0
"""How long an answer of the API server counts."""
STALE_SECONDS = 3600.0
"""How long it counts while the API server cannot be asked: metrics matter most then."""
AWAY_SECONDS = 10.0
"""An API server that gave no answer is not asked for this long, so that nobody waits for it."""
WAIT_SECONDS = 5.0
"""For other callers' questions; one is asked at a time."""
REMEMBERED = 128
LONGEST_TOKEN = 16 << 10


class Access:
    """Thread-safe. Remembers answers by the hash of the token, and no token."""

    def __init__(self, api: ApiServer, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._asking = threading.Lock()
        self._away_until = float("-inf")
        self._known: OrderedDict[bytes, tuple[HTTPStatus, float]] = OrderedDict()
        """When the API server said it; used last at the end."""

    def status(self, authorization: str | None) -> HTTPStatus:
        """OK for a caller with this Authorization header, or why not: UNAUTHORIZED, FORBIDDEN, SERVICE_UNAVAILABLE."""
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > LONGEST_TOKEN:
            return HTTPStatus.UNAUTHORIZED
        key = hashlib.sha256(token.encode()).digest()
        if known := self._fresh(key):
            return known
        if self._clock() < self._away_until or not self._asking.acquire(timeout=WAIT_SECONDS):
            return self._stale(key)
        try:
            return self._fresh(key) or self._asked(key, token)
        finally:
            self._asking.release()

    def _fresh(self, key: bytes) -> HTTPStatus | None:
        status, at = self._known.get(key, (HTTPStatus.SERVICE_UNAVAILABLE, float("-inf")))
        lasts = ALLOWED_SECONDS if status == HTTPStatus.OK else REFUSED_SECONDS
        return status if self._clock() - at < lasts else None

    def _stale(self, key: bytes) -> HTTPStatus:
        status, at = self._known.get(key, (HTTPStatus.SERVICE_UNAVAILABLE, float("-inf")))
        good = status == HTTPStatus.OK and self._clock() - at < STALE_SECONDS
        return HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE

    def _asked(self, key: bytes, token: str) -> HTTPStatus:
        now = self._clock()
        try:
            status = self._answer(token)
        except ApiError as error:
            log.warning("cannot ask who may read metrics", extra={"error": str(error)})
            self._away_until = self._clock() + AWAY_SECONDS
            return self._stale(key)
        self._known.pop(key, None)
        self._known[key] = status, now
        while len(self._known) > REMEMBERED:
            self._forget_one()
        return status

    def _forget_one(self) -> None:
        """Refusals first: made-up tokens must not push out the one that counts."""
        refused = (key for key, (status, _) in self._known.items() if status != HTTPStatus.OK)
        del self._known[next(refused, next(iter(self._known)))]

    def _answer(self, token: str) -> HTTPStatus:
        review = self._review(TOKEN_REVIEWS, {"token": token})
        if not review.get("authenticated"):
            return HTTPStatus.UNAUTHORIZED
        user = review.get("user") or {}
        who = {field: user.get(source) for field, source in _USER.items() if user.get(source)}
        asked = {**who, "nonResourceAttributes": {"path": PATH, "verb": "get"}}
        return HTTPStatus.OK if self._review(ACCESS_REVIEWS, asked).get("allowed") else HTTPStatus.FORBIDDEN

    def _review(self, kind: Any, spec: dict[str, Any]) -> dict[str, Any]:
        answer = self._api.create(kind.path(), kind.object({}, spec=spec))
        return answer.get("status") or {}


_USER = {"user": "username", "groups": "groups", "uid": "uid", "extra": "extra"}
"""Fields of a SubjectAccessReview, by those of a TokenReview."""

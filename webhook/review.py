"""The AdmissionReview envelope: from bytes to a request, and from a decision to bytes.

For any bytes, the result is an answer or Malformed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sfc import strict_json
from webhook import patch
from webhook.decide.model import AdmissionRequest, Decision, Json, Malformed
from webhook.decide.read import mapping, text

API_VERSION = "admission.k8s.io/v1"
OPERATIONS = ("CREATE", "UPDATE", "DELETE", "CONNECT")
MAX_WARNINGS = 10
"""The API server passes on 4096 characters of warnings in all."""
MAX_CONTAINED = 250_000
"""Objects and lists in a body; an empty one takes 2 bytes there and 64 bytes in memory."""

Decide = Callable[[AdmissionRequest], Decision]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to an AdmissionReview."""

    body: bytes
    """An AdmissionReview as JSON, in ASCII."""
    result: str
    """allowed, patched or denied; for the metrics."""
    uid: str
    """Of the request."""
    reason: str | None
    """Of a denial; None when the object is allowed."""


def review(body: bytes, decide: Decide) -> Answer:
    """The answer to `body`. Raises Malformed when that is not an AdmissionReview v1 with a request."""
    try:
        request = _request(body)
        return _answer(request, decide(request))
    except RecursionError:
        raise Malformed("body", "is nested too deeply") from None


def _request(body: bytes) -> AdmissionRequest:
    if body.count(b"{") + body.count(b"[") > MAX_CONTAINED:
        raise Malformed("body", f"has more than {MAX_CONTAINED} objects and lists")
    try:
        envelope = strict_json.loads(body)
    except ValueError as error:
        raise Malformed("body", f"is not JSON: {error}") from error
    envelope = mapping(envelope, "body")
    if (envelope.get("apiVersion"), envelope.get("kind")) != (API_VERSION, "AdmissionReview"):
        raise Malformed("body", f"is not an AdmissionReview of {API_VERSION}; set apiVersion and kind")
    request = mapping(envelope.get("request"), "request")
    operation = request.get("operation")
    if operation not in OPERATIONS:
        raise Malformed("request.operation", f"must be one of {', '.join(OPERATIONS)}")
    return AdmissionRequest(
        uid=text(request.get("uid"), "request.uid"),
        operation=operation,
        namespace=text(request.get("namespace", ""), "request.namespace", empty=True),
        obj=_object(request, "object") if operation in ("CREATE", "UPDATE") else {},
        old=_object(request, "oldObject") if operation in ("UPDATE", "DELETE") else {},
    )


def _object(request: Mapping[str, Any], key: str) -> Json:
    return mapping(request.get(key), f"request.{key}")


def _answer(request: AdmissionRequest, decision: Decision) -> Answer:
    response: Json = {"uid": request.uid, "allowed": decision.denied is None}
    if decision.warnings:
        response["warnings"] = list(decision.warnings[:MAX_WARNINGS])
    operations: list[Json] = []
    if decision.denied is not None:
        response["status"] = {"code": decision.code, "message": decision.denied}
    else:
        operations = patch.operations(request.obj, decision.edits)
    if operations:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(operations).encode()).decode()
    # ASCII, because a text may have a lone surrogate, which JSON can express and UTF-8 cannot.
    body = json.dumps({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}).encode()
    result = "denied" if decision.denied is not None else "patched" if operations else "allowed"
    return Answer(body, result, request.uid, decision.denied)

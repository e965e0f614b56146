"""The Kubernetes API server, in raw JSON.

The official client does what it is good at: kubeconfig, in-cluster tokens and their renewal, TLS, connection pool. Its
typed models are left out, because they cost 12–30 times plain JSON and refuse fields that they do not know. So are its
retries: only the caller knows whether a request should be sent again. Every failure is an `ApiError`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import OpenApiException
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from kube.lean import WHOLE, Shape

Params = Mapping[str, str | int | bool]
Body = tuple[str, Any]
"""(content type, JSON value)"""

PAGE = 100
"""Objects in one answer to a list request."""
CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 30.0

JSON = "application/json"
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"

LONGEST_RETRY_AFTER_SECONDS = 60.0
"""A server, or a proxy before it, may ask for more; nobody here waits for so long."""


class ApiError(Exception):
    """A request that the API server refused, or that got no answer that can be used."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else f"{reason}: {message}")
        self.status = status
        """HTTP status; 0 when there was no answer, or none that could be read."""
        self.reason = reason
        """One word, as in the Status object: NotFound, Conflict, Expired …; NoAnswer or Unreadable with status 0."""
        self.message = message
        self.retry_after = retry_after
        """Seconds that the server asks to wait before the next try; 0 when it asks for nothing."""

    @property
    def busy(self) -> bool:
        """The server turns requests away for a while, whatever they ask for: the same request may succeed later."""
        return self.status in (429, 503)


@dataclass(frozen=True, slots=True)
class Collection:
    """Objects of one kind, and what is read of them."""

    path: str
    """As of `kube.objects.Resource.path`."""
    shape: Shape = WHOLE
    params: Params = field(default_factory=dict)
    """Of the requests: selectors, for example."""


class ApiServer:
    """One API server. Paths are those of `kube.objects.Resource.path`. Every request raises ApiError when it fails.

    May be used from any thread.
    """

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    @classmethod
    def from_environment(cls, kubeconfig: str | None = None) -> ApiServer:
        """By `kubeconfig`, else by $KUBECONFIG, else as a pod of the cluster. Raises ApiError if none of them works."""
        configuration = Configuration()
        path = kubeconfig or os.environ.get("KUBECONFIG")
        try:
            if path:
                load_kube_config(path, client_configuration=configuration, persist_config=False)  # type: ignore[no-untyped-call]
            else:
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except (ConfigException, OSError) as error:
            raise ApiError(0, "NoConfiguration", f"{error} (give KUBECONFIG, or run as a pod)") from error
        return cls.to(configuration)

    @classmethod
    def to(cls, configuration: Configuration) -> ApiServer:
        """By a configuration of the official client, which this changes."""
        configuration.retries = False
        configuration.keep_alive = True
        client = ApiClient(configuration)
        client.user_agent = "sfc"
        return cls(client)

    def get(self, path: str, params: Params | None = None) -> dict[str, Any]:
        """One object, or a collection (kind List)."""
        return self._object("GET", path, params)

    def create(self, path: str, obj: Mapping[str, Any]) -> dict[str, Any]:
        """`path`: of the collection. ApiError has status 409 when the object exists."""
        return self._object("POST", path, body=(JSON, obj))

    def replace(self, path: str, obj: Mapping[str, Any]) -> dict[str, Any]:
        """ApiError has status 409 when the object is not at `metadata.resourceVersion` of `obj` any more."""
        return self._object("PUT", path, body=(JSON, obj))

    def delete(self, path: str, params: Params | None = None, uid: str | None = None) -> dict[str, Any]:
        """Returns the deleted object, or a Status.

        `uid`: of the object that is meant. ApiError has status 409 when another one has its name by now.
        """
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        return self._object("DELETE", path, params, (JSON, options) if uid else None)

    def patch(self, path: str, body: Any, content_type: str) -> dict[str, Any]:
        """`content_type`: MERGE_PATCH, JSON_PATCH or STRATEGIC_MERGE_PATCH. Returns the object after the patch."""
        return self._object("PATCH", path, body=(content_type, body))

    def apply(self, path: str, obj: Mapping[str, Any], manager: str) -> dict[str, Any]:
        """Server-side apply by the field manager `manager`; takes over fields that another one holds."""
        return self._object("PATCH", path, {"fieldManager": manager, "force": True}, (APPLY_PATCH, obj))

    def pages(self, collection: Collection, read_timeout: float = READ_TIMEOUT_SECONDS) -> Iterator[dict[str, Any]]:
        """A collection in lists of PAGE objects. All show the same moment, which is not before the first request; its
        resource version is that of the last.

        `read_timeout`: seconds that may pass between two pieces of data.
        Between two pages other threads run: a large collection is not decoded at one go. Raises ApiError, with status
        410 when the moment is too long ago to go on.
        """
        path, token = collection.path, ""
        while True:
            params = {**collection.params, "limit": PAGE, **({"continue": token} if token else {})}
            data = self._answer("GET", path, params, read_timeout=read_timeout)
            try:
                page = collection.shape.page(data)
                token = page["metadata"].get("continue") or ""
            except (ValueError, KeyError, RecursionError) as error:
                raise ApiError(0, "Unreadable", f"GET {path}: answer is not a list: {error}") from error
            yield page
            if not token:
                return

    def watch(self, path: str, params: Params, read_timeout: float, shape: Shape = WHOLE) -> Iterator[dict[str, Any]]:
        """The events ({"type", "object"}) of one watch request, until the server ends it.

        `read_timeout`: seconds that may pass between two pieces of data. `shape`: what is left of the objects. Raises
        ApiError for an ERROR event, for a line that is not an event, and for a connection that breaks or falls silent.
        """
        response = self._send("GET", path, {**params, "watch": True}, read_timeout=read_timeout)
        try:
            for line in _lines(response):
                yield _event(line, shape)
        finally:
            response.close()

    def _object(
        self,
        method: str,
        path: str,
        params: Params | None = None,
        body: Body | None = None,
    ) -> dict[str, Any]:
        try:
            answer = json.loads(self._answer(method, path, params, body))
        except ValueError as error:
            raise ApiError(0, "Unreadable", f"{method} {path}: answer is not JSON: {error}") from error
        if not isinstance(answer, dict):
            raise ApiError(0, "Unreadable", f"{method} {path}: answer is not a JSON object")
        return answer

    def _answer(
        self,
        method: str,
        path: str,
        params: Params | None = None,
        body: Body | None = None,
        read_timeout: float = READ_TIMEOUT_SECONDS,
    ) -> bytes:
        response = self._send(method, path, params, body, read_timeout)
        try:
            return response.data
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(0, "NoAnswer", f"{method} {path}: {error}") from error

    def _send(
        self,
        method: str,
        path: str,
        params: Params | None = None,
        body: Body | None = None,
        read_timeout: float = READ_TIMEOUT_SECONDS,
    ) -> urllib3.BaseHTTPResponse:
        headers = {**self._client.default_headers, "Accept": "application/json"}
        if body:
            headers["Content-Type"] = body[0]
        try:
            self._client.update_params_for_auth(headers, None, ["BearerToken"], path, method, None)
            response: urllib3.BaseHTTPResponse = self._client.rest_client.request(  # type: ignore[no-untyped-call]
                method,
                self._client.configuration.host + path + _query(params),
                headers=headers,
                body=body[1] if body else None,
                _request_timeout=(CONNECT_TIMEOUT_SECONDS, read_timeout),
            ).response
            if not 200 <= response.status < 300:
                raise _refusal(response.status, response.data, response.headers.get("Retry-After"))
        except (urllib3.exceptions.HTTPError, OpenApiException, ConfigException, OSError) as error:
            raise ApiError(0, "NoAnswer", f"{method} {path}: {error}") from error
        return response


def _query(params: Params | None) -> str:
    if not params:
        return ""
    return "?" + urlencode({k: str(v).lower() if isinstance(v, bool) else v for k, v in params.items()})


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    while True:
        try:
            piece = response.read1(1 << 20)
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(0, "NoAnswer", f"watch broke off: {error}") from error
        if not piece:
            return
        *lines, rest = (rest + piece).split(b"\n")
        yield from filter(None, lines)


def _event(line: bytes, shape: Shape) -> dict[str, Any]:
    try:
        event = shape.event(line)
    except (ValueError, RecursionError) as error:
        raise ApiError(0, "Unreadable", f"watch sent a line that is not an event ({error}): {line[:80]!r}") from error
    if event["type"] == "ERROR":
        raise _status(0, event["object"], None)
    return event


def _refusal(code: int, body: bytes, retry_after: str | None) -> ApiError:
    try:
        return _status(code, json.loads(body), retry_after)
    except (ValueError, AttributeError):  # a proxy's HTML page, say
        return ApiError(code, "Unknown", body[:200].decode(errors="replace"), _seconds(retry_after))


def _status(code: int, status: Mapping[str, Any], retry_after: str | None) -> ApiError:
    """Of an object of kind Status. `code`: of the answer; 0 for an event of a watch, whose Status has it."""
    found, details = code or status.get("code"), status.get("details")
    seconds = _seconds(retry_after) or (isinstance(details, dict) and _seconds(details.get("retryAfterSeconds")))
    return ApiError(
        found if isinstance(found, int) else 0,
        str(status.get("reason", "Unknown")),
        str(status.get("message", "no message")),
        seconds or 0.0,
    )


def _seconds(text: object) -> float:
    """Of `Retry-After`, in the form that API servers use; 0 for a date, and for nothing."""
    return min(float(str(text)), LONGEST_RETRY_AFTER_SECONDS) if str(text).isdecimal() else 0.0

"""The API client on a real socket: requests, and the errors that it raises."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes.client import Configuration

from kube import lean
from kube.api import ApiError, ApiServer
from tests.unit.fake_api import HANG, FakeApi, event, pod, status


@pytest.fixture
def fake() -> Iterator[FakeApi]:
    server = FakeApi()
    yield server
    server.close()


def test_get_returns_the_object_as_raw_json(fake: FakeApi) -> None:
    fake.lists[0] = [pod("nat-0", 7)]

    answer = fake.client().get("/api/v1/pods", {"labelSelector": "a=b,c"})

    assert answer["items"] == [pod("nat-0", 7)]
    assert fake.requests[-1][1:3] == ("/api/v1/pods", {"labelSelector": "a=b,c"})


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/merge-patch+json", {"a": None}),
        ("application/json-patch+json", [{"op": "remove", "path": "/a"}]),
        ("application/strategic-merge-patch+json", {}),
    ],
)
def test_patch_sends_the_body_unchanged_under_its_content_type(fake: FakeApi, content_type: str, body: object) -> None:
    answer = fake.client().patch("/x", body, content_type)

    assert answer == {"echo": body, "contentType": content_type}


def test_apply_is_a_forced_server_side_apply(fake: FakeApi) -> None:
    answer = fake.client().apply("/x", {"kind": "Thing"}, "sfc-cluster")

    assert answer == {"echo": {"kind": "Thing"}, "contentType": "application/apply-patch+yaml"}
    assert fake.requests[-1][2] == {"fieldManager": "sfc-cluster", "force": "true"}


def test_a_refusal_carries_status_reason_and_message(fake: FakeApi) -> None:
    fake.lists[0] = 409

    with pytest.raises(ApiError) as caught:
        fake.client().get("/x")

    assert (caught.value.status, caught.value.reason) == (409, "Told")
    assert str(caught.value) == "409 Told: told to answer 409"


def test_the_bookmark_of_a_watch_over_pods_can_be_read() -> None:
    """As API servers send it: a pod's empty fields are null, where they must not be left out."""
    line = (
        b'{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"40",'
        b'"creationTimestamp":null},"spec":{"containers":null},"status":{}}}'
    )

    assert lean.POD.event(line)["object"]["metadata"]["resourceVersion"] == "40"


@pytest.mark.parametrize(
    ("header", "seconds"), [("", 0), ("7", 7), ("86400", 60), ("Fri, 27 Nov 2026 16:56:56 GMT", 0), ("-1", 0)]
)
def test_a_refusal_says_how_long_to_wait_within_reason(fake: FakeApi, header: str, seconds: float) -> None:
    fake.lists[0] = 429
    fake.retry_after = header

    with pytest.raises(ApiError) as caught:
        fake.client().get("/x")

    assert (caught.value.busy, caught.value.retry_after) == (True, seconds)


def test_a_deletion_may_be_of_one_object_only_whatever_has_its_name_by_now(fake: FakeApi) -> None:
    fake.client().delete("/x", uid="u-1")

    assert fake.requests[-1][3] == {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "u-1"}}


def test_a_refusal_is_not_retried(fake: FakeApi) -> None:
    fake.lists[0] = 503

    with pytest.raises(ApiError):
        fake.client().get("/x")

    assert len(fake.requests) == 1


def test_no_answer_has_status_zero() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        api = ApiServer.to(Configuration(host=f"http://127.0.0.1:{nobody.getsockname()[1]}"))

        with pytest.raises(ApiError) as caught:
            api.get("/x")

    assert (caught.value.status, caught.value.reason) == (0, "NoAnswer")


@pytest.mark.parametrize("raw", [b"<html>", b'"text"', b"[1]", b"\xff"])
def test_an_answer_that_is_no_json_object_is_an_error_not_a_crash(raw: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(raw), raw))

        threading.Thread(target=serve, daemon=True).start()
        api = ApiServer.to(Configuration(host=f"http://127.0.0.1:{listener.getsockname()[1]}"))

        with pytest.raises(ApiError) as caught:
            api.get("/x")

    assert (caught.value.status, caught.value.reason) == (0, "Unreadable")


def test_watch_yields_events_that_arrive_in_pieces(fake: FakeApi) -> None:
    fake.watches.append([b'{"type":"ADDED","obj', b'ect":{"spec":{"a":1}}}\n{"type":"DELETED","object":{}}\n'])

    events = list(fake.client().watch("/x", {"resourceVersion": "5"}, 5))

    assert events == [event("ADDED", {"spec": {"a": 1}}), event("DELETED", {})]
    assert fake.requests[-1][2] == {"resourceVersion": "5", "watch": "true"}


def test_what_nobody_reads_is_left_out_of_objects(fake: FakeApi) -> None:
    obj: dict[str, Any] = {
        "metadata": {
            "name": "a",
            "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "sfc.dev/drain-id": "d"},
        },
        "spec": {"nodeName": "n", "containers": [{"name": "nf", "env": [{"name": "A", "value": "b"}]}]},
        "status": {"phase": "Running"},
    }
    fake.watches.append([event("ADDED", obj)])

    (seen,) = fake.client().watch("/x", {}, 5, lean.POD)

    assert seen["object"] == {
        "metadata": {"name": "a", "annotations": {"sfc.dev/drain-id": "d"}},
        "spec": {"nodeName": "n", "containers": [{"name": "nf"}]},
        "status": {"phase": "Running"},
    }


def test_an_error_event_is_raised_with_its_own_status(fake: FakeApi) -> None:
    fake.watches.append([event("ERROR", status(410, "Expired"))])

    with pytest.raises(ApiError) as caught:
        list(fake.client().watch("/x", {}, 5))

    assert (caught.value.status, caught.value.reason) == (410, "Expired")


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b'{"type":1}\n', b'{"type":"ADDED","object":[]}\n'])
def test_a_line_that_is_no_event_is_an_error(fake: FakeApi, line: bytes) -> None:
    fake.watches.append([line])

    with pytest.raises(ApiError) as caught:
        list(fake.client().watch("/x", {}, 5))

    assert (caught.value.status, caught.value.reason) == (0, "Unreadable")


def test_silence_beyond_the_read_timeout_ends_the_watch(fake: FakeApi) -> None:
    fake.watches.append([event("ADDED", {}), HANG])

    events = fake.client().watch("/x", {}, 0.2)

    assert next(events) == event("ADDED", {})
    with pytest.raises(ApiError) as caught:
        next(events)
    assert (caught.value.status, caught.value.reason) == (0, "NoAnswer")

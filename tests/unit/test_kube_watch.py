"""The list-watch on a real socket: its snapshot through errors, silence and garbage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from kube import watch as module
from kube.api import Collection
from kube.backoff import Backoff
from kube.watch import Watch
from tests.unit.fake_api import HANG, FakeApi, event, pod, status

PATH = "/api/v1/pods"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    for name in ("REFUSED", "AWAY"):
        monkeypatch.setattr(module, name, replace(getattr(module, name), first=0.01))
    server = FakeApi()
    yield server
    server.close()


@pytest.fixture
def started(fake: FakeApi) -> Iterator[Callable[..., Watch[Any]]]:
    watches: list[Watch[Any]] = []

    def start(**options: Any) -> Watch[Any]:
        collection = Collection(PATH, params=options.pop("params", {}))
        read = options.pop("read", lambda obj, _: obj)
        watches.append(Watch(fake.client(), collection, read, **options))
        watches[-1].start()
        return watches[-1]

    yield start
    for watch in watches:
        watch.stop()


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "did not happen within a minute"
        time.sleep(0.005)


def names(watch: Watch[Any]) -> set[str]:
    return {name for _, name in watch.snapshot()}


def test_lists_then_watches_from_the_lists_version(fake: FakeApi, started: Callable[..., Watch[Any]]) -> None:
    fake.lists[0] = [pod("a", 3)]
    fake.watches.append([event("ADDED", pod("b", 4)), event("DELETED", pod("a", 5)), HANG])

    watch = started(params={"labelSelector": "sfc.dev/chain"})

    eventually(lambda: names(watch) == {"b"})
    first = fake.queries(watch=True)[0]
    assert first["resourceVersion"] == "3"
    assert first["allowWatchBookmarks"] == "true"
    assert first["labelSelector"] == "sfc.dev/chain"
    assert 60 <= int(first["timeoutSeconds"]) <= 70


def test_objects_of_a_list_carry_their_kind_as_those_of_events_do(
    fake: FakeApi, started: Callable[..., Watch[Any]]
) -> None:
    fake.lists[0] = [pod("a", 3)]

    watch = started()

    eventually(lambda: watch.synced)
    assert watch.snapshot()["telco", "a"] == {"apiVersion": "v1", "kind": "Pod", **pod("a", 3)}


def test_a_large_collection_is_listed_in_pages_of_one_moment(fake: FakeApi, started: Callable[..., Watch[Any]]) -> None:
    fake.lists[0] = [pod(f"pod-{i}", 3) for i in range(250)]

    watch = started()

    eventually(lambda: watch.synced)
    assert len(names(watch)) == 250
    assert [query["limit"] for query in fake.queries(watch=False)] == ["100", "100", "100"]


def test_a_version_that_reads_like_the_one_before_is_no_change(
    fake: FakeApi, started: Callable[..., Watch[Any]]
) -> None:
    changes: list[None] = []
    fake.lists[0] = [pod("a", 3)]
    fake.watches.append([event("MODIFIED", pod("a", 4, x="y")), event("ADDED", pod("b", 5)), HANG])

    watch = started(read=lambda obj, _: obj["metadata"]["name"], on_change=lambda: changes.append(None))

    eventually(lambda: names(watch) == {"a", "b"})
    assert len(changes) == 2, "the list, and pod b"
    assert watch.snapshot() is watch.snapshot()


def test_each_version_is_read_once_in_the_thread_of_the_watch(
    fake: FakeApi, started: Callable[..., Watch[Any]]
) -> None:
    read: list[tuple[str, Any, bool]] = []

    def reads(obj: Any, before: Any) -> str:
        read.append((obj["metadata"]["resourceVersion"], before, threading.current_thread().name.startswith("watch ")))
        return f"v{obj['metadata']['resourceVersion']}"

    fake.lists[0] = [pod("a", 3)]
    fake.watches.append([event("MODIFIED", pod("a", 4)), HANG])

    watch = started(read=reads)

    eventually(lambda: watch.snapshot() == {("telco", "a"): "v4"})
    assert read == [("3", None, True), ("4", "v3", True)]


def test_a_snapshot_taken_never_changes(fake: FakeApi, started: Callable[..., Watch[Any]]) -> None:
    fake.lists[0] = [pod("a", 3)]
    watch = started()
    eventually(lambda: watch.synced)
    taken = watch.snapshot()

    fake.watches.append([event("DELETED", pod("a", 5)), HANG])
    fake.released.set()

    eventually(lambda: not watch.snapshot())
    assert ("telco", "a") in taken
    with pytest.raises(TypeError):
        taken["telco", "b"] = {}  # type: ignore[index]


def test_not_synced_before_the_first_list(fake: FakeApi) -> None:
    watch = Watch(fake.client(), Collection(PATH), lambda obj, _: obj)

    assert not watch.synced
    assert watch.age_seconds() == float("inf")


@pytest.mark.parametrize(
    "trouble", [410, 500, [event("ERROR", status(410, "Expired"))], [event("ERROR", status(504, "Timeout"))]]
)
def test_an_error_status_leads_to_a_new_list_which_shows_what_was_deleted_meanwhile(
    fake: FakeApi, started: Callable[..., Watch[Any]], trouble: Any
) -> None:
    fake.lists = type(fake.lists)([[pod("a", 3), pod("b", 4)], [pod("b", 9)]])
    fake.watches.append(trouble)

    watch = started()

    eventually(lambda: len(fake.queries(watch=True)) == 2)
    assert names(watch) == {"b"}
    assert fake.queries(watch=True)[1]["resourceVersion"] == "9"


BUSY = {**status(429, "TooManyRequests"), "details": {"retryAfterSeconds": 1}}


@pytest.mark.parametrize("trouble", [429, 503, [event("ERROR", BUSY)]])
def test_a_watch_that_a_busy_server_refuses_waits_as_asked_and_goes_on_from_where_it_was(
    fake: FakeApi, started: Callable[..., Watch[Any]], trouble: Any
) -> None:
    fake.lists[0] = [pod("a", 3)]
    fake.watches.extend([[event("ADDED", pod("b", 8))], trouble, [event("ADDED", pod("c", 9)), HANG]])
    fake.retry_after = "1"

    watch = started()

    eventually(lambda: names(watch) == {"a", "b", "c"})
    assert [query["resourceVersion"] for query in fake.queries(watch=True)] == ["3", "8", "8"]
    assert len(fake.queries(watch=False)) == 1
    assert fake.asked_at[-1] - fake.asked_at[-2] >= 1


def test_a_list_that_a_busy_server_refuses_waits_as_asked(fake: FakeApi, started: Callable[..., Watch[Any]]) -> None:
    fake.lists = type(fake.lists)([429, [pod("a", 3)]])
    fake.retry_after = "1"

    watch = started()

    eventually(lambda: names(watch) == {"a"})
    assert fake.asked_at[1] - fake.asked_at[0] >= 1


def test_each_object_that_changes_is_told_as_it_was_and_as_it_is(
    fake: FakeApi, started: Callable[..., Watch[Any]]
) -> None:
    told: list[tuple[str | None, str | None]] = []
    fake.lists = type(fake.lists)([[pod("a", 3), pod("b", 3)], [pod("b", 3), pod("c", 9)]])
    fake.watches.extend([[event("MODIFIED", pod("a", 4)), event("DELETED", pod("x", 5))], 410])

    watch = started(
        read=lambda obj, _: f"{obj['metadata']['name']}{obj['metadata']['resourceVersion']}",
        on_object=lambda before, after: told.append((before, after)),
    )

    eventually(lambda: names(watch) == {"b", "c"})
    assert set(told[:2]) == {(None, "a3"), (None, "b3")}
    assert told[2] == ("a3", "a4")
    assert set(told[3:]) == {("a4", None), (None, "c9")}, "b is as it was, and x was never known"


@pytest.mark.parametrize(
    "trouble",
    [b"\x00garbage\n", b'{"type":"ADDED","object":{}}\n', b'{"type":"ADDED","object":{"metadata":[]}}\n'],
)
def test_garbage_leads_to_a_new_watch_from_where_the_last_one_was(
    fake: FakeApi, started: Callable[..., Watch[Any]], trouble: bytes
) -> None:
    fake.lists[0] = [pod("a", 3)]
    fake.watches.append([event("ADDED", pod("b", 8)), trouble])

    watch = started()

    eventually(lambda: len(fake.queries(watch=True)) == 2)
    assert fake.queries(watch=True)[1]["resourceVersion"] == "8"
    assert len(fake.queries(watch=False)) == 1
    assert names(watch) == {"a", "b"}


def test_a_bookmark_moves_the_point_of_resumption_without_changing_objects(
    fake: FakeApi, started: Callable[..., Watch[Any]]
) -> None:
    fake.lists[0] = [pod("a", 3)]
    fake.watches.append([event("BOOKMARK", {"metadata": {"resourceVersion": "40"}})])
    changes: list[None] = []

    watch = started(on_change=lambda: changes.append(None))

    eventually(lambda: len(fake.queries(watch=True)) == 2)
    assert fake.queries(watch=True)[1]["resourceVersion"] == "40"
    assert names(watch) == {"a"}
    assert len(changes) == 1


def test_a_half_open_connection_is_given_up_and_watched_anew(fake: FakeApi, started: Callable[..., Watch[Any]]) -> None:
    fake.lists[0] = [pod("a", 3)]
    fake.watches.extend([[HANG], [event("ADDED", pod("b", 4)), HANG]])

    watch = started(read_timeout=(0.1, 0.2))

    eventually(lambda: names(watch) == {"a", "b"})
    assert len(fake.queries(watch=False)) == 1


def test_the_last_snapshot_is_served_and_its_age_grows_while_the_server_is_away(
    fake: FakeApi, started: Callable[..., Watch[Any]]
) -> None:
    fake.lists[0] = [pod("a", 3)]
    watch = started(read_timeout=(0.1, 0.1))
    eventually(lambda: watch.synced)

    fake.close()
    time.sleep(0.4)

    assert watch.synced
    assert names(watch) == {"a"}
    assert watch.age_seconds() >= 0.3


def test_a_first_list_that_fails_is_tried_again(fake: FakeApi, started: Callable[..., Watch[Any]]) -> None:
    fake.lists = type(fake.lists)([500, 403, [pod("a", 3)]])

    watch = started()

    eventually(lambda: names(watch) == {"a"})


def test_a_server_that_does_not_answer_is_asked_again_sooner_than_one_that_answers_with_errors(
    fake: FakeApi, started: Callable[..., Watch[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFUSED", Backoff(60.0, 30.0))
    monkeypatch.setattr(module, "AWAY", Backoff(60.0, 0.1))
    fake.lists[0] = [pod("a", 3)]
    fake.watches.extend([[HANG], [event("ADDED", pod("b", 4)), HANG], 500, [event("ADDED", pod("c", 5)), HANG]])

    watch = started(read_timeout=(0.1, 0.2))

    eventually(lambda: names(watch) == {"a", "b"})
    time.sleep(0.5)
    assert names(watch) == {"a", "b"}


def test_the_first_error_after_a_long_silence_does_not_wait_as_if_it_were_the_last_of_many(
    fake: FakeApi, started: Callable[..., Watch[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFUSED", Backoff(0.05, 30.0))
    monkeypatch.setattr(module, "AWAY", Backoff(0.05, 0.05))
    fake.lists = type(fake.lists)([[pod("a", 3)], [pod("b", 9)]])
    fake.watches.extend([*([HANG] for _ in range(10)), 410])

    watch = started(read_timeout=(0.05, 0.06))

    eventually(lambda: names(watch) == {"b"})

"""The PreStop endpoint, with real HTTP on a unix socket. The test provides the drain behind it."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from controller.node.hooks.server import HookServer
from controller.node.plane.drain import Drain, NotDeletedError, RetiredError
from sfc import names

ENDED = Drain(
    "uid-1", asked_at=10.0, deadline=40.0, confirmed=True, out_of_targets_at=10.002, ended_at=12.5, active_sessions=0
)


def started(path: Path, drain: Callable[[str, float], Drain | None]) -> HookServer:
    server = HookServer(path, drain)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


@pytest.fixture
def path() -> Iterator[Path]:
    """A path that is short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="sfc-hook-") as folder:
        yield Path(folder, "hooks.sock")


@contextmanager
def serving(path: Path, drain: Callable[[str, float], Drain | None]) -> Iterator[httpx.Client]:
    server = started(path, drain)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://node", timeout=30) as client:
        try:
            yield client
        finally:
            server.close()


def call(client: httpx.Client, wanted: str, **headers: str) -> httpx.Response:
    return client.get(names.HOOK_PATH + wanted, headers=headers)


def test_the_answer_tells_when_the_replica_left_the_targets_and_when_it_had_drained(path: Path) -> None:
    with serving(path, lambda *_: ENDED) as client:
        answer = call(client, "a" * 32)

    assert answer.status_code == 200
    assert answer.json() == {
        "pod_uid": "uid-1",
        "confirmed": True,
        "out_of_targets_seconds": 0.002,
        "drained_seconds": 2.5,
        "sessions_left": 0,
    }


@pytest.mark.parametrize(
    ("undone", "words"), [(False, "nothing is drained"), (True, "it serves again")], ids=["refused", "undone"]
)
def test_a_hook_of_a_pod_that_is_not_being_deleted_is_refused(path: Path, undone: bool, words: str) -> None:
    def refuse(*_: object) -> Drain:
        raise NotDeletedError("uid-1", undone)

    with serving(path, refuse) as client:
        answer = call(client, "a" * 32)

    assert answer.status_code == 409
    assert answer.json()["pod_uid"] == "uid-1"
    assert words in answer.json()["error"]


def test_a_hook_of_the_version_before_which_carries_a_signature_is_a_hook(path: Path) -> None:
    with serving(path, lambda *_: ENDED) as client:
        answer = call(client, "a" * 32, **{"X-Sfc-Signature": "0" * 64})

    assert answer.status_code == 200


def test_an_unknown_id_is_answered_at_once(path: Path) -> None:
    with serving(path, lambda *_: None) as client:
        answer = call(client, "a" * 32)

    assert answer.status_code == 404
    assert "drain id" in json.loads(answer.content)["error"]


def test_other_paths_are_no_hooks(path: Path) -> None:
    with serving(path, lambda *_: ENDED) as client:
        answers = [client.get(other) for other in ("/", "/drain", names.HOOK_PATH, "/healthz")]

    assert [answer.status_code for answer in answers] == [404] * 4


def test_many_hooks_are_held_at_the_same_time(path: Path) -> None:
    everyone = threading.Barrier(50, timeout=30)

    def together(*_: object) -> Drain:
        everyone.wait()
        return ENDED

    answers: list[int] = []
    with serving(path, together) as client:
        callers = [
            threading.Thread(target=lambda i=i: answers.append(call(client, f"{i:032x}").status_code))
            for i in range(50)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(30)

    assert answers == [200] * 50


def test_a_drain_counts_from_when_the_relay_got_the_hook_and_never_from_the_future(path: Path) -> None:
    asked: list[float] = []
    now = time.monotonic()

    with serving(path, lambda _, at: asked.append(at)) as client:
        for told in (f"{now - 3:.6f}", f"{now + 1000:.6f}", "soon"):
            call(client, "a" * 32, **{names.ASKED_AT_HEADER: told})

    assert asked[0] == pytest.approx(now - 3, abs=1e-5)
    assert all(now <= at < now + 60 for at in asked[1:])


def test_an_agent_that_does_not_lead_any_more_gives_no_answer(path: Path) -> None:
    def retired(*_: object) -> Drain:
        raise RetiredError

    with serving(path, retired) as client, pytest.raises(httpx.RemoteProtocolError):
        call(client, "a" * 32)

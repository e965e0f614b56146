"""The PreStop endpoint over real HTTP; the drain behind it is a function of the test."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from controller.drain import Drain, RetiredError
from controller.hook import HookServer
from sfc import drain_id, names

KEY = b"k" * 32
ENDED = Drain("uid-1", "", asked_at=10.0, deadline=40.0, out_of_targets_at=10.002, ended_at=12.5, active_sessions=0)


def started(drain: Callable[[str, float], Drain | None], port: int = 0) -> HookServer:
    server = HookServer(("127.0.0.1", port), KEY, drain)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def url_of(server: HookServer) -> str:
    return f"http://127.0.0.1:{server.server_port}{names.HOOK_PATH}"


@contextmanager
def serving(drain: Callable[[str, float], Drain | None]) -> Iterator[str]:
    server = started(drain)
    try:
        yield url_of(server)
    finally:
        server.close()


def call(url: str, wanted: str, signature: str | None = None) -> httpx.Response:
    signature = drain_id.sign(KEY, wanted) if signature is None else signature
    return httpx.get(url + wanted, headers={names.SIGNATURE_HEADER: signature}, timeout=30)


def test_the_answer_tells_when_the_replica_left_the_targets_and_when_it_had_drained() -> None:
    with serving(lambda *_: ENDED) as url:
        answer = call(url, "a" * 32)

    assert answer.status_code == 200
    assert answer.json() == {
        "pod_uid": "uid-1",
        "out_of_targets_seconds": 0.002,
        "drained_seconds": 2.5,
        "sessions_left": 0,
    }


def test_a_forged_signature_drains_nothing() -> None:
    drained: list[str] = []
    with serving(lambda wanted, _: drained.append(wanted)) as url:
        forged = call(url, "a" * 32, "0" * 64)
        borrowed = call(url, "a" * 32, drain_id.sign(KEY, "b" * 32))
        absent = httpx.get(url + "a" * 32, timeout=30)

    assert [r.status_code for r in (forged, borrowed, absent)] == [403, 403, 403]
    assert drained == []


def test_an_unknown_id_is_answered_at_once() -> None:
    with serving(lambda *_: None) as url:
        answer = call(url, "a" * 32)

    assert answer.status_code == 404
    assert "drain id" in json.loads(answer.content)["error"]


def test_other_paths_and_long_ids_are_refused() -> None:
    with serving(lambda *_: ENDED) as url:
        root = httpx.get(url.removesuffix(names.HOOK_PATH) + "/", timeout=30)
        long = call(url, "a" * 10_000, "x")

    assert [root.status_code, long.status_code] == [403, 403]


def test_many_hooks_are_held_at_the_same_time() -> None:
    everyone = threading.Barrier(50, timeout=30)

    def together(*_: object) -> Drain:
        everyone.wait()
        return ENDED

    with serving(together) as url:
        answers: list[int] = []
        callers = [
            threading.Thread(target=lambda i=i: answers.append(call(url, f"{i:032x}").status_code)) for i in range(50)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(30)

    assert answers == [200] * 50


def test_a_newer_listener_gets_every_call_and_the_older_one_answers_what_it_has() -> None:
    release = threading.Event()
    older = started(lambda *_: ENDED if release.wait(30) else None)
    first: list[int] = []
    caller = threading.Thread(target=lambda: first.append(call(url_of(older), "a" * 32).status_code))
    caller.start()
    until(lambda: older.held == 1)

    newer = started(lambda *_: None, older.server_port)
    with httpx.Client() as client:
        during = [client.get(url_of(newer) + "b" * 32, headers=signed("b" * 32)).status_code for _ in range(20)]
    older.close()
    after = call(url_of(newer), "b" * 32).status_code
    release.set()
    caller.join(30)
    newer.close()

    assert during == [404] * 20
    assert (after, first) == (404, [200])


def test_a_hook_held_by_an_agent_that_is_replaced_is_answered_by_the_one_that_replaces_it() -> None:
    replaced = threading.Event()

    def retiring(*_: object) -> Drain:
        replaced.wait(30)
        raise RetiredError

    older = started(retiring)
    answers: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: answers.append(call(url_of(older), "a" * 32)))
    caller.start()
    until(lambda: older.held == 1)

    replaced.set()
    newer = started(lambda *_: ENDED, older.server_port)
    older.close()
    caller.join(30)
    until(lambda: older.held == 0)
    newer.close()

    assert answers[0].status_code == 200
    assert answers[0].json()["drained_seconds"] == 2.5


def signed(wanted: str) -> dict[str, str]:
    return {names.SIGNATURE_HEADER: drain_id.sign(KEY, wanted)}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()

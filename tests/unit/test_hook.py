"""The PreStop endpoint over real HTTP; the drain behind it is a function of the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from controller.drain import Drain
from controller.hook import HookServer
from sfc import drain_id, names

KEY = b"k" * 32
ENDED = Drain("uid-1", "", asked_at=10.0, deadline=40.0, out_of_targets_at=10.002, ended_at=12.5, active_sessions=0)


@contextmanager
def serving(drain: Callable[[str, float], Drain | None]) -> Iterator[str]:
    server = HookServer(("127.0.0.1", 0), KEY, drain)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{names.HOOK_PATH}"
    finally:
        server.shutdown()
        server.server_close()


def call(url: str, wanted: str, signature: str | None = None) -> httpx.Response:
    signature = drain_id.sign(KEY, wanted) if signature is None else signature
    return httpx.get(url + wanted, headers={names.SIGNATURE_HEADER: signature}, timeout=5)


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
        absent = httpx.get(url + "a" * 32, timeout=5)

    assert [r.status_code for r in (forged, borrowed, absent)] == [403, 403, 403]
    assert drained == []


def test_an_unknown_id_is_answered_at_once() -> None:
    with serving(lambda *_: None) as url:
        answer = call(url, "a" * 32)

    assert answer.status_code == 404
    assert "drain id" in json.loads(answer.content)["error"]


def test_other_paths_and_long_ids_are_refused() -> None:
    with serving(lambda *_: ENDED) as url:
        root = httpx.get(url.removesuffix(names.HOOK_PATH) + "/", timeout=5)
        long = call(url, "a" * 10_000, "x")

    assert [root.status_code, long.status_code] == [403, 403]


def test_many_hooks_are_held_at_the_same_time() -> None:
    everyone = threading.Barrier(50, timeout=10)

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
            caller.join(10)

    assert answers == [200] * 50

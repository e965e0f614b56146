"""The PreStop endpoint, with real HTTP on a unix socket. The test provides the drain behind it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from controller.listener import lead_to
from controller.node.hooks import server as hook_server
from controller.node.hooks.port import open_to_relay
from controller.node.hooks.server import HookServer
from controller.node.plane.drain import Drain, NotDeletedError, RetiredError
from sfc import names

RELAY = names.RELAY
ENDED = Drain(
    "uid-1", asked_at=10.0, deadline=40.0, confirmed=True, out_of_targets_at=10.002, ended_at=12.5, active_sessions=0
)


def started(path: Path, drain: Callable[[str, float], Drain | None]) -> HookServer:
    server = HookServer(path, drain, os.getuid())
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


@pytest.fixture
def path() -> Iterator[Path]:
    """A path that is short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="sfc-hook-") as folder:
        yield Path(folder, "hooks", "agent.sock")


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


@pytest.mark.skipif(os.getuid() != 0, reason="only root can call as somebody else")
def test_root_and_the_relay_may_call_and_nobody_else() -> None:
    with tempfile.TemporaryDirectory(prefix="sfc-hook-") as name:
        Path(name).chmod(0o755)
        path = Path(name, "hooks", "agent.sock")
        open_to_relay(path.parent, RELAY)
        server = HookServer(path, lambda *_: ENDED, RELAY)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        open_to_all = Path(name, "open.sock")
        open_to_all.hardlink_to(path)
        open_to_all.chmod(0o666)  # so that only the look at the caller is left

        answered = {user: _as_user(user, path) for user in (0, RELAY)}
        strangers = [_as_user(65532, path), _as_user(65532, open_to_all)]
        held = server.held
        server.close()

    assert answered == {0: "200", RELAY: "200"}
    assert strangers == ["PermissionError", ""]
    assert held == 0, "an agent that holds no hook ends at once when it is stopped"


def _as_user(user: int, path: Path) -> str:
    """The status that this user gets, the name of the error, or nothing when the connection is closed."""
    script = (
        "import socket,sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try:\n"
        "    s.connect(sys.argv[1]); s.sendall(b'GET /drain/a HTTP/1.0\\r\\n\\r\\n'); print(s.recv(12).decode()[9:])\n"
        "except ConnectionError: print()\n"
        "except OSError as error: print(type(error).__name__)\n"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-c", script, path],
        check=False,
        user=user,
        group=user,
        extra_groups=[],
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_a_relay_cannot_make_the_agent_hold_any_number_of_calls(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_server, "MOST_HELD", 3)
    release = threading.Event()

    def later(*_: object) -> Drain:
        release.wait(30)
        return ENDED

    server = started(path, later)
    callers = [_calling(path) for _ in range(10)]
    until = time.monotonic() + 10
    while server.held < 3 and time.monotonic() < until:
        time.sleep(0.01)
    turned_away = [caller for caller in callers if _closed(caller)]
    held = server.held
    release.set()
    answered = [caller.recv(12) for caller in callers if caller not in turned_away]
    server.close()

    assert (held, len(turned_away)) == (3, 7)
    assert answered == [b"HTTP/1.0 200"] * 3


def _calling(path: Path) -> socket.socket:
    caller = socket.socket(socket.AF_UNIX)
    caller.connect(str(path))
    with suppress(OSError):
        caller.sendall(f"GET /drain/{'a' * 32} HTTP/1.0\r\n\r\n".encode())
    caller.settimeout(1)
    return caller


def _closed(caller: socket.socket) -> bool:
    try:
        return caller.recv(1, socket.MSG_PEEK) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_an_earlier_relay_finds_the_server_at_the_path_that_it_knows(path: Path) -> None:
    with serving(path, lambda *_: ENDED):
        former = httpx.HTTPTransport(uds=str(path.parent.parent / "hooks.sock"))
        with httpx.Client(transport=former, base_url="http://node") as earlier:
            answer = call(earlier, "a" * 32)

    assert answer.status_code == 200


def test_after_a_return_to_an_earlier_agent_the_relay_reaches_that_one(path: Path) -> None:
    def lacking(*_: object) -> Drain | None:
        return None

    server = started(path, lambda *_: ENDED)
    earlier = started(path.parent.parent / "elsewhere" / "agent.sock", lacking)
    lead_to(path.parent.parent / "hooks.sock", path.parent.parent / "elsewhere" / "agent.sock")  # it takes over
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://node") as client:
        before = call(client, "a" * 32)
        server.close()
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://node") as client:
        after = call(client, "a" * 32)
    earlier.close()

    assert (before.status_code, after.status_code) == (200, 404)


def test_a_successor_keeps_the_path_when_an_agent_closes(path: Path) -> None:
    server = started(path, lambda *_: None)
    with serving(path, lambda *_: ENDED) as client:
        server.close()
        answer = call(client, "a" * 32)

    assert answer.status_code == 200

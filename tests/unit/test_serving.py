"""Metrics over TLS, and what callers can and cannot do to the server: with real sockets and certificates."""

from __future__ import annotations

import itertools
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from certs import authority
from controller import health
from kube.api import ApiError
from serving import bounded
from serving.access import ALLOWED_SECONDS, AWAY_SECONDS, REFUSED_SECONDS, REMEMBERED, STALE_SECONDS, Access
from serving.bounded import listen
from serving.certificate import Certificate
from serving.metrics import MetricsServer, Page
from serving.sources import BURST, PER_SECOND, SOURCES, Sources

GOOD, POOR, UNKNOWN = "good", "poor", "unknown"
"""Tokens: of somebody who may read metrics, of somebody who may not, and of nobody."""


@dataclass
class Reviews:
    """An API server that answers both reviews."""

    asked: list[str] = field(default_factory=list)
    away: bool = False

    def create(self, path: str, obj: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(path.rpartition("/")[2])
        if self.away:
            raise ApiError(0, "NoAnswer", "nobody there")
        spec = obj["spec"]
        if obj["kind"] == "TokenReview":
            user = {"username": spec["token"], "groups": ["system:authenticated"], "extra": {"a": ["b"]}}
            return {"status": {"authenticated": spec["token"] in (GOOD, POOR), "user": user}}
        assert spec["nonResourceAttributes"] == {"path": "/metrics", "verb": "get"}
        assert (spec["groups"], spec["extra"]) == (["system:authenticated"], {"a": ["b"]})
        return {"status": {"allowed": spec["user"] == GOOD}}


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def bearer(token: str) -> str:
    return f"Bearer {token}"


@pytest.mark.parametrize(
    ("header", "status", "reviews"),
    [
        (bearer(GOOD), HTTPStatus.OK, 2),
        (bearer(POOR), HTTPStatus.FORBIDDEN, 2),
        (bearer(UNKNOWN), HTTPStatus.UNAUTHORIZED, 1),
        (None, HTTPStatus.UNAUTHORIZED, 0),
        ("Basic good", HTTPStatus.UNAUTHORIZED, 0),
        ("Bearer ", HTTPStatus.UNAUTHORIZED, 0),
        (bearer("x" * 100_000), HTTPStatus.UNAUTHORIZED, 0),
    ],
)
def test_only_the_bearer_of_a_known_token_with_the_right_is_let_in(
    header: str | None, status: HTTPStatus, reviews: int
) -> None:
    api = Reviews()

    found = Access(api).status(header)  # type: ignore[arg-type]

    assert (found, len(api.asked)) == (status, reviews)


@pytest.mark.parametrize(("token", "seconds"), [(GOOD, ALLOWED_SECONDS), (POOR, REFUSED_SECONDS)])
def test_an_answer_counts_for_a_while(token: str, seconds: float) -> None:
    api, clock = Reviews(), Clock()
    access = Access(api, clock)  # type: ignore[arg-type]

    access.status(bearer(token))
    clock.now += seconds - 1
    access.status(bearer(token))
    within = len(api.asked)
    clock.now += 2
    access.status(bearer(token))

    assert (within, len(api.asked)) == (2, 4)


def test_while_the_api_server_is_away_who_was_let_in_stays_and_nobody_else_comes_in() -> None:
    api, clock = Reviews(), Clock()
    access = Access(api, clock)  # type: ignore[arg-type]
    for token in (GOOD, POOR):
        access.status(bearer(token))
    api.away = True

    clock.now += STALE_SECONDS - 1
    while_away = [access.status(bearer(token)) for token in (GOOD, POOR, UNKNOWN)]
    asked = len(api.asked)
    clock.now += 2
    too_long = access.status(bearer(GOOD))
    api.away = False
    clock.now += AWAY_SECONDS
    back = [access.status(bearer(token)) for token in (GOOD, POOR)]

    assert while_away == [HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.SERVICE_UNAVAILABLE]
    assert asked == 4 + 1, "nobody waits for an API server that has just given no answer"
    assert too_long == HTTPStatus.SERVICE_UNAVAILABLE
    assert back == [HTTPStatus.OK, HTTPStatus.FORBIDDEN]


def test_tokens_that_somebody_makes_up_do_not_push_out_the_good_one() -> None:
    api, clock = Reviews(), Clock()
    access = Access(api, clock)  # type: ignore[arg-type]
    access.status(bearer(GOOD))

    for number in range(3 * REMEMBERED):
        access.status(bearer(f"made up {number}"))
    before = len(api.asked)
    access.status(bearer(GOOD))

    assert len(api.asked) == before
    assert len(access._known) <= REMEMBERED


def test_a_page_is_made_at_most_once_a_second() -> None:
    clock, numbers = Clock(), itertools.count()
    page = Page(lambda: str(next(numbers)).encode(), clock)

    read = []
    for _ in range(5):
        read += [page.text(), page.text()]
        clock.now += 0.5

    assert read == [b"0", b"0", b"0", b"0", b"1", b"1", b"1", b"1", b"2", b"2"]


def test_each_source_address_may_open_a_few_connections_at_once_and_then_a_few_a_second() -> None:
    sources = Sources()

    at_once = sum(sources.admits("10.0.0.1", 0.0) for _ in range(1000))
    a_second_later = sum(sources.admits("10.0.0.1", 1.0) for _ in range(1000))
    another = sources.admits("10.0.0.2", 1.0)
    neighbour = [sum(sources.admits(f"fd00::{n:x}", 1.0) for n in range(1, 1001)), sources.admits("fd00:0:0:1::1", 1.0)]

    assert (at_once, a_second_later, another) == (BURST, PER_SECOND, True)
    assert neighbour == [BURST, True]


def test_sources_are_forgotten_when_there_are_too_many() -> None:
    sources = Sources()

    for number in range(3 * SOURCES):
        sources.admits(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)

    assert len(sources._left) == SOURCES


def test_ipv4_sources_of_a_socket_for_both_families_are_told_apart() -> None:
    sources = Sources()

    for _ in range(100):
        sources.admits("::ffff:10.0.0.1", 0.0)

    assert sources.admits("::ffff:10.0.0.2", 0.0)


def certificate(folder: Path, name: str = "here") -> bytes:
    """Writes a certificate for `name` into the folder; returns its authority's (PEM)."""
    now = datetime.now(UTC)
    signer = authority.new_authority(now)
    pair = authority.new_serving(signer, [name], now)
    folder.mkdir(exist_ok=True)
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key)
    return signer.certificate


@dataclass
class Running:
    server: MetricsServer
    api: Reviews
    trust: ssl.SSLContext
    made: list[float]
    """When each page was made."""

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.server.server_address[1]

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(verify=self.trust)
        return httpx.Client(transport=transport, base_url=f"https://127.0.0.1:{self.address[1]}")

    def get(self, path: str = "/metrics", **headers: str) -> httpx.Response:
        with self.client() as client:
            return client.get(path, headers=headers, extensions={"sni_hostname": "here"})


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    trust = ssl.create_default_context(cadata=certificate(tmp_path / "tls").decode())
    api, made = Reviews(), []

    def make() -> bytes:
        made.append(time.monotonic())
        return b"# metrics\n"

    access = Access(api)  # type: ignore[arg-type]
    server = MetricsServer(listen("127.0.0.1", 0), Certificate(tmp_path / "tls"), access, Page(make))
    server.start()
    yield Running(server, api, trust, made)
    server.close()


@pytest.mark.parametrize(
    ("path", "token", "status", "words"),
    [
        ("/metrics", GOOD, 200, "# metrics"),
        ("/metrics", POOR, 403, "sfc-metrics-reader"),
        ("/metrics", UNKNOWN, 401, "need a token"),
        ("/metrics", None, 401, "need a token"),
        ("/healthz", GOOD, 404, "there is /metrics"),
    ],
)
def test_metrics_over_tls(running: Running, path: str, token: str | None, status: int, words: str) -> None:
    answer = running.get(path, **({"Authorization": bearer(token)} if token else {}))

    assert answer.status_code == status
    assert words in answer.text
    assert answer.headers.get("connection", "keep-alive") == ("keep-alive" if status == 200 else "close")


def test_plain_http_gets_nothing(running: Running) -> None:
    with socket.create_connection(running.address) as caller:
        caller.sendall(b"GET /metrics HTTP/1.1\r\nAuthorization: Bearer good\r\n\r\n")

        assert b"metrics" not in caller.recv(1000)


def test_scrapes_share_a_connection_a_page_and_an_answer_of_the_api_server(running: Running) -> None:
    with running.client() as client:
        for _ in range(50):
            headers = {"Authorization": bearer(GOOD)}
            assert client.get("/metrics", headers=headers, extensions={"sni_hostname": "here"}).status_code == 200

    assert len(running.made) <= 2
    assert len(running.api.asked) == 2


def test_a_crowd_of_idle_callers_neither_keeps_a_good_one_out_nor_ends_its_connection(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sources, "admits", lambda *_: True)  # as if each had an address of its own
    headers = {"Authorization": bearer(GOOD)}
    crowd = []

    with running.client() as early:
        before = early.get("/metrics", headers=headers, extensions={"sni_hostname": "here"})
        crowd = [socket.create_connection(running.address) for _ in range(3 * bounded.CONNECTIONS)]
        eventually(lambda: len(running.server._open) <= bounded.CONNECTIONS)
        late = running.get(Authorization=bearer(GOOD))
        again = early.get("/metrics", headers=headers, extensions={"sni_hostname": "here"})
        same = before.extensions["network_stream"] is again.extensions["network_stream"]
    for caller in crowd:
        caller.close()

    assert [answer.status_code for answer in (before, late, again)] == [200] * 3
    assert same or len(running.api.asked) == 2
    assert len(running.server._open) <= bounded.CONNECTIONS


def test_a_source_that_calls_too_often_is_cut_off_before_the_handshake(running: Running) -> None:
    began = time.monotonic()
    answers = []
    for _ in range(200):
        with socket.create_connection(running.address) as caller:
            caller.settimeout(0.01)
            answers.append(_closed(caller))

    spent = time.monotonic() - began
    assert answers.count(True) >= 200 - BURST - PER_SECOND * spent - 1


def _closed(caller: socket.socket) -> bool:
    try:
        return caller.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_a_new_certificate_is_served_without_a_restart_and_a_broken_one_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    served = Certificate(folder)
    none = served.context()
    certificate(folder)
    served._looked = float("-inf")
    first = served.context()
    (folder / "tls.key").write_text("torn")
    served._looked = float("-inf")
    torn = served.context()
    certificate(folder, "elsewhere")
    served._looked = float("-inf")
    second = served.context()

    assert none is None
    assert first is torn is not None
    assert second not in (None, first)


def test_without_a_certificate_nobody_is_served(tmp_path: Path) -> None:
    server = MetricsServer(listen("127.0.0.1", 0), Certificate(tmp_path), Access(Reviews()), Page())  # type: ignore[arg-type]
    server.start()
    with socket.create_connection(("127.0.0.1", server.server_address[1])) as caller:
        caller.settimeout(5)
        assert _closed(caller)
    server.close()


def test_probes_are_answered_however_many_come_from_one_address_and_however_many_others_wait() -> None:
    """The kubelet asks for every pod of its node, and a tenant's probe may name any port: its address says nothing."""
    server = health.serve(0, healthy=lambda: None, ready=lambda: None, address="127.0.0.1")
    address = ("127.0.0.1", server.server_address[1])
    crowd = [socket.create_connection(address) for _ in range(3 * bounded.CONNECTIONS)]

    with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}") as client:
        answers = [client.get("/healthz").status_code for _ in range(200)]
    for caller in crowd:
        caller.close()
    server.close()

    assert answers == [200] * 200


def eventually(look: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not look():
        assert time.monotonic() < until
        time.sleep(0.01)

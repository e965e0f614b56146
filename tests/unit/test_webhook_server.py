"""The real server with TLS on a real socket, a real list-watch behind it, and reviews as an API server posts them."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import os
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jsonpatch
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client import generate_latest

from sfc import threads
from tests.statements import SIGNER
from tests.unit import objects
from tests.unit.fake_api import FakeApi
from webhook import app, callers, certificate, connection, turns
from webhook import review as review_module
from webhook.cache import AdmissionCache
from webhook.callers import Callers
from webhook.decide.model import Decision
from webhook.door import Door
from webhook.server import ENDPOINTS, Servers, _shared, aged

SECRET = "/" + "s3cret" * 6


def self_signed(directory: Path, name: str) -> None:
    """Writes tls.crt and tls.key as a running authority replaces them: without notice."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    (directory / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (directory / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))


def free_port() -> int:
    """Below the ports that the kernel gives to clients: one of these could be taken before the server listens on it."""
    while True:
        with socket.socket() as s, suppress(OSError):
            s.bind(("127.0.0.1", random.randrange(10_000, 32_000)))
            return int(s.getsockname()[1])


def open_door(folder: Path) -> Door:
    """Endpoints without a secret before them."""
    (folder / "paths").write_text("/")
    made = Door(ENDPOINTS, folder)
    made.refresh()
    return made


@dataclass
class Running:
    client: httpx.Client
    health: httpx.Client
    port: int
    tls_dir: Path
    certificate: certificate.ServingCertificate
    api: FakeApi
    servers: Servers

    def served_name(self) -> str:
        pem = ssl.get_server_certificate(("127.0.0.1", self.port))
        return x509.load_pem_x509_certificate(pem.encode()).subject.rfc4514_string()


@contextmanager
def webhook(
    tls_dir: Path,
    callers: Callers | None = None,
    *,
    linger_seconds: float = 0,
    name: str = "first",
    port: int = 0,
    door: Door | None = None,
) -> Iterator[Running]:
    api = FakeApi()
    chain = objects.chain()
    chain["metadata"]["resourceVersion"] = "5"
    api.lists[0] = [chain]
    self_signed(tls_dir, name)
    cache = AdmissionCache(api.client())
    serving = certificate.ServingCertificate(tls_dir, callers)
    port, health_port = port or free_port(), free_port()
    serving_door = door or open_door(tls_dir)
    addresses = ("127.0.0.1", port), ("127.0.0.1", health_port)
    servers = Servers(cache, serving, serving_door, SIGNER.sign, addresses)
    thread = threading.Thread(target=servers.run, args=(linger_seconds,), daemon=True)
    thread.start()
    with (
        httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False) as client,
        httpx.Client(base_url=f"http://127.0.0.1:{health_port}") as health,
    ):
        eventually_answers(health)
        assert health.get("/readyz").text == "no serving certificate yet\n"
        serving.refresh()
        assert health.get("/readyz").text == "chains and namespaces not read yet\n"
        cache.start()
        while health.get("/readyz").status_code != 200:
            time.sleep(0.01)
        yield Running(client, health, port, tls_dir, serving, api, servers)
    cache.stop()
    servers.stop()
    thread.join(60)
    api.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A webhook that tests share if they leave it unchanged."""
    with webhook(tmp_path_factory.mktemp("tls")) as running:
        yield running


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Running]:
    with webhook(tmp_path) as running:
        yield running


def eventually_answers(client: httpx.Client) -> None:
    for _ in range(3000):
        try:
            client.get("/healthz")
            return
        except httpx.TransportError:
            time.sleep(0.01)
    raise AssertionError("the server did not start within 30 s")


def review(obj: dict[str, Any], operation: str = "CREATE", **more: Any) -> dict[str, Any]:
    request = {"uid": "u-1", "operation": operation, "namespace": "telco", "object": obj, **more}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def nat_pod() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "nat-7d-", "labels": {"sfc.dev/chain": "edge", "sfc.dev/stage": "nat"}},
        "spec": {"containers": [{"name": "nat", "image": "nat"}]},
    }


def test_the_end_of_an_answer_does_not_wait_for_an_acknowledgement() -> None:
    with _shared(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_pod_is_patched_into_a_replica_of_its_stage(running: Running) -> None:
    answer = running.client.post("/mutate/pods", json=review(nat_pod())).json()

    response = answer["response"]
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert (response["uid"], response["allowed"], response["patchType"]) == ("u-1", True, "JSONPatch")
    pod = jsonpatch.apply_patch(nat_pod(), base64.b64decode(response["patch"]).decode())
    hook = pod["spec"]["containers"][0]["lifecycle"]["preStop"]["httpGet"]
    identity = pod["metadata"]["annotations"]["sfc.dev/drain-id"]
    assert hook == {"host": "127.0.0.1", "port": 9810, "path": f"/drain/{identity}", "scheme": "HTTP"}


def test_a_workload_gets_its_labels_into_the_template(running: Running) -> None:
    deployment = {"kind": "Deployment", "metadata": nat_pod()["metadata"], "spec": {"template": {}}}

    response = running.client.post("/mutate/workloads", json=review(deployment)).json()["response"]

    assert json.loads(base64.b64decode(response["patch"])) == [
        {"op": "add", "path": "/spec/template/metadata", "value": {"labels": nat_pod()["metadata"]["labels"]}}
    ]


def test_an_invalid_chain_is_denied_with_all_problems(running: Running) -> None:
    chain = objects.chain()
    chain["spec"]["stages"][0]["interfaces"][0]["addresses"] = ["10.1.0.2"]
    chain["spec"]["stages"][3]["name"] = "nat"

    response = running.client.post("/validate/chains", json=review(chain)).json()["response"]

    assert response["allowed"] is False
    assert response["status"]["message"].startswith(
        "ServiceFunctionChain telco/edge is not valid: 2 problems:\n- spec.stages[0]"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"\xff\xfe", "body is not JSON: "),
        (b"[]", "body must be an object"),
        (b"{}", "body is not an AdmissionReview of admission.k8s.io/v1; set apiVersion and kind"),
        (b'{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}', "body is not an AdmissionReview of"),
        (b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}', "request must be an object"),
        (json.dumps(review({}, operation="PATCH")).encode(), "request.operation must be one of CREATE, UPDATE"),
        (json.dumps(review([])).encode(), "request.object must be an object"),  # type: ignore[arg-type]
        (json.dumps(review({}, uid=7)).encode(), "request.uid must be a string that is not empty"),
        (json.dumps(review({}, operation="UPDATE")).encode(), "request.oldObject must be an object"),
        (b"[" * 100_000, "body is not JSON: "),
        (b'{"a":NaN}', "body is not JSON: NaN is no JSON number"),
        (b'{"a":-1e999}', "body is not JSON: a number is too large"),
        (b'{"a":' + b"9" * 5000 + b"}", "body is not JSON: Exceeds the limit (4300 digits)"),
        ("{}".encode("utf-16"), "body is not JSON: 'utf-8' codec can't decode"),
        (b"\xef\xbb\xbf{}", "body is not JSON: Unexpected UTF-8 BOM"),
        (b'{"a":"\xed\xa0\x80"}', "body is not JSON: 'utf-8' codec can't decode"),
        (b'{"a":1}{"a":1}', "body is not JSON: Extra data"),
    ],
)
@pytest.mark.parametrize("path", ["/mutate/pods", "/mutate/workloads", "/validate/chains"])
def test_anything_but_an_admission_review_gets_400_and_the_reason(
    running: Running, path: str, body: bytes, message: str
) -> None:
    answer = running.client.post(path, content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 400
    assert answer.text.startswith(message)


@pytest.mark.parametrize("content_type", ["text/plain", "application/yaml", None])
def test_another_content_type_gets_415(running: Running, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}

    answer = running.client.post("/mutate/pods", content=b"{}", headers=headers)

    assert answer.status_code == 415


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_a_compressed_body_gets_415(running: Running, encoding: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": encoding}

    answer = running.client.post("/mutate/pods", content=gzip.compress(b" " * (1 << 20)), headers=headers)

    assert answer.status_code == 415
    assert answer.text == f"content encoding is {encoding}; send the body as it is"


def test_a_body_over_the_limit_gets_413(running: Running) -> None:
    body = b" " * (app.MAX_BODY_BYTES + 1)

    answer = running.client.post("/mutate/pods", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 413


def test_a_body_of_the_limit_is_read(running: Running) -> None:
    body = json.dumps(review(nat_pod())).encode().ljust(app.MAX_BODY_BYTES)

    answer = running.client.post("/mutate/pods", content=body, headers={"content-type": "application/json"})

    assert answer.json()["response"]["allowed"]


def test_an_endless_body_is_cut_off(running: Running) -> None:
    sent = []

    def endless() -> Iterator[bytes]:
        for _ in range(200):
            sent.append(1 << 20)
            yield b" " * (1 << 20)

    headers = {"content-type": "application/json"}
    with running.client.stream("POST", "/mutate/pods", content=endless(), headers=headers) as answer:
        status = answer.status_code  # the rest may be lost with the connection, because the client still sends

    assert status == 413
    assert sum(sent) < 50 << 20


def test_a_body_that_stops_arriving_gets_408(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_TIMEOUT_SECONDS", 0.2)

    with connected(running) as s:
        s.sendall(head(9) + b"{")

        assert s.recv(1000).startswith(b"HTTP/1.1 408")


def test_bodies_that_are_read_at_one_time_are_bounded_together(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MAX_HELD_BYTES", 1000)

    with connected(running) as slow, connected(running) as other:
        slow.sendall(head(900) + b" " * 899)
        time.sleep(0.1)
        other.sendall(head(900) + b" " * 900)
        refused = other.recv(1000)
        slow.sendall(b" ")
        read = slow.recv(1000)

    assert refused.startswith(b"HTTP/1.1 429")
    assert read.startswith(b"HTTP/1.1 400"), "what was held is given back"
    assert running.client.post("/mutate/pods", json=review({})).status_code == 200


@pytest.fixture
def impatient(running: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setattr(connection, "EXCHANGE_SECONDS", 0.5)
    monkeypatch.setattr(connection, "UNUSED_SECONDS", 1.5)
    return running


@pytest.mark.parametrize("pieces", [[], [b"POST"], [bytes([byte]) for byte in b"POST /mutate/pods HTTP/1.1\r\n" * 9]])
def test_a_connection_without_a_whole_request_is_ended(impatient: Running, pieces: list[bytes]) -> None:
    started = time.monotonic()

    with connected(impatient) as s, suppress(ConnectionError, ssl.SSLError):
        for piece in pieces:
            s.sendall(piece)
            time.sleep(0.02)
        assert s.recv(1000) == b""

    assert time.monotonic() - started < 19  # without these limits, EXCHANGE_SECONDS is the least


def test_an_answer_that_nobody_reads_ends_the_connection(impatient: Running) -> None:
    pod = nat_pod()
    pod["spec"]["containers"] = [{"name": f"c{i}"} for i in range(500)]
    body = json.dumps(review(pod)).encode()

    with connected(impatient) as s, pytest.raises((ConnectionError, ssl.SSLError)):
        s.settimeout(60)  # a webhook that waits for the caller would make this one wait, too
        for _ in range(10_000):
            s.sendall(head(len(body)) + body)

    assert impatient.client.post("/mutate/pods", json=review({})).status_code == 200


def test_a_connection_that_waits_for_its_first_request_or_its_next_stays(impatient: Running) -> None:
    body = json.dumps(review(nat_pod())).encode()

    with connected(impatient) as s:
        for _ in range(3):
            time.sleep(0.7)
            s.sendall(head(len(body)) + body)
            answer = b""
            while not answer.endswith(b"}}"):
                answer += s.recv(1 << 20)
            assert answer.startswith(b"HTTP/1.1 200")


def test_connections_beyond_the_limit_are_ended_and_the_others_served(
    fresh: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 3)
    body = json.dumps(review(nat_pod())).encode()

    with ExitStack() as stack:
        first, *_ = [stack.enter_context(connected(fresh)) for _ in range(3)]
        one_more = stack.enter_context(connected(fresh))
        with suppress(ConnectionError, ssl.SSLError):
            assert one_more.recv(1000) == b""
        first.sendall(head(len(body)) + body)

        assert first.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_thread_that_ended_makes_the_process_unhealthy_with_its_name(fresh: Running) -> None:
    before = fresh.health.get("/healthz")

    threads.start("files", lambda: None).join()
    after = fresh.health.get("/healthz")

    assert (before.status_code, before.text) == (200, "ok\n")
    assert (after.status_code, after.text) == (503, "thread files ended: its function returned\n")


def test_a_decision_that_hangs_makes_the_process_unhealthy_with_the_name_of_its_thread(
    fresh: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        asked.set()
        go_on.wait()
        raise RuntimeError

    monkeypatch.setattr(turns, "review", hang)
    (life,) = (each for each in threads._PROCESS._lives if each.name == "admission")
    monkeypatch.setattr(life, "silent", 0.5)
    with connected(fresh) as caller:
        body = json.dumps(review(nat_pod())).encode()
        caller.sendall(head(len(body)) + body)
        asked.wait()
        while (hanging := fresh.health.get("/healthz")).status_code == 200:
            time.sleep(0.01)
        go_on.set()
        while fresh.health.get("/healthz").status_code != 200:
            time.sleep(0.01)

    assert hanging.text.startswith("thread admission hangs: no sign of life for ")


def test_a_denial_by_old_knowledge_says_how_old_it_is() -> None:
    denial, allowance = Decision(denied="There is no such chain."), Decision()

    assert aged(denial, 119) == denial
    assert aged(allowance, 7000) == allowance
    assert aged(denial, 7000.4).denied == (
        "There is no such chain. (The API server's last word about chains is 7000 s old.)"
    )


def test_a_certificate_swapped_on_disk_is_served_without_a_restart(fresh: Running) -> None:
    assert fresh.served_name() == "CN=first"
    kept_open = fresh.client.post("/validate/chains", json=review(objects.chain()))

    self_signed(fresh.tls_dir, "second")
    fresh.certificate.refresh()

    assert fresh.served_name() == "CN=second"
    assert kept_open.status_code == fresh.client.post("/validate/chains", json=review(objects.chain())).status_code


def test_a_certificate_that_does_not_fit_its_key_leaves_the_last_one_in_service(
    fresh: Running, caplog: pytest.LogCaptureFixture
) -> None:
    old_key = (fresh.tls_dir / "tls.key").read_bytes()
    self_signed(fresh.tls_dir, "second")
    (fresh.tls_dir / "tls.key").write_bytes(old_key)

    with caplog.at_level(logging.ERROR):
        fresh.certificate.refresh()

    assert fresh.served_name() == "CN=first"
    assert "serving certificate not usable" in caplog.text


def test_expiry_of_the_certificate_in_service_is_a_metric(fresh: Running) -> None:
    end = x509.load_pem_x509_certificate((fresh.tls_dir / "tls.crt").read_bytes()).not_valid_after_utc

    lines = generate_latest().decode().splitlines()

    (value,) = [line.split()[1] for line in lines if line.startswith("sfc_served_certificate_expiry_timestamp_seconds")]
    assert float(value) == end.timestamp()


def test_expiry_of_its_authority_is_a_metric(fresh: Running) -> None:
    (fresh.tls_dir / "ca.crt").write_bytes((fresh.tls_dir / "tls.crt").read_bytes())
    self_signed(fresh.tls_dir, "second")
    fresh.certificate.refresh()

    end = x509.load_pem_x509_certificate((fresh.tls_dir / "ca.crt").read_bytes()).not_valid_after_utc

    assert certificate.AUTHORITY_EXPIRY._value.get() == end.timestamp()


@pytest.mark.parametrize(
    ("names", "admitted"),
    [
        pytest.param(None, {"caller"}, id="any name"),
        pytest.param("other\ncaller\n", {"caller"}, id="its name"),
        pytest.param("other", set(), id="another name"),
    ],
)
def test_with_a_client_authority_only_its_callers_are_served(
    tmp_path: Path, names: str | None, admitted: set[str]
) -> None:
    places = {name: tmp_path / name for name in ("own", "caller", "stranger", "callers")}
    for place in places.values():
        place.mkdir()
        self_signed(place, place.name)
    (places["callers"] / "ca.crt").write_bytes((places["caller"] / "tls.crt").read_bytes())
    if names is not None:
        (places["callers"] / "names").write_text(names)
    with webhook(places["own"], callers=callers.read(places["callers"])) as running:

        def served(name: str | None) -> bool:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if name:
                context.load_cert_chain(places[name] / "tls.crt", places[name] / "tls.key")
            url = f"https://127.0.0.1:{running.port}/mutate/pods"
            with httpx.Client(verify=context) as client, suppress(httpx.TransportError):
                return bool(client.post(url, json=review(nat_pod())).json()["response"]["allowed"])
            return False

        assert {name for name in ("caller", "stranger", None) if served(name)} == admitted


def test_without_a_client_authority_everybody_may_try(tmp_path: Path) -> None:
    assert callers.read(tmp_path) is None


def test_a_client_authority_that_cannot_be_read_is_no_open_door(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nonsense")

    with pytest.raises(OSError, match=r"no certificate|PEM"):
        callers.read(tmp_path)


def test_leaving_gives_up_connections_before_it_refuses_them(tmp_path: Path) -> None:
    with webhook(tmp_path, linger_seconds=1.5) as running:
        before = running.client.post("/mutate/pods", json=review(nat_pod()))
        running.servers.stop()
        during = [running.client.post("/mutate/pods", json=review(nat_pod())) for _ in range(3)]

    assert "connection" not in before.headers
    assert [answer.json()["response"]["allowed"] for answer in during] == [True] * 3
    assert [answer.headers["connection"] for answer in during] == ["close"] * 3


def test_a_request_in_flight_is_answered_before_the_end(tmp_path: Path) -> None:
    body = json.dumps(review(nat_pod())).encode()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        webhook(tmp_path) as running,
        context.wrap_socket(socket.create_connection(("127.0.0.1", running.port))) as caller,
    ):
        head = f"POST /mutate/pods HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        caller.sendall(f"{head}\r\n\r\n".encode() + body[:100])
        time.sleep(0.1)
        running.servers.stop()
        time.sleep(0.5)
        caller.sendall(body[100:])

        answer = caller.recv(100_000)

    assert answer.startswith(b"HTTP/1.1 200")


def test_admission_listens_once_it_can_answer(tmp_path: Path) -> None:
    api = FakeApi()
    self_signed(tmp_path, "early")
    serving = certificate.ServingCertificate(tmp_path)
    serving.refresh()
    port, health_port = free_port(), free_port()
    addresses = ("127.0.0.1", port), ("127.0.0.1", health_port)
    servers = Servers(AdmissionCache(api.client()), serving, open_door(tmp_path), SIGNER.sign, addresses)
    thread = threading.Thread(target=servers.run, args=(0,), daemon=True)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{health_port}") as health:
        eventually_answers(health)

        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))

    servers.stop()
    thread.join(60)
    api.close()
    assert not thread.is_alive()


def test_two_processes_of_a_pod_share_the_admission_port(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with webhook(tmp_path / "one") as one:
        with webhook(tmp_path / "two", name="second", port=one.port):
            served = {one.served_name() for _ in range(50)}
        left = {one.served_name() for _ in range(20)}

    assert served == {"CN=first", "CN=second"}
    assert left == {"CN=first"}


def test_a_port_that_is_taken_ends_the_process(tmp_path: Path) -> None:
    api = FakeApi()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        addresses = taken.getsockname(), ("127.0.0.1", free_port())
        serving = certificate.ServingCertificate(tmp_path)
        servers = Servers(AdmissionCache(api.client()), serving, open_door(tmp_path), SIGNER.sign, addresses)
        servers.stop()

        with pytest.raises(OSError, match="in use"):
            servers.run()

    api.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tls_below_1_2_is_refused(running: Running) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")

    with pytest.raises(ssl.SSLError), old.wrap_socket(socket.create_connection(("127.0.0.1", running.port))):
        pass


def test_metrics_count_requests_by_result(running: Running) -> None:
    running.client.post("/mutate/pods", json=review({"metadata": {}, "spec": {}}))

    text = generate_latest().decode()

    assert 'sfc_admission_requests_total{path="/mutate/pods",result="allowed"}' in text
    assert "sfc_chain_cache_age_seconds" in text


def test_losing_the_api_server_changes_neither_readiness_nor_answers(fresh: Running) -> None:
    fresh.api.close()
    time.sleep(0.1)

    answer = fresh.client.post("/mutate/pods", json=review(nat_pod())).json()

    assert answer["response"]["allowed"]
    assert fresh.health.get("/readyz").status_code == 200


@contextmanager
def process(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A webhook in a process of its own, when it is ready; and its port."""
    api = FakeApi()
    self_signed(tmp_path, "process")
    (tmp_path / "paths").write_text(f"{SECRET}\n")
    (tmp_path / "statement-key").write_bytes(bytes(32))
    (tmp_path / "kubeconfig").write_text(kubeconfig(api.url))
    port, health_port = free_port(), free_port()
    options = [
        "--tls-dir",
        tmp_path,
        "--callers",
        tmp_path / "none",
        "--door",
        tmp_path,
        "--statement-key",
        tmp_path / "statement-key",
        "--port",
        port,
        "--health-port",
        health_port,
        "--metrics-port",
        free_port(),
        "--linger-seconds",
        0,
    ]

    process = subprocess.Popen(
        [sys.executable, "-m", "webhook", *map(str, options)],
        env={**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig")},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{health_port}") as health:
            eventually_answers(health)
            for _ in range(500):
                if health.get("/readyz").status_code == 200:
                    break
                time.sleep(0.01)
            assert health.get("/readyz").text == "ok\n"
        yield process, port
    finally:
        process.kill()
        process.wait()
        api.close()


def test_the_process_starts_with_its_options_and_ends_normally_on_sigterm(tmp_path: Path) -> None:
    with process(tmp_path) as (running, _):
        running.terminate()
        _, errors = running.communicate(timeout=10)

    assert running.returncode == 0
    told = [json.loads(line)["message"] for line in errors.splitlines()]
    assert told[:2] == ["the webhook asks for no client certificate", "serving certificate loaded"]


CUT_OFF = 0
"""No answer: the exchange took too long. 16 of the largest bodies at the same time may, on a busy machine."""


def test_memory_is_bounded_whatever_is_sent_by_however_many(tmp_path: Path) -> None:
    """Below the limit of deploy/webhook.yaml."""
    most = app.MAX_BODY_BYTES
    start = (
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":"CREATE","x":['
    )
    fill = [b"[],", b'{"a":{}},', b'"ab",', b"12345,", b"1.5,", b'"\xf0\x9f\xa7\xaa",', b'{"a":"', b"[[[["]
    bodies = [start + piece * ((most - len(start) - 3) // len(piece)) for piece in fill]
    bodies += [body[: review_module.MAX_CONTAINED * 3] for body in bodies[:2]]
    bodies += [body.rstrip(b",") + b"]}}" for body in bodies]

    with process(tmp_path) as (running, port), ThreadPoolExecutor(16) as pool:

        def post(body: bytes) -> int:
            with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=60) as client:
                headers = {"content-type": "application/json"}
                try:
                    return client.post(f"{SECRET}/mutate/pods", content=body, headers=headers).status_code
                except httpx.TransportError:
                    return CUT_OFF

        answers = list(pool.map(post, bodies))
        status = Path(f"/proc/{running.pid}/status").read_text()

    assert set(answers) <= {400, 408, 429, CUT_OFF}
    assert 400 in answers
    (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    assert peak < 256 << 10, peak


def head(length: int, prefix: str = "") -> bytes:
    fields = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {length}"
    return f"POST {prefix}/mutate/pods HTTP/1.1\r\n{fields}\r\n\r\n".encode()


@contextmanager
def connected(running: Running) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(socket.create_connection(("127.0.0.1", running.port), timeout=10)) as s:
        yield s


def test_the_process_says_what_it_lacks(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "webhook", "--statement-key", str(tmp_path / "key")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert result.returncode == 1
    (line,) = map(json.loads, result.stderr.splitlines())
    assert line["message"] == "webhook cannot start"
    assert line["error"] == f"[Errno 2] No such file or directory: '{tmp_path}/key'"


def kubeconfig(url: str) -> str:
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    cluster = {"name": "c", "cluster": {"server": url}}
    return json.dumps(
        {"clusters": [cluster], "users": [{"name": "u", "user": {}}], "contexts": [context], "current-context": "c"}
    )

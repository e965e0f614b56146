"""What an admission costs over TLS: the webhook beside a handler that does nothing, under the same server settings.

Each server is a process of its own; both run on one CPU, the client on the other. Connections are kept alive, as the
API server keeps them. Latency is measured with one request at a time, throughput with eight in flight.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import QUICK, Report, Spread, Target, machine, ratio
from certs import authority
from sfc import names
from tests.unit import objects
from tests.unit.fake_api import FakeApi

ROUNDS = 5 if QUICK else 25
REQUESTS = {"typical": 60 if QUICK else 200, "huge": 5 if QUICK else 15}
"""By pod, how many a round."""
WARM_UP = 50
IN_FLIGHT = 8
START_SECONDS = 20.0
DOOR = "/" + "d" * 43
"""What stands before our paths."""
MANIFESTS = Path(__file__).parent.parent / "tests" / "unit" / "manifests"
SERVER_CPU, CLIENT_CPU = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))

EMPTY, OURS = "empty handler", "ours"
PODS = ("typical", "huge")
TARGETS = {"typical, ms added": Target(2.0, at_most=True)}
NOTES = (
    "Typical is a pod that Istio has injected before (4 KB), huge one with 10,000 environment variables (1 MB).",
    "The empty handler is a FastAPI endpoint that returns an empty response and reads no body. Its server settings, "
    "TLS and connections are as ours.",
    "Added is the median of our latencies less the median of the empty handler's, within a round.",
)


@dataclass(frozen=True, slots=True)
class Way:
    """Requests to one server, with one pod."""

    sockets: Sequence[ssl.SSLSocket]
    request: bytes

    def warm_up(self, expected: bytes) -> None:
        """Sends requests until an answer contains `expected`: a webhook that has just started knows no chains yet."""
        deadline = time.monotonic() + START_SECONDS
        for i in itertools.count():
            self.sockets[0].sendall(self.request)
            if expected in (answer := _answered(self.sockets[0])) and i >= WARM_UP:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"not admitted: {answer!r}")

    def latencies(self, amount: int) -> list[float]:
        """Of so many requests, one after the other; in milliseconds."""
        found = []
        for _ in range(amount):
            started = time.perf_counter()
            self.sockets[0].sendall(self.request)
            _answered(self.sockets[0])
            found.append((time.perf_counter() - started) * 1000)
        return found

    def rate(self, amount: int) -> float:
        """Requests a second, with one in flight on each connection."""
        started = time.perf_counter()
        for connection in self.sockets:
            connection.sendall(self.request)
        for i in range(amount):
            connection = self.sockets[i % len(self.sockets)]
            _answered(connection)
            if i < amount - len(self.sockets):
                connection.sendall(self.request)
        return amount / (time.perf_counter() - started)


def main() -> None:
    """ROUNDS times both servers with both pods, in turn."""
    os.sched_setaffinity(0, {CLIENT_CPU})
    described = machine()
    figures: dict[str, dict[str, list[float]]] = {"median ms": {}, "p99 ms": {}, "requests per second": {}}
    with ExitStack() as cleanup:
        ways = _ways(cleanup)
        for (_, server), way in ways.items():
            way.warm_up(b'"patch"' if server is OURS else b"")
        for _ in range(ROUNDS):
            for (pod, server), way in ways.items():
                latencies = way.latencies(REQUESTS[pod])
                _note(figures["median ms"], pod, server, statistics.median(latencies))
                _note(figures["p99 ms"], pod, server, statistics.quantiles(latencies, n=100, method="inclusive")[98])
                _note(figures["requests per second"], pod, server, way.rate(max(IN_FLIGHT, REQUESTS[pod])))
    medians = figures["median ms"]
    added = {pod: _added(medians[_name(pod, OURS)], medians[_name(pod, EMPTY)]) for pod in PODS}
    ratios = {f"{pod}, ms added": spread for pod, spread in added.items()}
    ratios |= {
        f"{pod}, requests per second, ours/empty": ratio(
            figures["requests per second"], _name(pod, OURS), _name(pod, EMPTY)
        )
        for pod in PODS
    }
    more = {"added_median_ms": {pod: round(spread.median, 4) for pod, spread in added.items()}}
    Report("admission", described, figures, ratios, TARGETS, NOTES, more).publish()


def _name(pod: str, server: str) -> str:
    return f"{server}, {pod} pod"


def _note(rounds: dict[str, list[float]], pod: str, server: str, value: float) -> None:
    rounds.setdefault(_name(pod, server), []).append(value)


def _added(ours: Sequence[float], empty: Sequence[float]) -> Spread:
    return Spread.of([a - b for a, b in zip(ours, empty, strict=True)])


# --- servers ----------------------------------------------------------------------------------------------------------


def _ways(cleanup: ExitStack) -> dict[tuple[str, str], Way]:
    directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
    _certificate(directory)
    ports = {
        EMPTY: cleanup.enter_context(_empty(directory)),
        OURS: cleanup.enter_context(_webhook(directory)),
    }
    connections = {
        server: [cleanup.enter_context(_connected(port)) for _ in range(IN_FLIGHT)] for server, port in ports.items()
    }
    pods = {"typical": _typical(), "huge": _huge()}
    prefixes = {EMPTY: "", OURS: DOOR}
    return {
        (pod, server): Way(connections[server], _request(pods[pod], prefixes[server]))
        for pod in PODS
        for server in (EMPTY, OURS)
    }


@contextmanager
def _empty(directory: Path) -> Iterator[int]:
    port = _free_port()
    with _process([sys.executable, "-m", "benchmarks.empty_handler", str(port), str(directory)], {}):
        yield port


@contextmanager
def _webhook(directory: Path) -> Iterator[int]:
    """Runs the webhook with the options of its deployment, and a chain to look up; yields its port."""
    api = FakeApi()
    chain = objects.chain()
    chain["metadata"]["resourceVersion"] = "5"
    api.lists[0] = [chain]
    (directory / "statement-key").write_bytes(bytes(32))
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    config = {"clusters": [{"name": "c", "cluster": {"server": api.url}}], "users": [{"name": "u", "user": {}}]}
    (directory / "kubeconfig").write_text(json.dumps({**config, "contexts": [context], "current-context": "c"}))
    port = _free_port()
    (directory / names.DOOR_FIELD).write_text(DOOR)
    options: dict[str, Path | int] = {"tls-dir": directory, "door": directory}
    options["statement-key"] = directory / "statement-key"
    options |= {"port": port, "health-port": _free_port()}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    with _process([sys.executable, "-m", "webhook", *arguments], {"KUBECONFIG": str(directory / "kubeconfig")}):
        yield port
    api.close()


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        ["taskset", "-c", str(SERVER_CPU), *command], env={**os.environ, **environment}, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _certificate(directory: Path) -> None:
    now = datetime.now(UTC)
    pair = authority.new_serving(authority.new_authority(now), ["localhost"], now)
    (directory / "tls.crt").write_bytes(pair.certificate)
    (directory / "tls.key").write_bytes(pair.key)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


# --- requests ---------------------------------------------------------------------------------------------------------


def _typical() -> dict[str, Any]:
    pod: dict[str, Any] = yaml.safe_load((MANIFESTS / "istio-injected.yaml").read_text())
    return pod


def _huge() -> dict[str, Any]:
    pod = _typical()
    pod["spec"]["containers"][1]["env"] = [{"name": f"POOL_{i:05}", "value": "x" * 64} for i in range(10_000)]
    return pod


def _request(pod: dict[str, Any], prefix: str) -> bytes:
    request = {"uid": "u-1", "operation": "CREATE", "namespace": "telco", "object": pod}
    body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()
    head = f"POST {prefix}/mutate/pods HTTP/1.1\r\nHost: webhook\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def _connected(port: int) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            plain = socket.create_connection(("127.0.0.1", port), timeout=10)
            break
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with context.wrap_socket(plain) as connection:
        yield connection


def _answered(connection: ssl.SSLSocket) -> bytes:
    """One answer's body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"not admitted: {data[:300]!r}")
    (length,) = (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < length:
        body += _received(connection)
    return body


def _received(connection: ssl.SSLSocket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise RuntimeError("the server hung up")
    return data

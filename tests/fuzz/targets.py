"""What must hold for any input: a target takes bytes, and raises when something does not hold."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonpatch

from controller.node.cni.answer import CniError, add_result
from controller.node.cni.attachment import Addition, Attachment
from controller.node.cni.call import HEADER, LIMIT, MAGIC, Call, receive
from controller.node.cni.server import perform
from controller.node.cni.statements import Statements
from sfc import annotation
from sfc.chain import Hook, InterfaceRef
from sfc.statement import message
from sfc.validation import checks, update, warnings
from tests.statements import SIGNER, accepted, signed
from tests.unit import objects, test_cni_reading
from tests.unit.test_webhook_golden import MANIFESTS, Case, assert_kept, find, without_ours
from webhook import app
from webhook.decide import mutate, validate
from webhook.decide.model import AdmissionRequest, Decision, Malformed
from webhook.review import Decide, review

Json = dict[str, Any]


@dataclass(frozen=True)
class Target:
    name: str
    share: float
    """Of all inputs."""
    check: Callable[[bytes], None]
    seeds: list[bytes]
    trees: bool
    """Whether inputs are JSON, and are changed as such."""


def decide_pod(request: AdmissionRequest) -> Decision:
    auto = Hook.SLEEP if request.namespace == "restricted" else Hook.HTTP_GET
    return mutate.pod(request, lambda _, name: find("telco", name), auto, SIGNER.sign)


def decide_workload(request: AdmissionRequest) -> Decision:
    return mutate.workload(request, find, Hook.HTTP_GET)


ROUTES: dict[str, Decide] = {
    "/mutate/pods": decide_pod,
    "/mutate/workloads": decide_workload,
    "/validate/chains": validate.chain,
}


# --- HTTP -------------------------------------------------------------------------------------------------------------

STATUSES = {200, 400, 404, 405, 413, 415, 429}
CONTENT_TYPES = (
    b"application/json",
    b"application/json; charset=utf-8",
    b"Application/JSON",
    b"text/plain",
    b"",
    b"\xff",
)
APPLICATION = app.admission(ROUTES)
LOOP = asyncio.new_event_loop()


def http(data: bytes) -> None:
    """The first bytes choose path, type and pieces; the rest is the body."""
    head, body = data[:4].ljust(4, b"\0"), data[4:]
    status, answer = LOOP.run_until_complete(_posted(head, body))
    assert status in STATUSES, status
    if status == 200:
        assert set(json.loads(answer)["response"]) >= {"uid", "allowed"}


async def _posted(head: bytes, body: bytes) -> tuple[int, bytes]:
    path = [*ROUTES, "/", "/validate"][head[0] % 5]
    headers = [(b"content-type", CONTENT_TYPES[head[1] % 6 if head[1] > 127 else 0])]
    headers += [(b"content-encoding", b"gzip")] if head[2] > 250 else []
    size = head[3] + 1
    pieces = [body[i : i + size] for i in range(0, len(body), size)][:50]
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages += [{"type": "http.request", "body": body[size * len(pieces) :], "more_body": False}]
    messages[-1:] = [{"type": "http.disconnect"}] if head[2] == 250 else messages[-1:]
    sent: list[Json] = []

    async def receive() -> Json:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Json) -> None:
        sent.append(message)

    method = "GET" if head[2] == 249 else "POST"
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers,
        "client": None, "server": None, "scheme": "https",
    }  # fmt: skip
    await APPLICATION(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


# --- pods and workloads -----------------------------------------------------------------------------------------------


def pods(data: bytes) -> None:
    _admitted_once_and_for_all(data, decide_pod)


def workloads(data: bytes) -> None:
    _admitted_once_and_for_all(data, decide_workload)


def _admitted_once_and_for_all(data: bytes, decide: Decide) -> None:
    try:
        first = json.loads(review(data, decide).body)["response"]
    except Malformed:
        return
    request = json.loads(data)["request"]
    if not first["allowed"]:
        assert first["status"]["message"]
        return
    changed = jsonpatch.apply_patch(request.get("object") or {}, _patch(first))
    if request["operation"] == "CREATE":
        assert_kept(without_ours(request["object"]), changed)
    again = {**json.loads(data), "request": {**request, "object": changed}}
    second = json.loads(review(json.dumps(again).encode(), decide).body)["response"]
    assert second["allowed"], second["status"]["message"]
    assert _patch(second) == [], _patch(second)  # another request would give a pod another drain id


def _patch(response: Json) -> list[Json]:
    operations: list[Json] = json.loads(base64.b64decode(response.get("patch", "W10=")))
    return operations


# --- the network annotation -------------------------------------------------------------------------------------------

MINE = [{"name": "sfc", "namespace": "telco", "interface": "inside", "mac": "02:00:00:00:00:01"}]


def networks(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    try:
        before = annotation.read(text)
        once = annotation.merge(text, MINE, "telco")
    except annotation.AnnotationError as error:
        assert str(error)
        return
    after = annotation.read(once)
    own = [element for element in before if element["name"] != "sfc"]
    assert [element for element in after if element["name"] != "sfc"] == own
    assert all(element in after for element in MINE)
    assert annotation.merge(once, MINE, "telco") == once


# --- chains -----------------------------------------------------------------------------------------------------------


def chains(data: bytes) -> None:
    """A list of two: the chain as it is, and as it shall be."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    old, new = value if isinstance(value, list) and len(value) == 2 else (objects.chain(), value)
    found = checks.problems(new)
    assert all(str(problem) for problem in found)
    if not found:
        _chain_is_usable(new)
        assert all(isinstance(text, str) for text in warnings.warnings(checks.parse(new)))
    _answered(("CREATE", "UPDATE", "DELETE")[len(data) % 3], old, new, denied=bool(found))


def _answered(operation: str, old: Any, new: Any, denied: bool) -> None:
    request = {"uid": "u", "operation": operation, "namespace": "telco", "object": new, "oldObject": old}
    envelope = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    try:
        response = json.loads(review(json.dumps(envelope).encode(), validate.chain).body)["response"]
    except (Malformed, RecursionError):
        return
    if operation == "CREATE":
        assert response["allowed"] is not denied
    if operation == "DELETE":
        assert response["allowed"]


def _chain_is_usable(obj: Json) -> None:
    chain = checks.parse(obj)
    for stage in chain.stages:
        assert annotation.merge(None, annotation.ours(chain, stage, "d", SIGNER.sign), chain.namespace)
        for interface in stage.interfaces:
            ref = InterfaceRef(stage.name, interface.name)
            chain.neighbours(ref, 100)
            assert ref in chain.segment(ref)
    assert len({connection.name for connection in chain.cross_connections}) == len(chain.links)
    assert update.update_problems(update.Change.of(obj, obj)) == ()


# --- CNI --------------------------------------------------------------------------------------------------------------


class Wired:
    """Takes every call, and reads what the real wiring would."""

    def add(self, addition: Addition) -> Json:
        assert addition.netns == 0
        assert len(addition.attachment.host_name) == 15
        with suppress(CniError):
            STATEMENTS.check(addition)
            assert message(addition.statement) == SIGNED, "only the seed is signed"
            assert addition.attachment.pod.namespace == "telco"
        return add_result(addition, "02:00:00:00:00:01", addition.interface, {})

    def delete(self, attachment: Attachment) -> None:
        assert attachment.host_name

    def check(self, addition: Addition) -> None:
        assert addition.attachment.host_name


def cni_calls(data: bytes) -> None:
    """As it comes over the socket: header, environment, configuration."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        theirs.sendall(data[: HEADER.size + LIMIT])
        theirs.shutdown(socket.SHUT_WR)
        try:
            call = receive(ours)
        except ConnectionError:
            return
    status, output = perform(replace(call, netns=0), Wired())
    assert status in (0, 1)
    json.dumps(output)


def _packed(environment: dict[str, str], configuration: bytes) -> bytes:
    variables = b"".join(f"{name}={value}\0".encode() for name, value in environment.items())
    return HEADER.pack(MAGIC, len(variables), len(configuration)) + variables + configuration


def cni_configurations(data: bytes) -> None:
    """A configuration alone, which a tree can be; the environment is a good one."""
    for command in ("ADD", "DEL", "CHECK", "VERSION", "GC"):
        environment = {**test_cni_reading.ENVIRONMENT, "CNI_COMMAND": command}
        status, output = perform(Call(environment, data, netns=0), Wired())
        assert status in (0, 1)
        json.dumps(output)
        assert command != "DEL" or status == 0, "a DEL that fails keeps its pod in Terminating"


# --- all of them ------------------------------------------------------------------------------------------------------

CASES = [Case.read(path) for path in MANIFESTS if path.stem != "huge"]


def _chain_pairs() -> Iterator[bytes]:
    full = objects.chain()
    full["spec"]["links"] = [
        ["client.lan", "firewall.left"],
        ["firewall.right", "nat.inside"],
        ["nat.outside", "server.wan"],
    ]
    routes = [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "10.9.0.0/16"}]
    full["spec"]["stages"][0]["interfaces"][0] |= {"mac": "02:00:00:00:00:01", "mtu": 1450, "routes": routes}
    full["spec"]["stages"][1]["drain"] = {"deadlineSeconds": 5, "hook": "sleep"}
    full["spec"]["drain"]["idle"] = {"tcp": 600, "sctp": 600, "udp": 60, "other": 60}
    counts = [{"name": stage, "replicas": 1, "serving": 1, "draining": 0} for stage in ("client", "firewall", "nat")]
    yield json.dumps([objects.chain(), objects.chain()]).encode()
    yield json.dumps([{**full, "status": {"stages": counts}}, full]).encode()


SIGNED_CONFIGURATION = signed(test_cni_reading.configuration(), "telco", "outside")
SIGNED = message(SIGNED_CONFIGURATION["args"]["cni"])
KEYS = TemporaryDirectory()
STATEMENTS = Statements(accepted(Path(KEYS.name)))
CONFIGURATION = json.dumps(SIGNED_CONFIGURATION).encode()
NETWORKS = (
    b"", b"a", b"ns/storage@fast0, other", b'{"name":"a"}', b'[{"name":"a","ips":["10.0.0.1/8"]},{"name":"sfc"}]',
    json.dumps(MINE).encode(),
)  # fmt: skip

TARGETS = {
    target.name: target
    for target in (
        Target("http", 0.1, http, [b"\0\0\0\xff" + case.envelope() for case in CASES[:10]], trees=False),
        Target("pods", 0.2, pods, [case.envelope() for case in CASES if case.is_pod], trees=True),
        Target("workloads", 0.1, workloads, [case.envelope() for case in CASES if not case.is_pod], trees=True),
        Target("networks", 0.35, networks, list(NETWORKS), trees=False),
        Target("chains", 0.05, chains, list(_chain_pairs()), trees=True),
        Target("cni-calls", 0.15, cni_calls, [_packed(test_cni_reading.ENVIRONMENT, CONFIGURATION)], trees=False),
        Target("cni-configurations", 0.05, cni_configurations, [CONFIGURATION], trees=True),
    )
}

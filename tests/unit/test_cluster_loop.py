"""The loop with an API server in memory: it makes the planned writes, and retries failures without delaying others."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPConnection
from typing import Any

import pytest
import yaml

from controller import health
from controller.cluster import loop as loop_module
from controller.cluster import plan
from controller.cluster.loop import Loop
from kube.api import ApiError, Collection
from sfc import threads

NOW = datetime(2027, 1, 1, tzinfo=UTC)
CHAINS = "/apis/sfc.dev/v1alpha1/namespaces/telco/servicefunctionchains"
CONNECTIONS = "/apis/sfc.dev/v1alpha1/namespaces/telco/crossconnections"
EVENTS = "/api/v1/namespaces/telco/events"

Json = dict[str, Any]

CHAIN = yaml.safe_load("""
  apiVersion: sfc.dev/v1alpha1
  kind: ServiceFunctionChain
  metadata: {name: edge, namespace: telco, uid: chain-1}
  spec:
    stages:
    - {name: client, interfaces: [{name: lan}]}
    - {name: server, interfaces: [{name: wan}]}
""")


class Server:
    """Objects by path. A list has all namespaces; a watch reports every change of its kind."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.changed = threading.Condition(threading.RLock())
        self.version = 0
        self.refuse: Callable[[str], bool] = lambda path: False
        self.shown = threading.Event()
        """While it is not set, the watch of chains shows nothing."""
        self.shown.set()

    def get(self, path: str, params: object = None) -> Json:
        kind = path.rpartition("/")[2]
        if "/namespaces/" not in path and not path.endswith("/sfc"):
            items = [o for p, o in self.objects.items() if f"/{kind}/" in p]
            return {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "0"}, "items": items}
        if path not in self.objects:
            raise ApiError(404, "NotFound", path)
        return copy.deepcopy(self.objects[path])

    def pages(self, collection: Collection) -> Iterator[Json]:
        path = collection.path
        if "/namespaces/" in path:
            items = [o for p, o in self.objects.items() if p.startswith(f"{path}/")]
            yield {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "0"}, "items": items}
        else:
            yield self.get(path)

    def create(self, path: str, obj: Json) -> Json:
        full = f"{path}/{obj['metadata']['name']}"
        if full in self.objects:
            raise ApiError(409, "AlreadyExists", full)
        return self.replace(full, obj)

    def replace(self, path: str, obj: Json) -> Json:
        if self.refuse(path):
            raise ApiError(403, "Forbidden", f"{path.rpartition('/')[2]} is forbidden: exceeded quota: q")
        with self.changed:
            self.version += 1
            self.objects[path] = copy.deepcopy(obj)
            self.objects[path]["metadata"]["resourceVersion"] = str(self.version)
            self.changed.notify_all()
        return self.objects[path]

    def apply(self, path: str, obj: Json, manager: str) -> Json:
        target = path.removesuffix("/status")
        if target != path and target not in self.objects:
            raise ApiError(404, "NotFound", target)
        return self.replace(target, {**self.objects.get(target, {}), **obj, **_kept(self.objects.get(target))})

    def patch(self, path: str, body: Json, content_type: str) -> Json:
        return self.replace(path, {**self.objects[path], **body})

    def delete(self, path: str, params: object = None, uid: str | None = None) -> Json:
        return self.objects.pop(path)

    def said(self, chain: str = f"{CHAINS}/edge") -> str:
        """Reason of the chain's condition Ready."""
        conditions: list[Json] = self.objects[chain].get("status", {}).get("conditions", [{}])
        reason: str = conditions[0].get("reason", "")
        return reason

    def events(self) -> dict[str, int]:
        """How often what happened, by reason."""
        with self.changed:
            return {o["reason"]: o["count"] for o in self.objects.values() if "reason" in o}

    def watch(self, path: str, params: object, read_timeout: float, shape: object) -> Iterator[Json]:
        kind, told = path.rpartition("/")[2], 0
        while True:
            with self.changed:
                self.changed.wait(0.05)
            if kind == "servicefunctionchains":
                self.shown.wait(5)
            with self.changed:
                objs = [copy.deepcopy(o) for p, o in self.objects.items() if f"/{kind}/" in p]
            news = [o for o in objs if int(o["metadata"]["resourceVersion"]) > told]
            for obj in sorted(news, key=lambda o: int(o["metadata"]["resourceVersion"])):
                told = int(obj["metadata"]["resourceVersion"])
                yield {"type": "MODIFIED", "object": obj}


def _kept(found: Json | None) -> Json:
    """Applying a status leaves the rest of the object."""
    return {"metadata": found["metadata"], **({"spec": found["spec"]} if "spec" in found else {})} if found else {}


@pytest.fixture
def server() -> Server:
    server = Server()
    server.replace(f"{CHAINS}/edge", CHAIN)
    return server


@pytest.fixture
def start(server: Server) -> Iterator[Callable[[], Loop]]:
    loops: list[Loop] = []

    def begin() -> Loop:
        loop = Loop(server, lambda: NOW)  # type: ignore[arg-type]
        threading.Thread(target=loop.run, daemon=True).start()
        loops.append(loop)
        return loop

    yield begin

    for loop in loops:
        loop.stop()


def eventually(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, "did not happen in a minute"
        time.sleep(0.02)


def test_chain_gets_its_objects_and_status(server: Server, start: Callable[[], Loop]) -> None:
    start()

    eventually(lambda: f"{CONNECTIONS}/edge.client.lan.server.wan" in server.objects)
    eventually(lambda: server.objects[f"{CHAINS}/edge"].get("status", {}).get("summary") == "client 0/0, server 0/0")


def test_a_workload_that_is_scaled_to_zero_is_in_the_message_at_once(server: Server, start: Callable[[], Loop]) -> None:
    start()
    eventually(lambda: server.said() == "StageEmpty")
    labels = {"sfc.dev/chain": "edge", "sfc.dev/stage": "client"}
    metadata = {"name": "web", "namespace": "telco", "labels": labels}
    spec = {"replicas": 0, "template": {"metadata": {"labels": labels}}}
    deployment = {"kind": "Deployment", "metadata": metadata, "spec": spec}

    server.replace("/apis/apps/v1/namespaces/telco/deployments/web", deployment)

    def message() -> str:
        return str(server.objects[f"{CHAINS}/edge"]["status"]["conditions"][0]["message"])

    eventually(lambda: "Deployment web has the labels, but has 0 replicas: scale it up" in message())


def test_refused_change_is_said_in_the_refusals_words_and_tried_again(
    server: Server, start: Callable[[], Loop]
) -> None:
    tries: list[str] = []
    server.refuse = lambda path: path.startswith(CONNECTIONS) and not tries.append(path)  # type: ignore[func-returns-value]
    start()
    eventually(lambda: len(tries) == 3)

    assert server.said() == "ObjectsRefused"
    assert "exceeded quota: q" in server.objects[f"{CHAINS}/edge"]["status"]["conditions"][0]["message"]
    assert server.events() == {"ObjectsRefused": 1}, "nothing was created, and a try that ends alike is no news"

    server.refuse = lambda path: False

    eventually(lambda: server.said() == "StageEmpty")
    assert server.events()["CrossConnectionsCreated"] == 1


def test_a_refused_network_is_said_in_the_refusals_words(server: Server, start: Callable[[], Loop]) -> None:
    server.refuse = lambda path: "network-attachment-definitions" in path
    start()

    eventually(lambda: server.said() == "ObjectsRefused")
    assert server.events()["CrossConnectionsCreated"] == 1

    server.refuse = lambda path: False

    eventually(lambda: server.said() == "StageEmpty")


def other_chain(server: Server) -> str:
    """A chain of another namespace; its path."""
    path = CHAINS.replace("telco", "other") + "/edge"
    server.replace(path, {**CHAIN, "metadata": {**CHAIN["metadata"], "namespace": "other", "uid": "chain-2"}})
    return path


def test_a_request_that_hangs_holds_up_no_other_namespace_and_is_noticed(
    server: Server, start: Callable[[], Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, released = other_chain(server), threading.Event()
    server.refuse = lambda path: path.startswith(CONNECTIONS) and not released.wait(60)

    monkeypatch.setattr(loop_module, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(threads, "start", partial(threads.start, silent=0.5))
    start()

    eventually(lambda: server.said(other) == "StageEmpty")
    assert server.said() == ""
    eventually(lambda: "thread worker " in str(threads.problem()))
    released.set()
    eventually(lambda: server.said() == "StageEmpty")


def test_a_chain_that_cannot_be_dealt_with_holds_up_no_other(
    server: Server, start: Callable[[], Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = plan.needed

    def fails(part: plan.Part, now: datetime) -> Iterator[Any]:
        if part.key[0] == "telco":
            raise ZeroDivisionError
        return needed(part, now)

    monkeypatch.setattr(plan, "needed", fails)
    other = other_chain(server)

    start()

    eventually(lambda: server.said(other) == "StageEmpty")
    assert server.said() == ""
    monkeypatch.setattr(plan, "needed", needed)
    eventually(lambda: server.said() == "StageEmpty")


def test_a_busy_api_server_is_left_alone_for_as_long_as_it_asks(server: Server, start: Callable[[], Loop]) -> None:
    create, asked = server.create, [0.0]

    def busy(path: str, obj: Json) -> Json:
        if path == CONNECTIONS:
            asked.append(time.monotonic())
            if len(asked) == 2:
                raise ApiError(429, "TooManyRequests", "slow down", retry_after=1.0)
        return create(path, obj)

    server.create = busy  # type: ignore[method-assign]

    start()

    eventually(lambda: server.said() == "StageEmpty")
    assert asked[2] - asked[1] >= 1
    assert "ObjectsRefused" not in server.events(), "the chain is not what it refuses"


def test_all_workers_end_when_the_loop_is_stopped(server: Server) -> None:
    loop = Loop(server, lambda: NOW)  # type: ignore[arg-type]
    running = threading.Thread(target=loop.run, daemon=True)
    running.start()
    eventually(lambda: server.said() == "StageEmpty")

    loop.stop()
    running.join(5)

    assert not running.is_alive()
    assert not [t for t in threading.enumerate() if t.name.startswith("worker")]


def test_repeated_event_is_counted(server: Server, start: Callable[[], Loop]) -> None:
    start()
    eventually(lambda: any("Created" in o.get("reason", "") for o in server.objects.values()))
    (path,) = [p for p, o in server.objects.items() if o.get("reason") == "CrossConnectionsCreated"]

    server.replace(
        f"{CONNECTIONS}/edge.client.lan.server.wan",
        {"metadata": {"name": "edge.client.lan.server.wan", "namespace": "telco"}},
    )

    eventually(lambda: server.objects[path]["count"] == 2)


def test_what_a_late_watch_does_not_show_yet_is_not_said_twice(
    server: Server, start: Callable[[], Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed, seen = plan.needed, []
    monkeypatch.setattr(plan, "needed", lambda part, now: seen.append(len(part.pods)) or needed(part, now))
    server.shown.clear()
    start()
    eventually(lambda: server.said() == "StageEmpty")

    for count in (1, 2):  # the second pass begins after the first one's end
        server.replace(f"/api/v1/namespaces/telco/pods/p{count}", stray(f"p{count}"))
        eventually(lambda count=count: count in seen)
    before = server.events()
    server.shown.set()

    eventually(lambda: server.objects[f"{CHAINS}/edge"]["status"]["summary"] == "client 0/0, server 0/0")
    assert before == server.events() == {"CrossConnectionsCreated": 1, "ChainNotReady": 1}


def stray(name: str) -> Json:
    """A pod of the chain that changes nothing in its status."""
    labels = {"sfc.dev/chain": "edge", "sfc.dev/stage": "elsewhere"}
    return {"metadata": {"name": name, "namespace": "telco", "uid": f"uid-{name}", "labels": labels}}


def test_nothing_is_planned_before_every_kind_was_listed(server: Server, start: Callable[[], Loop]) -> None:
    listing = server.get

    def without_multus(path: str, params: object = None) -> Json:
        if path.endswith("network-attachment-definitions"):
            raise ApiError(404, "NotFound", path)
        return listing(path, params)

    server.get = without_multus  # type: ignore[method-assign]

    loop = start()

    eventually(lambda: loop.unsynced() == ["network-attachment-definitions"])
    eventually(lambda: "/api/v1/namespaces/sfc-system/secrets/sfc-statement-key" in server.objects)
    assert not any(p.startswith(CONNECTIONS) for p in server.objects)


def test_cluster_controller_needs_neither_bpf_nor_netlink_nor_anything_of_the_node_agent() -> None:
    foreign = {"bcc", "pyroute2", "fastapi", "controller.node"}
    program = f"import controller.cluster.main, sys; print(sorted({foreign} & set(sys.modules)))"

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout == "[]\n"


def test_unknown_command_says_which_there_are() -> None:
    result = subprocess.run([sys.executable, "-m", "controller", "x"], capture_output=True, text=True, check=False)

    assert result.returncode == 2
    assert result.stderr == "usage: python -m controller {node,hooks,cluster,install}\n"


@pytest.mark.parametrize(
    ("path", "problem", "status", "body"),
    [
        ("/healthz", None, 200, "ok\n"),
        ("/readyz", None, 200, "ok\n"),
        ("/readyz", "not listed yet: pods", 503, "not listed yet: pods\n"),
        ("/elsewhere", None, 404, "there are /healthz and /readyz\n"),
    ],
)
def test_health_says_what_is_wrong(path: str, problem: str | None, status: int, body: str) -> None:
    server = health.serve(0, healthy=lambda: None, ready=lambda: problem)
    connection = HTTPConnection("127.0.0.1", server.server_address[1])

    connection.request("GET", path)
    answer = connection.getresponse()

    assert (answer.status, answer.read().decode()) == (status, body)
    connection.close()
    server.shutdown()
    server.server_close()

"""An API server in virtual time for a simulated fleet: who is told what, how large it is, and when it arrives.

Writes take effect in the order of their times. A watch gets what its selector asks for, as one JSON line each, with the
`managedFields` that server-side apply keeps for every node that reports. Only our own programs watch: node agents, and
one cluster controller.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from benchmarks.api_server import Json, Place
from kube.api import PAGE, ApiError, Collection, Params
from kube.lean import WHOLE, Shape
from sfc import names

SEND_SECONDS = 0.002
"""From a write at a client until it took effect, and from there until a watch has it: an assumption."""


class Clock:
    """Virtual time, and what happens when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def __call__(self) -> float:
        return self.now

    def at(self, time: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time, next(self._order), do))

    def run(self) -> None:
        """Until nothing is left to do."""
        while self._due:
            time, _, do = heapq.heappop(self._due)
            self.now = max(self.now, time)
            do()


@dataclass(slots=True)
class Traffic:
    """What an event has cost the API server."""

    writes: Counter[str] = field(default_factory=Counter)
    """By kind."""
    told: Counter[str] = field(default_factory=Counter)
    """Events that watches got, by kind."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes to watches, by kind."""
    listed: int = 0
    """Bytes of lists."""


@dataclass(frozen=True)
class News:
    """One version of an object."""

    version: int
    what: str
    obj: Json

    @cached_property
    def chain(self) -> str:
        """Its label."""
        return _of(self.obj)[0]

    @cached_property
    def node(self) -> str:
        """Where a pod is."""
        return _of(self.obj)[1]

    @cached_property
    def line(self) -> bytes:
        """An event of a watch."""
        return msgspec.json.encode({"type": self.what, "object": _with_managers(self.obj)}) + b"\n"


class Cluster:
    """The objects, by kind and key."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.objects: dict[str, dict[tuple[str, str], Json]] = defaultdict(dict)
        self.traffic = Traffic()
        self.listeners: list[Callable[[str, News, Json | None, Json | None], None]] = []
        """Called with each version: kind, news, the object before and after."""
        self._version = 1
        self._news: dict[str, list[News]] = defaultdict(list)
        self._pages: dict[tuple[str, str, int], Any] = {}
        """Those that were asked for last, with the version: many agents ask for the same."""

    def put(self, kind: str, obj: Json) -> None:
        """Stores a version of an object, and tells."""
        key = obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
        before = self.objects[kind].get(key)
        self._version += 1
        after = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._version)}}
        self.objects[kind][key] = after
        self._tell(kind, "MODIFIED" if before else "ADDED", before, after)

    def delete(self, kind: str, key: tuple[str, str]) -> None:
        """Removes an object, and tells."""
        before = self.objects[kind].pop(key)
        self._version += 1
        before["metadata"]["resourceVersion"] = str(self._version)
        self._tell(kind, "DELETED", before, None)

    def write(self, place: Place, body: Json, manager: str) -> None:
        """A patch or an apply takes effect; one of an object that is gone does not."""
        self.traffic.writes[place.kind] += 1
        known = self.objects[place.kind].get(place.key)
        if known is None:
            return
        status = dict(known.get("status") or {})
        if manager.startswith(names.ENTRY_MANAGER):
            node = manager.removeprefix(names.ENTRY_MANAGER)
            status["nodes"] = [e for e in status.get("nodes") or () if e["name"] != node] + body["status"]["nodes"]
        elif place.kind == "pods":
            kept = [c for c in status.get("conditions", ()) if c["type"] != names.WIRED_CONDITION]
            status["conditions"] = [*kept, *(c for c in body["status"]["conditions"] if "status" in c)]
        else:
            status.update(body["status"])
        self.put(place.kind, {**known, "status": status})

    def page(self, kind: str, params: Params, start: int) -> tuple[bytes, int]:
        """Some objects from number `start`, and the number after the last; 0 at the end."""
        key = kind, str(params), start
        if self._pages.get(key, (0,))[0] != self._version:
            self._pages[key] = self._version, *self._page(kind, params, start)
        _, body, more = self._pages[key]
        self.traffic.listed += len(body)
        return body, more

    def _page(self, kind: str, params: Params, start: int) -> tuple[bytes, int]:
        wanted = selection(params)
        found = [o for o in self.objects[kind].values() if wanted(*_of(o))]
        items = [_with_managers(o) for o in found[start : start + PAGE]]
        metadata: Json = {"resourceVersion": str(self._version)}
        more = start + PAGE if len(found) > start + PAGE else 0
        if more:
            metadata["continue"] = str(more)
        return msgspec.json.encode({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items}), more

    def news(self, kind: str, params: Params) -> list[News]:
        """What a watch with these parameters gets now."""
        wanted, since = selection(params), int(params["resourceVersion"])
        told = self._news[kind]
        return [n for n in told[bisect_right(told, since, key=lambda n: n.version) :] if wanted(n.chain, n.node)]

    @property
    def version(self) -> int:
        """Of the last write."""
        return self._version

    def forget_news(self) -> None:
        """Everybody has seen everything."""
        self._news.clear()

    def _tell(self, kind: str, what: str, before: Json | None, after: Json | None) -> None:
        obj = after or before or {}
        news = News(self._version, what, obj)
        self._news[kind].append(news)
        for listener in self.listeners:
            listener(kind, news, before, after)


def selection(params: Params) -> Callable[[str, str], bool]:
    """Whether an object with this chain label, on this node, is asked for."""
    field_selector, label_selector = str(params.get("fieldSelector", "")), str(params.get("labelSelector", ""))
    node = field_selector.partition("=")[2]
    listed = label_selector.partition("(")[2].rstrip(")")
    chains = frozenset(listed.replace(" ", "").split(",")) if listed else None
    return lambda chain, on: (not node or on == node) and (chains is None or chain in chains)


def _of(obj: Json) -> tuple[str, str]:
    label = (obj["metadata"].get("labels") or {}).get(names.CHAIN_LABEL, "")
    return label, (obj.get("spec") or {}).get("nodeName", "")


def _with_managers(obj: Json) -> Json:
    """As server-side apply stores it: with the fields of each node agent that reports."""
    reports = (obj.get("status") or {}).get("nodes") or ()
    managed = [
        {
            "manager": names.ENTRY_MANAGER + each["name"],
            "operation": "Apply",
            "apiVersion": names.API_VERSION,
            "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:status": {"f:nodes": {f'k:{{"name":"{each["name"]}"}}': {".": {}} | {f"f:{k}": {} for k in each}}}
            },
            "subresource": "status",
        }
        for each in reports
    ]
    return {**obj, "metadata": {**obj["metadata"], "managedFields": managed}} if managed else obj


class AgentApi:
    """What `kube.api.ApiServer` is to one node agent. Reads are served at once, with what took effect until now; the
    agent's step ends when there is no more. Writes take effect later."""

    def __init__(self, cluster: Cluster, moment: Callable[[], float]) -> None:
        """`moment`: virtual time, that of the step so far included."""
        self._cluster = cluster
        self._moment = moment
        self.watching: dict[str, Params] = {}
        """By kind: what was asked for last."""

    def pages(self, collection: Collection, read_timeout: float = 0) -> Iterator[Json]:
        start = 0
        while True:
            body, start = self._cluster.page(Place.of(collection.path).kind, collection.params, start)
            yield collection.shape.page(body)
            if not start:
                return

    def watch(self, path: str, params: Params, read_timeout: float, shape: Shape = WHOLE) -> Iterator[Json]:
        kind, traffic = Place.of(path).kind, self._cluster.traffic
        self.watching[kind] = params
        version = self._cluster.version
        for each in self._cluster.news(kind, params):
            traffic.told[kind] += 1
            traffic.sent[kind] += len(each.line)
            yield shape.event(each.line)
        yield {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}

    def wants(self, kind: str, news: News) -> bool:
        """Whether a watch would get it."""
        params = self.watching.get(kind)
        return params is not None and selection(params)(news.chain, news.node)

    def patch(self, path: str, body: Any, content_type: str) -> Json:
        return self._write(path, body, "")

    def apply(self, path: str, obj: Mapping[str, Any], manager: str) -> Json:
        return self._write(path, obj, manager)

    def create(self, path: str, obj: Mapping[str, Any]) -> Json:
        self._cluster.traffic.writes[Place.of(path).kind] += 1
        return {}

    def get(self, path: str, params: Params | None = None) -> Json:
        raise ApiError(404, "NotFound", path)

    def _write(self, path: str, body: Any, manager: str) -> Json:
        place, cluster = Place.of(path), self._cluster
        cluster.clock.at(self._moment() + SEND_SECONDS, lambda: cluster.write(place, body, manager))
        return {}

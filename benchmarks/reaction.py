"""How long a replica takes to join its chain and to leave it on a real Kubernetes, and how much of that is our part.

joining   its container is ready → the node agent hears of it → it is in the targets → the condition is set → Ready
leaving   its deletion is asked for → the hook arrives → out of the targets → drained → SIGTERM in its container

The benchmark deletes one of four replicas, waits until the ReplicaSet has replaced it, and repeats. Each moment is
recorded where it happens, by the function itself, by the agent, or by a watch; all use the clock of the one machine.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import cluster
from benchmarks.happenings import has
from benchmarks.report import QUICK, machine, save
from kube.api import ApiError, ApiServer

MANIFEST = Path(__file__).with_suffix(".yaml")
MOMENTS = "/run/sfc-reaction"
PODS = "/api/v1/namespaces/reaction/pods"
FUNCTIONS = {"labelSelector": "app=function"}
REPLICAS = 4
REPETITIONS = 6 if QUICK else 100
TARGET_MS = 5.0

JOIN = ("container ready", "agent hears", "in the targets", "condition set", "Ready")
LEAVE = ("deletion asked for", "hook arrives", "out of the targets", "drained", "SIGTERM")
OURS = {"join": ("agent hears", "in the targets"), "leave": ("hook arrives", "out of the targets")}

Moments = dict[str, float]
"""By what happened: when, in seconds since 1970."""


def main() -> None:
    """Brings the cluster up and measures."""
    with cluster.running(MANIFEST, "reaction"):
        measure()


def measure() -> None:
    """REPETITIONS times on a cluster that runs: prints the phases and writes build/bench/reaction.json."""
    described = machine()
    api = ApiServer.from_environment(str(cluster.KUBECONFIG))
    with _Watched(api) as watched:
        _replace_functions(api, watched)
        joins, leaves = _moments(watched)
    ended = {"load_after": os.getloadavg()[0]}
    content = {"benchmark": "reaction", "quick": QUICK, "machine": {**described, **ended}, **summary(joins, leaves)}
    _show(content)
    print(f"{save('reaction', content)}: every moment of every repetition")


class _Watched:
    """The functions, and when they became Ready, as a watch at the API server reports them."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.deleted: Moments = {}
        """By pod: when its deletion was asked for."""
        self.ready: Moments = {}
        """By pod: when it was first seen Ready."""
        self.pods: dict[str, Mapping[str, Any]] = {}

    def __enter__(self) -> _Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def settled(self) -> bool:
        """Whether there are REPLICAS functions, all of them Ready and none terminating."""
        pods = list(self.pods.values())
        return len(pods) == REPLICAS and all(has(p, "Ready") and "deletionTimestamp" not in p["metadata"] for p in pods)

    def _follow(self) -> None:
        while not self._stop.is_set():
            listed = self._api.get(PODS, FUNCTIONS)
            self.pods = {pod["metadata"]["name"]: pod for pod in listed["items"]}
            version = {"resourceVersion": listed["metadata"]["resourceVersion"]}
            try:
                for event in self._api.watch(PODS, {**FUNCTIONS, **version}, read_timeout=60):
                    self._note(event["type"], event["object"])
            except ApiError:  # no event for a minute, or a version that is too old: list again
                continue

    def _note(self, kind: str, pod: Mapping[str, Any]) -> None:
        name = pod["metadata"]["name"]
        if has(pod, "Ready"):
            self.ready.setdefault(name, time.time())
        self.pods = {key: value for key, value in self.pods.items() if key != name}
        if kind != "DELETED":
            self.pods[name] = pod


def _replace_functions(api: ApiServer, watched: _Watched) -> None:
    for repetition in range(REPETITIONS):
        cluster.until(watched.settled, f"{REPLICAS} functions are Ready before repetition {repetition + 1}")
        time.sleep(0.3)  # lets the work that follows the last repetition end
        oldest = min(watched.pods, key=lambda name: watched.pods[name]["metadata"]["creationTimestamp"])
        _delete(api, watched, oldest)
    cluster.until(watched.settled, "the last function is Ready")
    time.sleep(1)


def _delete(api: ApiServer, watched: _Watched, pod: str) -> None:
    watched.deleted[pod] = time.time()
    api.delete(f"{PODS}/{pod}")
    cluster.until(lambda: pod not in watched.pods, f"{pod} is gone")


def _moments(watched: _Watched) -> tuple[list[Moments], list[Moments]]:
    """(joins, leaves): one entry for each replica that joined or left during the measurement."""
    said = _agent_said()
    noted = _functions_noted()
    joins, leaves = [], []
    for pod, deleted in watched.deleted.items():
        moments = said.get(pod, {}) | noted.get(pod, {}) | {"deletion asked for": deleted}
        leaves.append({name: moments[name] for name in LEAVE})
    first = min(watched.deleted.values())
    for pod, ready in watched.ready.items():
        moments = said.get(pod, {}) | noted.get(pod, {}) | {"Ready": ready}
        if moments.get("container ready", 0.0) > first:
            joins.append({name: moments[name] for name in JOIN})
    return joins, leaves


def _agent_said() -> dict[str, Moments]:
    """By pod, the moments in the node agent's log."""
    output = cluster.kubectl("--namespace=sfc-system", "logs", "daemonset/sfc-node", "--container=node")
    moments: dict[str, Moments] = {}
    for line in (json.loads(line) for line in output.splitlines() if line.startswith('{"time"')):
        pod = str(line.get("pod", "")).removeprefix("reaction/")
        moments.setdefault(pod, {}).update(_moments_of(line))
    return moments


def _moments_of(line: Mapping[str, Any]) -> Moments:
    at = datetime.fromisoformat(line["time"]).timestamp()
    since = datetime.fromisoformat(line["since"]).timestamp() if "since" in line else at
    done = since + line.get("after_ms", 0) / 1000
    match line["message"], line.get("status"):
        case "replica in all its targets", _:
            return {"agent hears": since, "in the targets": done}
        case "condition set", "True":
            return {"condition set": at}
        case "replica out of all targets", _:
            return {"hook arrives": since, "out of the targets": done}
        case "drain ended", _:
            return {"drained": done}
    return {}


def _functions_noted() -> dict[str, Moments]:
    """By pod, the moments that the functions wrote into a folder of the node (reaction.yaml)."""
    script = f"cd {MOMENTS} && grep -H . -- *"
    output = cluster.in_node("sh", "-c", script)
    noted: dict[str, Moments] = {}
    for line in output.splitlines():
        pod, _, moment = line.partition(":")
        what, _, at = moment.partition(" ")
        name = {"ready": "container ready", "SIGTERM": "SIGTERM"}[what]
        noted.setdefault(pod, {}).setdefault(name, float(at))
    return noted


@dataclass(frozen=True, slots=True)
class Phase:
    """The time between two moments, in all repetitions."""

    name: str
    milliseconds: Sequence[float] = field(repr=False)

    @property
    def median(self) -> float:
        """Milliseconds."""
        return statistics.median(self.milliseconds)

    @property
    def p99(self) -> float:
        """Milliseconds, by nearest rank: of a hundred values the second largest, never interpolated."""
        return sorted(self.milliseconds)[math.ceil(0.99 * len(self.milliseconds)) - 1]


def summary(joins: Sequence[Moments], leaves: Sequence[Moments]) -> dict[str, Any]:
    """The figures of all phases, as the JSON has them."""
    phases = {"join": _phases(JOIN, joins), "leave": _phases(LEAVE, leaves)}
    ours = {what: _between(OURS[what], moments) for what, moments in (("join", joins), ("leave", leaves))}
    return {
        "repetitions": {"join": len(joins), "leave": len(leaves)},
        "median_ms": {what: round(phase.median, 3) for what, phase in ours.items()},
        "p99_ms": {what: round(phase.p99, 3) for what, phase in ours.items()},
        "target_ms": TARGET_MS,
        "missed": [what for what, phase in ours.items() if phase.p99 > TARGET_MS],
        "phases": {what: {p.name: _told(p) for p in found} for what, found in phases.items()},
    }


def _phases(names: Sequence[str], moments: Sequence[Moments]) -> list[Phase]:
    steps = [_between(pair, moments) for pair in itertools.pairwise(names)]
    whole = _between((names[0], names[-1]), moments)
    return [*steps, whole]


def _between(pair: tuple[str, str], moments: Sequence[Moments]) -> Phase:
    start, end = pair
    return Phase(f"{start} → {end}", [(each[end] - each[start]) * 1000 for each in moments])


def _told(phase: Phase) -> dict[str, Any]:
    return {
        "median_ms": round(phase.median, 3),
        "p99_ms": round(phase.p99, 3),
        "all_ms": [round(value, 3) for value in phase.milliseconds],
    }


def _show(result: Mapping[str, Any]) -> None:
    for what, phases in result["phases"].items():
        print(f"\n{what}, {result['repetitions'][what]} times{'median':>28}{'p99':>12}")
        for name, phase in phases.items():
            print(f"  {name:<40}{phase['median_ms']:9.2f} ms{phase['p99_ms']:9.2f} ms")
        verdict = "MISSED" if what in result["missed"] else "met"
        print(f"  our own part, p99: {result['p99_ms'][what]:.2f} ms; at most {TARGET_MS:.0f} ms: {verdict}")

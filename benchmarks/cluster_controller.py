"""What one change costs the cluster controller among 10 chains and among 1,000, and what a refusing namespace costs the
others. Against an API server in memory, which runs in this process; each cluster controller runs in its own."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import yaml
from kubernetes.client import Configuration

from benchmarks.api_server import FakeCluster, Json, Place
from benchmarks.report import QUICK, Report, Target, machine, ratio
from controller.cluster.loop import Loop
from controller.cluster.queue import GATHER_SECONDS
from kube.api import ApiServer

FEW, MANY = 10, 100 if QUICK else 1000
CHAINS_OF_A_NAMESPACE = 10
STAGES = {"client": 2, "firewall": 4, "server": 2}
"""Replicas of each stage: eight pods a chain."""
ROUNDS, CHANGES = (3, 10) if QUICK else (9, 20)
BURSTS = 2 if QUICK else 5
QUIET_SECONDS = 1.0
"""Without a write for so long, a cluster controller has nothing left to do."""
PATIENCE_SECONDS = 300.0
REFUSING = "tenant-0"
"""The namespace whose quota refuses CrossConnections."""

CHAIN = """
apiVersion: sfc.dev/v1alpha1
kind: ServiceFunctionChain
metadata: {generation: 1}
spec:
  stages:
  - {name: client, interfaces: [{name: lan, addresses: [10.1.0.2/24]}]}
  - {name: firewall, interfaces: [{name: left}, {name: right}]}
  - {name: server, interfaces: [{name: wan, addresses: [10.1.0.1/24]}]}
"""


def main() -> None:
    report = measure()
    report.publish()


def measure() -> Report:
    """Runs all rounds."""
    about = machine()
    with _subject(FEW) as few, _subject(MANY) as many, _subject(MANY, refusing=True) as refusing:
        subjects = {str(FEW): few, str(MANY): many, f"{MANY} refusing": refusing}
        first = {name: subject.memory() for name, subject in subjects.items()}
        cost: dict[str, list[float]] = {name: [] for name in subjects}
        delay: dict[str, list[float]] = {name: [] for name in subjects}
        for turn in range(ROUNDS):
            for name, subject in subjects.items():
                used, waited = subject.change(turn)
                cost[name].append(used)
                delay[name].append(waited)
        memory, bursts = [first[str(MANY)], many.memory()], []
        for _ in range(BURSTS):
            bursts.append(many.burst())
            memory.append(many.memory())
    notes = [
        f"A change: a replica of one chain joins or leaves; the chain's status follows. {CHANGES} changes a round.",
        "Delay: from the change to the write of the status, without the 100 ms in which changes gather.",
        f"Refusing: every CrossConnection of the {CHAINS_OF_A_NAMESPACE} chains of one namespace is refused.",
        f"Memory at first: {', '.join(f'{size:.0f} MB with {name} chains' for name, size in first.items())}.",
        f"Then, with {MANY}, after the rounds and after each of {BURSTS} bursts: "
        f"{', '.join(f'{size:.0f}' for size in memory[1:])} MB. A burst: every chain changes at once.",
    ]
    return Report(
        "cluster",
        about,
        {"ms of processor for a change": cost, "ms of delay": delay, "s for a burst": {str(MANY): bursts}},
        {
            f"change.{MANY}/{FEW}": ratio(cost, str(MANY), str(FEW)),
            f"delay.{MANY}/{FEW}": ratio(delay, str(MANY), str(FEW)),
            "delay.refusing/others": ratio(delay, f"{MANY} refusing", str(MANY)),
        },
        {f"change.{MANY}/{FEW}": Target(2.0, at_most=True), "delay.refusing/others": Target(1.2, at_most=True)},
        notes,
        {"memory_mb": {"first": first, "many": memory}},
    )


@dataclass(frozen=True, slots=True)
class Subject:
    """A cluster controller with the API server that it works on."""

    cluster: FakeCluster
    process: subprocess.Popen[str]
    pods: list[Place]
    """One of each chain that is not refused."""

    def ask(self) -> dict[str, float]:
        """The seconds of processor that the controller has used, and the bytes that it holds."""
        print(file=self.process.stdin, flush=True)
        answer: dict[str, float] = json.loads(next(iter(self.process.stdout or ())))
        return answer

    def memory(self) -> float:
        """MB that are resident."""
        return self.ask()["resident"] / 1e6

    def change(self, turn: int) -> tuple[float, float]:
        """One replica of some chains, one after the other, joins or leaves. Returns ms of processor for each change,
        and the median of the ms from the change to the status, less those in which changes gather."""
        before, waits = self.ask()["seconds"], []
        for i in range(CHANGES):
            place = self.pods[(turn * CHANGES + i) % len(self.pods)]
            waits.append(self._wait(place))
        time.sleep(0.5)  # the pass that the status itself brings is part of the cost
        return (self.ask()["seconds"] - before) * 1000 / CHANGES, (median(waits) - GATHER_SECONDS) * 1000

    def burst(self) -> float:
        """One replica of every chain joins or leaves; returns the seconds until the last chain's status is written."""
        seen, since = len(self.cluster.writes), time.monotonic()
        left = {self._flip(place) for place in self.pods}
        while left and time.monotonic() < since + PATIENCE_SECONDS:
            time.sleep(0.05)
            left -= {place for _, place in self.cluster.writes[seen:]}
        took = time.monotonic() - since
        self.settle()
        return took

    def _wait(self, place: Place) -> float:
        seen, since = len(self.cluster.writes), time.monotonic()
        status = self._flip(place)
        return self.cluster.written(lambda written: written == status, seen, PATIENCE_SECONDS) - since

    def _flip(self, place: Place) -> Place:
        """A pod joins or leaves; returns the place of its chain's status."""
        pod = self.cluster.objects["pods"][place.key]
        (condition,) = pod["status"]["conditions"]
        flipped = {**condition, "status": "False" if condition["status"] == "True" else "True"}
        self.cluster.put(place, {**pod, "status": {**pod["status"], "conditions": [flipped]}})
        return Place("servicefunctionchains", place.namespace, pod["metadata"]["labels"]["sfc.dev/chain"], True)

    def settle(self) -> None:
        """Returns when the controller has nothing left to do but what is refused."""
        until, seen = time.monotonic() + PATIENCE_SECONDS, -1
        while time.monotonic() < until:
            done = sum(place.namespace != REFUSING for _, place in list(self.cluster.writes))
            if done == seen and done:
                return
            seen = done
            time.sleep(QUIET_SECONDS)
        raise RuntimeError("the cluster controller does not come to rest")


@contextmanager
def _subject(chains: int, *, refusing: bool = False) -> Iterator[Subject]:
    cluster = FakeCluster()
    pods = [pod for i in range(chains) for pod in _fill(cluster, f"tenant-{i // CHAINS_OF_A_NAMESPACE}", f"chain-{i}")]
    if refusing:
        cluster.refuse = _refuse
        pods = [pod for pod in pods if pod.namespace != REFUSING]
    command = [sys.executable, "-c", f"from {__name__} import child; child({cluster.url!r})"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        subject = Subject(cluster, process, pods)
        subject.settle()
        yield subject
    finally:
        process.kill()
        process.wait()
        cluster.close()


def _refuse(place: Place) -> str | None:
    refused = place.namespace == REFUSING and place.kind == "crossconnections"
    return "exceeded quota: tenant, requested: count/crossconnections.sfc.dev=1" if refused else None


def _fill(cluster: FakeCluster, namespace: str, name: str) -> list[Place]:
    """A chain with its pods; returns one of these."""
    chain: Json = yaml.safe_load(CHAIN)
    chain["metadata"] |= {"name": name, "namespace": namespace}
    cluster.put(Place("servicefunctionchains", namespace, name, False), chain)
    for stage, replicas in STAGES.items():
        for i in range(replicas):
            pod = Place("pods", namespace, f"{name}-{stage}-{i}", False)
            cluster.put(pod, _pod(pod.name, name, stage))
    return [Place("pods", namespace, f"{name}-firewall-0", False)]


def _pod(name: str, chain: str, stage: str) -> Json:
    metadata = {"name": name, "labels": {"sfc.dev/chain": chain, "sfc.dev/stage": stage}}
    condition = {"type": "sfc.dev/wired", "status": "True", "reason": "Serving", "message": ""}
    status = {"phase": "Running", "conditions": [condition]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": "n1"}, "status": status}


def child(url: str) -> None:
    """A cluster controller that leads. Answers each line of its input with what it has used."""
    logging.basicConfig(level=logging.CRITICAL)
    loop = Loop(ApiServer.to(Configuration(host=url)))
    threading.Thread(target=loop.run, daemon=True).start()
    for _ in sys.stdin:
        used: dict[str, Any] = {"seconds": time.process_time(), "resident": _resident()}
        print(json.dumps(used), flush=True)


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096

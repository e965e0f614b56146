"""What scaling one stage asks of the cluster, and what scaling the whole chain would (the paper, V.A and Fig. 4).

The firewall goes from 1 to 10 replicas, once alone and once with the rest of the chain, on a real Kubernetes; each time
all replicas are Ready, the milliCPU that the running pods request are read from the API server and added. At last a
HorizontalPodAutoscaler does the same to the firewall, as a metric tells it of more and less load (hpa.yaml).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.cluster import kubectl, run, running, until
from benchmarks.report import QUICK, Report, Spread, machine, ratio

HERE = Path(__file__).resolve().parent
STAGES = ("firewall", "policer", "gateway")
MOST = 3 if QUICK else 10
BY_AUTOSCALER = (1, 3) if QUICK else (1, 2, 4, 7, 10)
NODES = 1 if QUICK else 3
"""Each kubelet counts the machine's CPUs as its own; ten whole chains ask for 4.5."""
SCALE_SECONDS = 120.0
LOAD_OF_ONE = 100
"""For a replica, in hpa.yaml."""
UNIT = "requested milliCPU"
STAGE, CHAIN, HPA = WAYS = "the firewall alone", "the whole chain", "the firewall alone, by an autoscaler"
NOTES = ("Read from the pods of a real cluster; the figures are sums of requests, so there is no spread.",)


def main() -> None:
    with running(Path(__file__).with_suffix(".yaml"), "efficiency", NODES):
        described = machine()
        figures = {name(way, n): [float(total)] for scaled in (_scaled, _autoscaled) for way, n, total in scaled()}
    ratios = {f"{STAGE}/{CHAIN}, replicas: {n}": _ratio(figures, n) for n in (1, MOST)}
    Report("efficiency", described, {UNIT: figures}, ratios, {}, NOTES, {"most": MOST}).publish()


def name(way: str, replicas: int) -> str:
    return f"{way}, {replicas}"


def _ratio(figures: Mapping[str, list[float]], replicas: int) -> Spread:
    return ratio(figures, name(STAGE, replicas), name(CHAIN, replicas))


def _scaled() -> Iterator[tuple[str, int, int]]:
    """Up with the firewall alone, down with all."""
    for replicas in range(1, MOST + 1):
        yield STAGE, replicas, _requested({"firewall": replicas, "policer": 1, "gateway": 1})
    for replicas in range(MOST, 0, -1):
        yield CHAIN, replicas, _requested(dict.fromkeys(STAGES, replicas))


def _autoscaled() -> Iterator[tuple[str, int, int]]:
    """By the load alone, at which the autoscaler looks every 15 seconds."""
    try:
        _apply_autoscaler()
        for replicas in BY_AUTOSCALER:
            _namespaced("exec", "deployment/load", "--", "sh", "-c", f"echo {replicas * LOAD_OF_ONE} >/tmp/load")
            yield HPA, replicas, _settled({"firewall": replicas, "policer": 1, "gateway": 1})
    finally:  # no namespace can be deleted while an API is announced that nobody serves
        kubectl("delete", "apiservice", "v1beta1.external.metrics.k8s.io", "--ignore-not-found")


def _apply_autoscaler() -> None:
    with TemporaryDirectory() as folder:
        key, certificate = f"{folder}/key", f"{folder}/certificate"
        subject = ["-subj", "/CN=load", "-days", "1", "-keyout", key, "-out", certificate]
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject)
        _namespaced("create", "secret", "tls", "load-tls", f"--cert={certificate}", f"--key={key}")
    _namespaced("create", "configmap", "load-metric", f"--from-file={HERE / 'load_metric.py'}")
    kubectl("apply", "--filename", str(HERE / "hpa.yaml"))
    _namespaced("rollout", "status", "deployment/load", "--timeout=120s")


def _requested(replicas: Mapping[str, int]) -> int:
    """Scales; the milliCPU that the pods request when all are Ready."""
    for stage, wanted in replicas.items():
        _namespaced("scale", f"deployment/{stage}", f"--replicas={wanted}")
    return _settled(replicas)


def _settled(replicas: Mapping[str, int]) -> int:
    until(lambda: _serving() == replicas, f"{replicas} Ready", SCALE_SECONDS)
    return sum(_milli(c["resources"]["requests"]["cpu"]) for pod in _pods() for c in pod["spec"]["containers"])


def _serving() -> dict[str, int]:
    found = dict.fromkeys(STAGES, 0)
    for pod in _pods():
        conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", ())}
        if conditions.get("Ready") == "True":
            found[pod["metadata"]["labels"]["app"]] += 1
    return found


def _pods() -> list[dict[str, Any]]:
    """Of the functions; those on their way out hold nothing that another could not have."""
    selector = f"--selector=app in ({','.join(STAGES)})"
    pods = json.loads(_namespaced("get", "pods", selector, "--output=json"))["items"]
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def _namespaced(*arguments: str) -> str:
    return kubectl("--namespace=efficiency", *arguments)


def _milli(quantity: str) -> int:
    return int(quantity[:-1]) if quantity.endswith("m") else 1000 * int(quantity)

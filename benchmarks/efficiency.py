"""How much CPU pods request when one stage scales, and when the whole chain scales (the paper, V.A and Fig. 4).

The firewall goes from 1 to 10 replicas on a real Kubernetes, once alone and once with the rest of the chain. Whenever
all replicas are Ready, the benchmark adds up the milliCPU that the running pods request. In the end a
HorizontalPodAutoscaler scales the firewall, by a metric that rises (hpa.yaml).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.cluster import kubectl, run, running, until
from benchmarks.happenings import has, leaving
from benchmarks.report import QUICK, Report, Spread, machine, ratio

HERE = Path(__file__).resolve().parent
STAGES = ("firewall", "policer", "gateway")
MOST = 3 if QUICK else 10
BY_AUTOSCALER = (1, 3) if QUICK else (1, 2, 4, 7, 10)
NODES = 1 if QUICK else 3
"""Each kubelet counts the machine's CPUs as its own; ten whole chains request 4.5 CPUs."""
SCALE_SECONDS = 120.0
LOAD_OF_ONE = 100
"""The target for one replica, in hpa.yaml."""
UNIT = "requested milliCPU"
STAGE, CHAIN, HPA = WAYS = "the firewall alone", "the whole chain", "the firewall alone, by an autoscaler"
NOTES = ("Read from the pods of a real cluster. The figures are sums of requests, so they have no spread.",)


def main() -> None:
    """Brings the cluster up and scales by hand, then by the autoscaler."""
    with running(Path(__file__).with_suffix(".yaml"), "efficiency", NODES):
        described = machine()
        figures = {name(way, n): [float(total)] for scaled in (_scaled, _autoscaled) for way, n, total in scaled()}
    ratios = {f"{STAGE}/{CHAIN}, replicas: {n}": _ratio(figures, n) for n in (1, MOST)}
    Report("efficiency", described, {UNIT: figures}, ratios, {}, NOTES, {"most": MOST}).publish()


def name(way: str, replicas: int) -> str:
    """The name of a figure: `way` is one of WAYS, `replicas` the number of firewalls."""
    return f"{way}, {replicas}"


def _ratio(figures: Mapping[str, list[float]], replicas: int) -> Spread:
    return ratio(figures, name(STAGE, replicas), name(CHAIN, replicas))


def _scaled() -> Iterator[tuple[str, int, int]]:
    """(way, replicas, milliCPU): up with the firewall alone, down with all stages."""
    for replicas in range(1, MOST + 1):
        yield STAGE, replicas, _requested({"firewall": replicas, "policer": 1, "gateway": 1})
    for replicas in range(MOST, 0, -1):
        yield CHAIN, replicas, _requested(dict.fromkeys(STAGES, replicas))


def _autoscaled() -> Iterator[tuple[str, int, int]]:
    """(way, replicas, milliCPU) as the load alone rises; the autoscaler looks at it every 15 seconds."""
    try:
        _apply_autoscaler()
        for replicas in BY_AUTOSCALER:
            _namespaced("exec", "deployment/load", "--", "sh", "-c", f"echo {replicas * LOAD_OF_ONE} >/tmp/load")
            yield HPA, replicas, _settled({"firewall": replicas, "policer": 1, "gateway": 1})
    finally:  # with an announced API that no pod serves, no namespace can be deleted
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
    """Scales, and waits until all are Ready; the milliCPU that the pods then request."""
    for stage, wanted in replicas.items():
        _namespaced("scale", f"deployment/{stage}", f"--replicas={wanted}")
    return _settled(replicas)


def _settled(replicas: Mapping[str, int]) -> int:
    until(lambda: _serving() == replicas, f"{replicas} Ready", SCALE_SECONDS)
    return sum(_milli(c["resources"]["requests"]["cpu"]) for pod in _pods() for c in pod["spec"]["containers"])


def _serving() -> dict[str, int]:
    found = dict.fromkeys(STAGES, 0)
    for pod in _pods():
        if has(pod, "Ready"):
            found[pod["metadata"]["labels"]["app"]] += 1
    return found


def _pods() -> list[dict[str, Any]]:
    """The functions' pods, without those that terminate."""
    selector = f"--selector=app in ({','.join(STAGES)})"
    pods = json.loads(_namespaced("get", "pods", selector, "--output=json"))["items"]
    return [pod for pod in pods if not leaving(pod)]


def _namespaced(*arguments: str) -> str:
    return kubectl("--namespace=efficiency", *arguments)


def _milli(quantity: str) -> int:
    return int(quantity[:-1]) if quantity.endswith("m") else 1000 * int(quantity)

"""Reads the state of the cluster from objects as kubectl prints them. Pure: JSON in, an Answer out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubectl import Answer


def running(workload: Mapping[str, Any]) -> tuple[int, int]:
    """Of a Deployment or DaemonSet: replicas of the newest template that are available, and how many it should have.

    The first is 0 while its controller has not seen the newest template.
    """
    status = workload.get("status", {})
    daemons = workload["kind"] == "DaemonSet"
    want = status.get("desiredNumberScheduled", 0) if daemons else workload["spec"]["replicas"]
    if status.get("observedGeneration", 0) < workload["metadata"]["generation"]:
        return 0, want
    fields = ("updatedNumberScheduled", "numberAvailable") if daemons else ("updatedReplicas", "availableReplicas")
    return min(status.get(field, 0) for field in fields), want


def wired(deployments: list[dict[str, Any]], chain: Mapping[str, Any]) -> Answer:
    """Done when all pods come from the labelled template and the chain is ready."""
    counts = {d["metadata"]["name"]: (*running(d), d.get("status", {}).get("replicas", 0)) for d in deployments}
    words = [f"{name} {have} of {want}" for name, (have, want, _) in counts.items()]
    replaced = all(have == want == total for have, want, total in counts.values())
    ready = condition(chain, "Ready")
    current = chain.get("status", {}).get("observedGeneration", 0) >= chain["metadata"]["generation"]
    words.append(f"chain {'ready' if ready.get('status') == 'True' else 'not ready: ' + ready.get('message', '')}")
    return Answer(replaced and current and ready.get("status") == "True", ", ".join(words))


def scaled(pods: list[dict[str, Any]], stage: str, replicas: int) -> Answer:
    """Done when the stage has exactly so many pods, all ready, and none that is leaving."""
    ready = sum(condition(pod, "Ready").get("status") == "True" and stays(pod) for pod in pods)
    leaving = sum(not stays(pod) for pod in pods)
    words = f"{stage}: {ready} of {replicas} ready" + (f", {leaving} draining" if leaving else "")
    return Answer(ready == replicas == len(pods), words)


def condition(thing: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The condition of this type, or {}."""
    conditions: list[dict[str, Any]] = thing.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})


def stays(pod: Mapping[str, Any]) -> bool:
    """False for a pod that is terminating."""
    return "deletionTimestamp" not in pod["metadata"]

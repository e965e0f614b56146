#!/usr/bin/python3 -S
"""A kubectl whose cluster is one JSON file: it scales at once, and its traffic is a tale. Just what the demo asks."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATE = Path(os.environ["PRETEND_STATE"])
STAGES = ("client", "firewall", "nat", "server")


def condition(**more: Any) -> dict[str, Any]:
    return {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}], **more}


def deployment(name: str, replicas: int) -> dict[str, Any]:
    status = {"replicas": replicas, "updatedReplicas": replicas, "availableReplicas": replicas, "observedGeneration": 1}
    metadata = {"name": name, "generation": 1}
    return {"kind": "Deployment", "metadata": metadata, "spec": {"replicas": replicas}, "status": status}


def pods(stage: str, replicas: int) -> list[dict[str, Any]]:
    return [
        {"metadata": {"name": f"{stage}-{n}", "labels": {"sfc.dev/stage": stage}}, "status": condition()}
        for n in range(replicas)
    ]


def items(found: list[dict[str, Any]]) -> str:
    return json.dumps({"items": found})


def metrics(state: dict[str, int]) -> str:
    idle = os.environ.get("PRETEND_IDLE")
    labels = 'namespace="telco",chain="edge",interface="left"'
    replicas = [(stage, f"{stage}-{n}") for stage, count in state.items() for n in range(count)]
    return "\n".join(
        f'sfc_link_sessions_total{{{labels},stage="{stage}",pod="{pod}"}} {0 if pod == idle else time.time()}'
        for stage, pod in replicas
    )


def members(state: dict[str, int], line: str) -> str:
    stages = [stage for stage in STAGES if f"stage={stage}" in line] or STAGES
    return items([pod for stage in stages for pod in pods(stage, state[stage])])


AGENTS = [{"metadata": {"name": "sfc-node-x", "ownerReferences": [{"name": "sfc-node"}]}}]
WEBHOOKS = [{"webhooks": [{"clientConfig": {"service": {"namespace": "sfc-system"}, "caBundle": "Zm9v"}}]}]

ANSWERS: tuple[tuple[str, Callable[[dict[str, int], str], str]], ...] = (
    ("proxy/metrics", lambda state, _: metrics(state)),
    ("webhookconfigurations", lambda *_: items(WEBHOOKS)),
    ("servicefunctionchain", lambda *_: json.dumps({"metadata": {"generation": 1}, "status": condition()})),
    ("sfc-system deployments", lambda *_: items([deployment("sfc-webhook", 2)])),
    ("sfc-system pods", lambda *_: items(AGENTS)),
    ("telco deployments", lambda state, _: items([deployment(name, count) for name, count in state.items()])),
    ("telco pods", members),
)
"""What is asked for, by words of the command line, and the answer."""


def traffic() -> None:
    lost = int(os.environ.get("PRETEND_LOST", "0"))
    packets = {
        "sent": 100,
        "received": 100 - lost,
        "lost": lost,
        "lostBeforeServer": 0,
        "duplicated": 0,
        "reordered": 0,
    }
    connections = {"opened": 5, "completed": 5, "broken": 0}
    for second in range(30):
        print(json.dumps({"seconds": second / 10, "packets": packets, "connections": connections}), flush=True)
        time.sleep(0.02)
    if os.environ.get("PRETEND_DEATH"):
        sys.exit("command terminated with exit code 137")
    sys.stdin.readline()
    more = {"seconds": 3, "started": "", "lostPerSecond": {}, "breaks": [], "bufferErrors": 0}
    print("RESULT", json.dumps({"packets": packets, "connections": connections, **more}), flush=True)


def main() -> None:
    line = " ".join(sys.argv[1:])
    state = json.loads(STATE.read_text()) if STATE.exists() else dict.fromkeys(STAGES, 1)
    if "traffic.py" in line:
        traffic()
    elif "--replicas=" in line:
        state[sys.argv[5]] = int(line.partition("--replicas=")[2])
        STATE.write_text(json.dumps(state))
        print("scaled")
    elif " get " in f" {line} ":
        asked = line.replace("get ", "")
        print(next(answer for words, answer in ANSWERS if words in asked)(state, asked))
    else:
        print("done")


main()

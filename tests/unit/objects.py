"""Objects as the API server would give them, for tests of pure logic."""

from __future__ import annotations

import json
from typing import Any

import yaml

from controller.node.plane.model import HostLink

CHAIN = """
apiVersion: sfc.dev/v1alpha1
kind: ServiceFunctionChain
metadata: {name: edge, namespace: telco, uid: chain-1}
spec:
  stages:
  - name: client
    interfaces: [{name: lan, addresses: [10.1.0.2/24]}]
  - name: firewall
    interfaces: [{name: left}, {name: right}]
  - name: nat
    interfaces:
    - {name: inside,  addresses: [10.1.0.1/24]}
    - {name: outside, addresses: [198.51.100.1/24]}
  - name: server
    interfaces: [{name: wan, addresses: [198.51.100.2/24]}]
  drain: {deadlineSeconds: 30}
"""


def chain() -> dict[str, Any]:
    obj: dict[str, Any] = yaml.safe_load(CHAIN)
    return obj


def pod(
    name: str,
    stage: str,
    *,
    ready: bool = True,
    terminating: bool = False,
    interfaces: tuple[str, ...] = (),
    **status: Any,
) -> dict[str, Any]:
    """`interfaces`: those that the webhook asked Multus for; without them, the pod has no annotation."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "telco",
        "uid": f"uid-{name}",
        "labels": {"sfc.dev/chain": "edge", "sfc.dev/stage": stage},
    }
    if interfaces:
        asked = [{"name": "sfc", "namespace": "telco", "interface": name} for name in interfaces]
        metadata["annotations"] = {"k8s.v1.cni.cncf.io/networks": json.dumps(asked)}
    if terminating:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {
        "metadata": metadata,
        "status": {
            "conditions": [{"type": "ContainersReady", "status": str(ready)}],
            "containerStatuses": [{"containerID": f"cri://{name}-1", "state": {"running": {}}}],
        }
        | status,
    }


def link(slot: int, pod_name: str, interface: str, filter_slot: int | None = None) -> HostLink:
    return HostLink(
        ifindex=100 + slot,
        name=f"sfc{slot:012x}",
        slot=slot,
        pod_uid=f"uid-{pod_name}",
        interface=interface,
        drain_id=f"drain-{pod_name}",
        filter_slot=filter_slot,
    )

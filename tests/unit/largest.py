"""Chains as large as admission lets them be, and larger ones: what a hostile tenant would write."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from sfc.validation import fault

Json = dict[str, Any]
IDLE = dict.fromkeys(("tcp", "sctp", "udp", "other"), fault.MAX_IDLE_SECONDS)


def chain(
    stages: int = fault.MAX_STAGES,
    interfaces: int = fault.MAX_INTERFACES_IN_ALL // fault.MAX_STAGES,
    addresses: int = 1,
    routes: int = 2,
    *,
    name: str = "largest",
    namespace: str = "telco",
) -> Json:
    """`interfaces` of each stage, `addresses` and `routes` of each interface; all names are of full length."""
    made = [_stage(s, interfaces, addresses, routes) for s in range(stages)]
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 1}
    return {
        "apiVersion": "sfc.dev/v1alpha1",
        "kind": "ServiceFunctionChain",
        "metadata": metadata,
        "spec": {
            "stages": made,
            "links": _links(made),
            "drain": {"deadlineSeconds": 3600, "hook": "httpGet", "idle": IDLE},
        },
    }


def transparent(stages: int, interfaces: int) -> Json:
    """One segment: stages without addresses between two that have one each."""
    obj = chain(stages, interfaces, addresses=0, routes=0)
    for host, stage in enumerate((obj["spec"]["stages"][0], obj["spec"]["stages"][-1])):
        stage["interfaces"][0]["addresses"] = [f"2001:db8::{host + 1}/64"]
    return obj


def _stage(s: int, interfaces: int, addresses: int, routes: int) -> Json:
    made = [_interface(s, i, addresses, routes) for i in range(interfaces)]
    return {
        "name": f"stage-{s:02}".ljust(fault.MAX_DNS_LABEL, "x"),
        "interfaces": made,
        "drain": {"deadlineSeconds": 3600, "hook": "httpGet"},
    }


def _interface(s: int, i: int, addresses: int, routes: int) -> Json:
    def network(part: int, kind: int, host: int) -> str:
        return f"2001:0db8:{kind:04x}:{s:04x}:{i:04x}:{part:04x}:0000:{host:04x}"

    made: Json = {
        "name": f"if-{i:02}".ljust(fault.MAX_INTERFACE_NAME, "x"),
        "mac": f"02:00:00:00:{s:02x}:{i:02x}",
        "mtu": 65535,
        "sourcePorts": {"slices": 256},
    }
    if addresses:
        made["addresses"] = [f"{network(0, 0, a + 1)}/112" for a in range(addresses)]
    if routes:
        made["routes"] = [{"dst": f"{network(r, 1, 0)}/112", "gw": network(0, 0, 0xFFFE)} for r in range(routes)]
    return made


def _links(stages: list[Json]) -> list[list[str]]:
    """The last interface of each stage with the first of the next."""
    return [
        [f"{up['name']}.{up['interfaces'][-1]['name']}", f"{down['name']}.{down['interfaces'][0]['name']}"]
        for up, down in pairwise(stages)
    ]

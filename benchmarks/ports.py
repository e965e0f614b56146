"""What replicas that share an address do to each other's connections, with slices of source ports and without.

Four replicas of an address translator behind one address, eight clients' addresses before them, which use the same
source ports, and one server behind. The figure is how many connections break; nothing but 0 is good enough with slices.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from benchmarks.bpffs import private_bpffs
from benchmarks.report import BUILD, QUICK, machine
from controller.node.kernel.datapath import Datapath
from tests.netns.shared_address import CLIENTS, REPLICAS, shared_address

SCALE = 10 if QUICK else 1
CONNECTIONS = 20_000 // SCALE
AT_A_TIME = 2_000 // SCALE
SLICES = 16


def main() -> None:
    described = machine()
    print(
        f"{CONNECTIONS:,} connections of {len(CLIENTS)} addresses through {REPLICAS} translators behind one address, "
        f"{AT_A_TIME:,} at a time\n"
    )
    accounts = {}
    with private_bpffs() as bpffs:
        datapath = Datapath.open(bpffs / "v1")
        try:
            for name, slices in (("with slices", SLICES), ("without slices", None)):
                with shared_address("ports", datapath, slices) as lab:
                    accounts[name] = lab.connect(CONNECTIONS, AT_A_TIME)
                _show(name, accounts[name])
        finally:
            datapath.unpin()
            datapath.close()
    _publish(described, accounts)
    if accounts["with slices"]["broken"]:
        sys.exit("connections broke although every replica had source ports of its own")


def _show(name: str, account: dict[str, Any]) -> None:
    why = ", ".join(f"{reason} {number:,}" for reason, number in account["why"].items())
    print(
        f"{name:15}  broken {account['broken']:>6,} of {account['connections']:,}   "
        f"open at once {account['mostOpen']:,}   {why}".rstrip(),
        flush=True,
    )


def _publish(described: dict[str, object], accounts: dict[str, dict[str, Any]]) -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / "ports.json"
    content = {
        "benchmark": "ports",
        "quick": QUICK,
        "machine": {**described, "load_after": os.getloadavg()[0]},
        "slices": SLICES,
        "replicas": REPLICAS,
        "clients": len(CLIENTS),
        "broken": {name: account["broken"] for name, account in accounts.items()},
        "accounts": accounts,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"\n{path.relative_to(BUILD.parent.parent)}: machine, accounts")

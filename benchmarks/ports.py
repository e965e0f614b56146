"""Do replicas that share an address break each other's connections? With slices of source ports, and without.

Eight clients' addresses, which use the same source ports, open connections to one server through four replicas of an
address translator behind one address. The figure is the number of broken connections. With slices it must be 0.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from benchmarks.bpffs import private_bpffs
from benchmarks.report import QUICK, machine, save
from controller.node.kernel.datapath import Datapath
from tests.hash_key import HASH_KEY
from tests.netns.shared_address import CLIENTS, REPLICAS, shared_address

SCALE = 10 if QUICK else 1
CONNECTIONS = 20_000 // SCALE
AT_A_TIME = 2_000 // SCALE
SLICES = 16


def main() -> None:
    """One run with slices and one without; fails when a connection broke in the first."""
    described = machine()
    print(
        f"{CONNECTIONS:,} connections of {len(CLIENTS)} addresses through {REPLICAS} translators behind one address, "
        f"{AT_A_TIME:,} at a time\n"
    )
    accounts = {}
    with private_bpffs() as bpffs:
        datapath = Datapath.open(bpffs / "v1", hash_key=HASH_KEY)
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
    print(f"\n{save('ports', content)}: machine, accounts")

"""`python -m benchmarks.full_node CONNECTIONS REPLICAS`: a node agent's work on a node of that size, as JSON.

Reconciler, plan, tables and maps are the real ones; links and cluster are plain values. Chains have five stages, the
inner ones transparent, as in the paper. A node has 4,095 slots, too few for the largest sizes; the maps here have room
for 65,535, the most that a class id can name.

  cold     the first pass of an agent that finds empty maps: observe, plan, every table, every map entry
  change   one replica more in the targets, or one less, from the news to the last write
  verify   a pass that observes everything and finds nothing to do

It imports what an agent imports, and nothing else that is large, because it reports resident memory, too.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import controller.node.agent  # noqa: F401 - for its size
from benchmarks.bpffs import private_bpffs
from benchmarks.report import QUICK
from controller.node.kernel.datapath import Datapath
from controller.node.plane.cluster import Cluster
from controller.node.plane.model import HostLink
from controller.node.plane.replica import Replica
from controller.node.reconcile.reconciler import Reconciler
from sfc.chain import Chain
from sfc.reading import chain_of
from tests.hash_key import HASH_KEY

CHANGES = 4 if QUICK else 8
LINKS_OF_CHAIN = 4
MANY_SLOTS = 1 << 16
UNITS = COLD, CPU, CHANGE, VERIFY, RESIDENT = (
    "cold reconcile, s",
    "CPU of the cold reconcile, s",
    "one change, ms",
    "verify pass, ms",
    "resident, MB",
)


class _Links:
    """Stands for the node's links. A filter is only remembered."""

    def __init__(self, links: Sequence[HostLink]) -> None:
        self._links = {link.ifindex: link for link in links}

    def list(self) -> tuple[HostLink, ...]:
        return tuple(self._links.values())

    def attach(self, ifindex: int, slot: int, program: int, program_name: str) -> None:
        self._links[ifindex] = replace(self._links[ifindex], filter_slot=slot)

    def detach(self, ifindex: int) -> None:
        self._links[ifindex] = replace(self._links[ifindex], filter_slot=None)


def measured(connections: int, replicas: int, datapath: Datapath) -> dict[str, float]:
    """The figures of one size, by unit; `datapath` is empty before."""
    cluster, links = world(connections, replicas)
    current = [cluster]
    reconciler = Reconciler(_Links(links), datapath, lambda: current[0])
    began, used = time.perf_counter(), time.process_time()
    reconciler.reconcile()
    cold, cpu = time.perf_counter() - began, time.process_time() - used
    began = time.perf_counter()
    reconciler.reconcile()
    verify = time.perf_counter() - began
    changed = [_timed_change(reconciler, current, number) for number in range(CHANGES)]
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
    return {
        COLD: cold,
        CPU: cpu,
        VERIFY: verify * 1000,
        CHANGE: statistics.median(changed) * 1000,
        RESIDENT: resident,
    }


def _timed_change(reconciler: Reconciler, current: list[Cluster], number: int) -> float:
    """Seconds that a change takes. At even numbers a replica leaves the targets, at odd ones it comes back."""
    cluster = current[0]
    inner = [uid for uid, each in cluster.replicas.items() if each.stage == "s1"]
    uid = inner[number // 2 * 7 % len(inner)]
    changed = replace(cluster.replicas[uid], ready=number % 2 == 1)
    current[0] = Cluster(cluster.chains, {**cluster.replicas, uid: changed})
    began = time.perf_counter()
    reconciler.reconcile(verify=False)
    took = time.perf_counter() - began
    reconciler._prepare()
    return took


def world(connections: int, replicas: int) -> tuple[Cluster, list[HostLink]]:
    """The chains with so many cross-connections in all, their replicas, and a link for each replica's interface."""
    chains = [
        _chain(f"chain{at}", min(LINKS_OF_CHAIN, connections - at)) for at in range(0, connections, LINKS_OF_CHAIN)
    ]
    found: dict[str, Replica] = {}
    links: list[HostLink] = []
    for chain in chains:
        for stage in chain.stages:
            interfaces = [interface.name for interface in stage.interfaces]
            for number in range(replicas):
                replica = _replica(chain, stage.name, number, interfaces)
                found[replica.uid] = replica
                for interface in interfaces:
                    slot = len(links) + 1
                    links.append(HostLink(1000 + slot, f"sfc{slot:012x}", slot, replica.uid, interface, "", slot))
    return Cluster({(chain.namespace, chain.name): chain for chain in chains}, found), links


def _chain(name: str, links: int) -> Chain:
    def interfaces(number: int) -> list[dict[str, Any]]:
        if number in (0, links):
            return [{"name": "eth", "addresses": [f"10.1.0.{number + 1}/24"]}]
        return [{"name": "left"}, {"name": "right"}]

    stages = [{"name": f"s{number}", "interfaces": interfaces(number)} for number in range(links + 1)]
    metadata = {"namespace": "scale", "name": name, "uid": str(uuid5(NAMESPACE_OID, name))}
    return chain_of({"metadata": metadata, "spec": {"stages": stages}})


def _replica(chain: Chain, stage: str, number: int, interfaces: Sequence[str]) -> Replica:
    name = f"{chain.name}-{stage}-{number}"
    return Replica(
        namespace=chain.namespace,
        name=name,
        uid=str(uuid5(NAMESPACE_OID, name)),
        chain=chain.name,
        stage=stage,
        ready=True,
        stopped=False,
        terminating=False,
        condition=None,
        interfaces=frozenset(interfaces),
    )


def main(connections: int, replicas: int) -> None:
    """Prints the figures as one line of JSON."""
    with private_bpffs() as bpffs, ExitStack() as cleanup:
        datapath = Datapath.open(bpffs / "v1", cflags=["-USLOTS", f"-DSLOTS={MANY_SLOTS}"], hash_key=HASH_KEY)
        cleanup.callback(datapath.close)
        cleanup.callback(datapath.unpin)
        print(json.dumps(measured(connections, replicas, datapath)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

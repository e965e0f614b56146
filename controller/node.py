"""The node agent: puts the pieces together and runs them until it is told to stop.

CNI calls ─→ links ─┐
netlink events ─────┤
chains, pods ───────┼→ wake → Reconciler → data path
PreStop hooks ──────┘              └→ Publisher → conditions, CrossConnection status
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

from controller import health
from controller.cni_server import Server as CniServer
from controller.datapath import Datapath, DatapathError
from controller.hook import HookServer
from controller.links import Links
from controller.metrics import DatapathCollector
from controller.model import PROGRAM
from controller.plan import Cluster
from controller.publisher import Publisher
from controller.reconciler import Reconciler
from controller.replica import Replica, replica_of
from controller.wiring import PodWiring
from kube.api import ApiError, ApiServer
from kube.watch import Key, Watch
from sfc import names, validation
from sfc.chain import Chain
from sfc.fault import MAX_DEADLINE_SECONDS

log = logging.getLogger(__name__)

HANGING_SECONDS = 60.0
"""A pass over the data path that takes longer will not end."""
HOOK_GRACE_SECONDS = 60.0
"""Beyond the longest drain deadline (MAX_DEADLINE_SECONDS), after which a hook answers in any case."""


def run(argv: list[str]) -> int:
    options = _options(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        agent = Agent(options, stop)
    except (ApiError, DatapathError, OSError) as error:
        log.error("node agent cannot start", extra={"node": options.node, "error": str(error)})
        return 1
    agent.start()
    log.info("node agent ready", extra={"node": options.node})
    stop.wait()
    agent.stop()
    log.info("node agent stopped; the data path stays as it is", extra={"node": options.node})
    return 0


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="controller node", description=__doc__.partition("\n")[0])
    parser.add_argument("--node", default=os.environ.get("NODE_NAME"), help="this node's name (default: $NODE_NAME)")
    parser.add_argument("--address", default=os.environ.get("NODE_IP", ""), help="where metrics and health are served")
    parser.add_argument("--drain-key", type=Path, default=Path("/etc/sfc/drain-key/key"), help="file with the HMAC key")
    parser.add_argument("--cni-socket", type=Path, default=Path(names.CNI_SOCKET))
    parser.add_argument("--pins", type=Path, default=Path("/sys/fs/bpf/sfc/v1"), help="where maps are pinned")
    parser.add_argument("--sessions", type=int, default=262_144, help="capacity of the session table")
    options = parser.parse_args(argv)
    if not options.node:
        parser.error("give --node or set NODE_NAME to this node's name in the cluster")
    return options


class Agent:
    def __init__(self, options: argparse.Namespace, stop: threading.Event) -> None:
        api = ApiServer.from_environment()
        self._cluster_view = ClusterView(api, options.node, self._wake)
        self._links = Links()
        self._datapath = Datapath.open(options.pins, capacity=options.sessions)
        self._reconciler = Reconciler(self._links, self._datapath, self._cluster_view.get)
        self._publisher = Publisher(api, options.node, lambda: self._reconciler.state, self._cluster_view.connections)
        self._reconciler.observe_with(self._publisher.wake)
        REGISTRY.register(DatapathCollector(self._datapath, lambda: self._reconciler.state))
        wiring = PodWiring(self._links, lambda: self._datapath.program_fd, PROGRAM, self._reconciler.wake)
        self._cni = CniServer(options.cni_socket, wiring)
        timeout = MAX_DEADLINE_SECONDS + HOOK_GRACE_SECONDS
        self._hooks = HookServer(
            (names.HOOK_HOST, names.HOOK_PORT),
            options.drain_key.read_bytes(),
            lambda drain_id: self._reconciler.drain(drain_id, timeout),
        )
        self._address = options.address
        loops = {
            "reconciler": lambda: self._reconciler.run(stop),
            "publisher": lambda: self._publisher.run(stop),
            "hooks": self._hooks.serve_forever,
        }
        self._threads = [threading.Thread(target=loop, name=name, daemon=True) for name, loop in loops.items()]

    def start(self) -> None:
        """The data path first, so that the first CNI call finds a program to attach."""
        self._cluster_view.start()
        self._links.monitor(self._reconciler.wake)
        for thread in self._threads:
            thread.start()
        self._reconciler.wake()
        self._cni.start()
        health.serve(names.METRICS_PORT, healthy=self._unhealthy, ready=self._unready, address=self._address)

    def stop(self) -> None:
        self._cni.stop()
        self._hooks.shutdown()
        self._cluster_view.stop()

    def _wake(self) -> None:
        self._reconciler.wake()
        self._publisher.wake()

    def _unhealthy(self) -> str | None:
        if ended := [thread.name for thread in self._threads if not thread.is_alive()]:
            return f"{', '.join(ended)} ended"
        age = self._reconciler.age_seconds()
        return f"no pass over the data path ended for {age:.0f} s" if age > HANGING_SECONDS else None

    def _unready(self) -> str | None:
        return None if self._cluster_view.get() else "the API server has not been heard yet"


class ClusterView:
    """Chains, and this node's replicas, as the API server last told."""

    def __init__(self, api: ApiServer, node: str, on_change: Any) -> None:
        group = f"/apis/{names.API_VERSION}"
        self._chains = Watch(api, f"{group}/{names.CHAIN_PLURAL}", on_change=on_change)
        self._connections = Watch(api, f"{group}/{names.CROSS_CONNECTION_PLURAL}", on_change=on_change)
        self._pods = Watch(
            api,
            "/api/v1/pods",
            params={"fieldSelector": f"spec.nodeName={node}", "labelSelector": names.CHAIN_LABEL},
            on_change=on_change,
        )
        self._parsed: tuple[Any, Mapping[Key, Chain]] = (None, {})

    def start(self) -> None:
        for watch in (self._chains, self._pods, self._connections):
            watch.start()

    def stop(self) -> None:
        for watch in (self._chains, self._pods, self._connections):
            watch.stop()

    def get(self) -> Cluster | None:
        """None until both chains and pods have been heard."""
        if not (self._chains.synced and self._pods.synced):
            return None
        replicas = (replica_of(pod) for pod in self._pods.snapshot().values())
        return Cluster(chains=self._parse(), replicas={r.uid: r for r in replicas if isinstance(r, Replica)})

    def connections(self) -> Mapping[Key, Mapping[str, Any]]:
        return self._connections.snapshot()

    def _parse(self) -> Mapping[Key, Chain]:
        snapshot = self._chains.snapshot()
        if self._parsed[0] is not snapshot:
            self._parsed = snapshot, parsed(snapshot, self._parsed[1])
        return self._parsed[1]


def parsed(objects: Mapping[Key, Mapping[str, Any]], before: Mapping[Key, Chain]) -> dict[Key, Chain]:
    """The chains that are valid. One that got past admission and is not stays as it was, so that a bad edit does not
    cut traffic that flows."""
    chains = {}
    for key, obj in objects.items():
        try:
            chains[key] = validation.parse(obj)
        except validation.InvalidChain as error:
            log.warning("invalid chain not followed", extra={"chain": "/".join(key), "error": str(error)})
            if key in before:
                chains[key] = before[key]
    return chains

"""The node agent: puts the pieces together and runs them until it is stopped.

CNI calls ─→ links ─┐
netlink events ─────┤
chains, pods ───────┼→ wake → Reconciler → data path
PreStop hooks ──────┘              └→ TransitionLog, StatusWriter → log, conditions, events, CrossConnection status

The view of the cluster and the loaded program live as long as the process. Whatever changes the data path lives for a
term, while this agent leads its node (controller/node/leadership.py).
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from prometheus_client import REGISTRY

from controller.node.cni.wiring import Folders
from controller.node.kernel.datapath import Datapath
from controller.node.kernel.errors import DatapathError, LinkError
from controller.node.kernel.hash_key import HashKey
from controller.node.kernel.links import Links
from controller.node.kernel.underlay import Underlay
from controller.node.leadership import Leadership
from controller.node.plane.drain import Drain
from controller.node.plane.hearing import Hearing
from controller.node.plane.plan import State
from controller.node.plane.sessions import DEFAULT_PATIENCE
from controller.node.reconcile.cluster_view import ClusterView
from controller.node.report.contests import Contests
from controller.node.report.metrics import DatapathCollector
from controller.node.report.peer_events import PeerEvents
from controller.node.report.status_writer import StatusWriter
from controller.node.report.troubles import Troubles
from controller.node.term import Setting, Term
from kube.api import ApiError, ApiServer
from serving.access import Access
from serving.certificate import Certificate
from serving.metrics import Page
from sfc import names, threads
from sfc.chain import Patience
from sfc.log import printed_by_libraries
from sfc.validation import fault

log = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0005
"""How long a thread may keep others from running Python. With the default, five milliseconds, the loop that takes a
replica out of the targets would wait that long for each thread that writes a status or wires a pod."""
POLL_SECONDS = 0.1


def run(argv: list[str]) -> int:
    """Runs the agent until SIGTERM or SIGINT; returns the process's exit status."""
    sys.setswitchinterval(SWITCH_SECONDS)
    options = _options(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        agent = Agent(options)
        gc.freeze()  # lasting objects: a full collection that walks them would delay a replica that leaves
        agent.run(stop)
    except (ApiError, DatapathError, OSError) as error:
        log.error("node agent cannot go on", extra={"node": options.node, "error": str(error)})
        return 1
    log.info("node agent stopped; the data path stays as it is", extra={"node": options.node})
    return 0


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="controller node", description=__doc__.partition("\n")[0])
    parser.add_argument("--node", default=os.environ.get("NODE_NAME"), help="this node's name (default: $NODE_NAME)")
    parser.add_argument("--address", default="", help="local address of metrics (default: all)")
    parser.add_argument(
        "--metrics-tls", type=Path, default=Path(names.METRICS_CERTIFICATE), help="folder of tls.crt and tls.key"
    )
    parser.add_argument(
        "--name", default=os.environ.get("POD_NAME") or platform.node(), help="this agent's name in the file `leader`"
    )
    parser.add_argument("--run", type=Path, default=Path(names.CNI_SOCKET).parent, help="folder that agents share")
    parser.add_argument("--ipam", type=Path, default=Path("/opt/cni/bin"), help="folder of the IPAM plugin `static`")
    parser.add_argument(
        "--statement-keys",
        type=Path,
        default=Path("/etc/sfc/statement-keys"),
        help="folder of the webhook's public keys, one file each",
    )
    parser.add_argument(
        "--hash-key",
        type=Path,
        default=Path("/etc/sfc/hash-key") / names.HASH_KEY_FIELD,
        help="file with the key of the program's hashes",
    )
    parser.add_argument("--pins", type=Path, default=Path("/sys/fs/bpf/sfc/v1"), help="folder of the pinned maps")
    parser.add_argument(
        "--sessions", type=int, default=262_144, help="sessions that plain IPv4 has room for, and as many others"
    )
    idle = "seconds without a packet after which a session of %s is over, unless its chain says another number"
    parser.add_argument("--tcp-idle", type=_idle, default=DEFAULT_PATIENCE.tcp, help=idle % "TCP or SCTP")
    parser.add_argument("--other-idle", type=_idle, default=DEFAULT_PATIENCE.other, help=idle % "UDP, ICMP or other")
    parser.add_argument(
        "--node-address",
        default=os.environ.get("NODE_ADDRESS"),
        help="address of this node, to which the others send (default: $NODE_ADDRESS)",
    )
    parser.add_argument(
        "--tunnel-port", type=int, default=names.TUNNEL_PORT, help="UDP port of the tunnel, the same on all nodes"
    )
    parser.add_argument(
        "--tunnel-by-device",
        action="store_true",
        help="all frames between nodes go by the tunnel's device, also where they could pass it, which is faster",
    )
    options = parser.parse_args(argv)
    if not options.node_address:
        parser.error("give --node-address or set NODE_ADDRESS to this node's address in the cluster")
    if not options.node:
        parser.error("give --node or set NODE_NAME to this node's name in the cluster")
    return options


def _idle(written: str) -> int:
    seconds = int(written) if written.isdecimal() else written
    if problem := fault.idle(seconds):
        raise argparse.ArgumentTypeError(f"{written} {problem}")
    return int(seconds)


def _patience(options: argparse.Namespace) -> Patience:
    return Patience(options.tcp_idle, options.tcp_idle, options.other_idle, options.other_idle)


class Agent:
    """The agent of one node: what lives as long as the process, and the terms in which it leads."""

    def __init__(self, options: argparse.Namespace) -> None:
        api = ApiServer.from_environment()
        self._cluster = ClusterView(api, options.node, self._wake, self._wake_status_writer)
        self._status_writer = StatusWriter(
            api,
            options.node,
            self._state,
            self._cluster.connections,
            address=lambda: options.node_address if self._terms and self._terms[-1].reachable else None,
            mtu=lambda: self._terms[-1].payload if self._terms else None,
            hearing=self._hearing,
            others=self._cluster.others,
        )
        self._links = Links()
        hash_key = HashKey.read(options.hash_key)
        with printed_by_libraries():  # the compiler, and the kernel's verifier
            self._datapath = Datapath.open(
                options.pins, capacity=options.sessions, hash_key=hash_key, patience=_patience(options)
            )
        self._leadership = Leadership(options.run, options.name)
        self._setting = Setting(
            cluster=self._cluster,
            links=self._links,
            datapath=self._datapath,
            status_writer=self._status_writer,
            run=options.run,
            folders=Folders(ipam=options.ipam, statement_keys=options.statement_keys),
            address=options.address,
            certificate=Certificate(options.metrics_tls),
            access=Access(api),
            page=Page(),
            tunnel=self._datapath.peers.tunnel(options.node_address, options.tunnel_port),
            underlay=Underlay(
                options.node_address,
                options.tunnel_port,
                self._datapath.underlay_shortcut,
                by_device=options.tunnel_by_device,
            ),
            node_address=options.node_address,
            tunnel_port=options.tunnel_port,
        )
        self._terms: list[Term] = []
        self._contests = Contests(api, options.node, self._state, self._datapath.counters.contests)
        self._troubles = Troubles(api, options.node, self._state)
        self._peer_events = PeerEvents(api, options.node, self._hearing, self._cluster.names)
        REGISTRY.register(DatapathCollector(self._datapath.counters, self._state, self._hearing, self._cluster.names))

    def run(self, stop: threading.Event) -> None:
        """Leads whenever it is this agent's turn, until `stop`, and then until each hook that it holds is answered."""
        threads.adopt("main")
        self._cluster.start()
        self._links.monitor(self._links_changed)
        for reporter in (self._status_writer, self._contests, self._troubles, self._peer_events):
            threads.start(type(reporter).__name__, partial(reporter.run, stop), until=stop.is_set)
        drains = self._leadership.acquire(stop, self._knows_cluster)
        while drains is not None:
            newcomer = self._lead(drains, stop)
            drains = self._terms[-1].retire()
            if newcomer is None:
                self._leadership.resign()
                self._leave_underlay()
                break
            if self._leadership.hand_over(newcomer, drains):
                log.info("another agent leads; this one stands by")
                self._close()
                drains = self._leadership.acquire(stop, lambda: False)  # leads again when the leader ends
        self._close()
        while any(term.held for term in self._terms):
            threads.beat()
            time.sleep(POLL_SECONDS)

    def _lead(self, drains: Iterable[Drain], stop: threading.Event) -> socket.socket | None:
        """Leads for a term. Returns the newcomer that asked to lead next.

        None after `stop`, as soon as another agent stands by or no hook is held.
        """
        term = Term(self._setting, drains, self._leadership.note)
        term.start()
        self._close()  # an earlier term still listens when the newcomer that ended it failed
        self._terms = [*(earlier for earlier in self._terms if earlier.held), term]
        self._leadership.begin()
        log.info("node agent leads")
        while not (newcomer := self._leadership.asked(POLL_SECONDS)):
            threads.beat()
            threads.problem()  # for the log, should the thread hang that answers probes
            if stop.is_set() and (self._leadership.somebody_stands_by() or not term.held):
                break
        return newcomer

    def _close(self) -> None:
        for term in self._terms:
            term.close()

    def _leave_underlay(self) -> None:
        """The node's interface is no pod's: what stands there would outlive an uninstall. It is shut in any case."""
        ifindex = self._datapath.peers.underlay
        try:
            if ifindex:
                self._setting.underlay.leave(ifindex)
        except (DatapathError, LinkError):
            log.exception("the tunnel's shortcut stays at the node's interface; it does nothing without an agent")

    def _knows_cluster(self) -> bool:
        return self._cluster.get() is not None

    def _state(self) -> State:
        return self._terms[-1].state if self._terms else State()

    def _hearing(self) -> Hearing:
        return self._terms[-1].hearing if self._terms else Hearing()

    def _wake(self) -> None:
        if self._terms:
            self._terms[-1].reconciler.wake()

    def _links_changed(self) -> None:
        if self._terms:
            self._terms[-1].reconciler.links_changed()

    def _wake_status_writer(self) -> None:
        self._status_writer.wake()

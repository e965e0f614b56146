"""What runs while this agent leads its node: the loop over the data path, the hooks, the CNI calls, health and metrics.

A term ends in two steps. `retire` ends the loop: from then on another agent may change the data path, and hooks that
are held get no answer here, so that the relay asks the other agent. `close` stops listening. It is called once the
other agent listens, so that no call finds a closed port.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from controller import health
from controller.listener import shared_port
from controller.node.cni.server import CniServer
from controller.node.cni.wiring import Folders, PodWiring
from controller.node.hooks.port import PortGiver, open_to_relay
from controller.node.hooks.server import HookServer
from controller.node.kernel.datapath import Datapath
from controller.node.kernel.links import Links
from controller.node.kernel.tunnel import Tunnel
from controller.node.kernel.underlay import Underlay
from controller.node.plane.drain import Drain, NotDeletedError
from controller.node.plane.hearing import Hearing
from controller.node.plane.model import PROGRAM
from controller.node.plane.plan import State
from controller.node.reconcile.cluster_view import ClusterView
from controller.node.reconcile.deletions import Deletions
from controller.node.reconcile.drains import Drains
from controller.node.reconcile.far_links import FarLinks
from controller.node.reconcile.heartbeat import EchoSender, Heartbeat
from controller.node.reconcile.orphans import Orphans
from controller.node.reconcile.reconciler import Reconciler
from controller.node.reconcile.shortcuts import Shortcuts
from controller.node.reconcile.tunnel import DirectWay, TunnelKeeper
from controller.node.report.metrics import ECHO
from controller.node.report.refused_hooks import RefusedHooks
from controller.node.report.status_writer import StatusWriter
from controller.node.report.transition_log import TransitionLog
from serving.access import Access
from serving.certificate import Certificate
from serving.metrics import MetricsServer, Page
from sfc import names, threads
from sfc.validation.fault import MAX_DEADLINE_SECONDS

HANGING_SECONDS = 180.0
"""A pass over the data path that takes longer is taken to hang; on a machine with too much to do it may take long."""
HOOK_GRACE_SECONDS = 60.0
"""A hook is answered in any case this long after the longest drain deadline (MAX_DEADLINE_SECONDS)."""
EXPORT_SECONDS, EXPORT_PAUSE = 5.0, 0.1
"""How long sessions are brought after an agent that takes over, and the time between two looks."""
EXPORT_OVERLAP_NS = 500_000_000
"""More than a session's time may be late (SEEN_GRANULARITY in bpf/session.h)."""
LAST_PASS_SECONDS = 5.0
"""For a pass in progress to end when the term does."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What every term of the process works with."""

    cluster: ClusterView
    links: Links
    datapath: Datapath
    status_writer: StatusWriter
    run: Path
    """The folder of the sockets that the node's agents share."""
    folders: Folders
    address: str
    """Where metrics are served; empty for every address of the node."""
    certificate: Certificate
    """For metrics, as are the next two."""
    access: Access
    page: Page
    tunnel: Tunnel
    underlay: Underlay
    node_address: str
    tunnel_port: int


class Term:
    """One term of this agent: `start`, `retire`, `close`, in this order."""

    def __init__(self, setting: Setting, drains: Iterable[Drain], note: Callable[[Iterable[Drain]], None]) -> None:
        """`drains` were in progress when the former leader's term ended. `note` is called with those in progress after
        each pass; it must be cheap."""
        self._setting = setting
        self._refused = RefusedHooks(setting.status_writer.write)
        self._stop = threading.Event()
        self._exported = threading.Event()
        self._threads: dict[str, threads.Thread] = {}
        self._open = False
        inherited = tuple(drains)
        known = Drains(inherited, Deletions(setting.cluster.deleted))
        peers = setting.datapath.peers
        far = FarLinks(peers, setting.datapath.observe())
        directly = DirectWay(peers, setting.underlay, setting.node_address, setting.tunnel_port)
        self._tunnel = TunnelKeeper(
            setting.tunnel.make, peers.open, setting.tunnel.payload, directly.look, lambda: far.mtu
        )
        self._echoes = EchoSender(setting.tunnel_port)
        self._heartbeat = Heartbeat(peers, self._echoes.send, observe=ECHO.observe, names=setting.cluster.names)
        self.reconciler = Reconciler(
            setting.links,
            setting.datapath,
            lambda: far.joined(setting.cluster.get(), setting.cluster.published(), self._tunnel.payload),
            drains=known,
        )
        self.reconciler.observe_with(TransitionLog(setting.status_writer.tell, inherited).note)
        self.reconciler.observe_with(lambda state: note(state.drains.values()))
        self.reconciler.observe_with(lambda _: setting.status_writer.wake())
        orphans = Orphans(
            setting.links.delete,
            lambda: self.reconciler.state,
            setting.cluster.existing,
        )
        loops = {
            "reconciler": self.reconciler.run,
            "sessions": self.reconciler.sessions.run,
            "confirmation": self.reconciler.confirm,
            "orphans": orphans.run,
            "tunnel": self._tunnel.run,
            "heartbeat": self._heartbeat.run,
        }
        if setting.links.tcx:
            shortcut = setting.datapath.shortcut
            shortcuts = Shortcuts(
                shortcut.number,
                lambda ifindex: setting.links.give_shortcut(ifindex, shortcut),
                setting.links.take_shortcuts,
            )
            self.reconciler.observe_with(shortcuts.note)
            loops["shortcuts"] = shortcuts.run
        self._loops = {name: partial(loop, self._stop) for name, loop in loops.items()}

    def start(self) -> None:
        """Begins to lead. The loop runs first, so that the first call finds it."""
        setting, reconciler = self._setting, self.reconciler
        setting.datapath.take_over()
        # First: without an address in the first status, the others would send nothing; and the filters' program sends
        # through the tunnel.
        self._tunnel.keep()
        for name, loop in self._loops.items():
            silent = HANGING_SECONDS if name == "reconciler" else threads.SILENT_SECONDS
            self._threads[name] = threads.start(name, loop, until=self._stop.is_set, silent=silent)
        reconciler.wake()
        folder = setting.run / Path(names.HOOK_SOCKET).parent.name
        open_to_relay(folder, names.RELAY)
        self._hooks = HookServer(folder / Path(names.HOOK_SOCKET).name, self._drain, names.RELAY)
        self._hooks.start()
        self._port = PortGiver(folder / Path(names.PORT_SOCKET).name, (names.HOOK_HOST, names.HOOK_PORT), names.RELAY)
        self._port.start()
        wiring = PodWiring(
            setting.links,
            lambda: setting.datapath.program_fd,
            PROGRAM,
            setting.folders,
            reconciler.links_changed,
            lambda: reconciler.state.links_by_namespace,
            self._tunnel.mtu,
        )
        self._cni = CniServer(setting.run / Path(names.CNI_SOCKET).name, wiring)
        self._cni.start()
        self._health = health.serve(
            names.HEALTH_PORT, healthy=threads.problem, ready=self._unready, address=names.HEALTH_HOST
        )
        self._metrics = MetricsServer(
            shared_port(setting.address, names.METRICS_PORT), setting.certificate, setting.access, setting.page
        )
        self._metrics.start()
        self._open = True

    @property
    def state(self) -> State:
        """After the last pass; empty once the term is retired."""
        return State() if self._stop.is_set() else self.reconciler.state

    @property
    def reachable(self) -> bool:
        """Whether other nodes reach this one through the tunnel."""
        return self._tunnel.there and not self._stop.is_set()

    @property
    def payload(self) -> int | None:
        """The MTU of interfaces whose frames fit through this node's end of the tunnel."""
        return self._tunnel.payload

    @property
    def hearing(self) -> Hearing:
        """Which of the other nodes answer; none are known once the term is retired."""
        return Hearing() if self._stop.is_set() else self._heartbeat.hearing

    @property
    def held(self) -> int:
        """Number of hooks that are not answered yet."""
        return self._hooks.held

    def retire(self) -> tuple[Drain, ...]:
        """Ends the loop, and leads frames back to the filters; returns the drains in progress."""
        self._stop.set()
        self.reconciler.wake()
        self._threads["reconciler"].join(LAST_PASS_SECONDS)  # the other loops change nothing that the next term sees
        self._setting.datapath.shut_shortcuts()
        self._setting.datapath.session_tables.export(0)
        threads.start("export", self._export_on, until=self._exported.is_set)
        return self.reconciler.drains.retire()

    def _export_on(self) -> None:
        """Brings the sessions that begin while another agent, perhaps of the version before, takes over."""
        until = time.monotonic() + EXPORT_SECONDS
        try:
            while time.monotonic() < until:
                since = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - EXPORT_OVERLAP_NS
                time.sleep(EXPORT_PAUSE)
                self._setting.datapath.session_tables.export(since)
        finally:
            self._exported.set()

    def close(self) -> None:
        """Stops listening; does nothing when called again."""
        if self._open:
            self._open = False
            self._port.stop()
            self._echoes.close()
            self._hooks.close()
            self._health.close()
            self._metrics.close()
            self._cni.stop()

    def _drain(self, drain_id: str, asked_at: float) -> Drain | None:
        try:
            return self.reconciler.drain(drain_id, asked_at, MAX_DEADLINE_SECONDS + HOOK_GRACE_SECONDS)
        except NotDeletedError as error:
            cluster = self.reconciler.state.cluster
            if replica := cluster.replicas.get(error.pod_uid) if cluster else None:
                self._refused.note(replica)
            raise

    def _unready(self) -> str | None:
        return None if self._setting.cluster.get() else "chains and pods have not been read from the API server yet"

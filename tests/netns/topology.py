"""A node with replicas made of network namespaces: real network stacks around the real program.

The host ends of all links are in the node's namespace; every replica has a namespace of its own. Links are made as the
CNI server makes them. The reconciler fills the maps, from the chain, the pods and the links: a test changes pods, and
never writes a map. The names of namespaces contain the test's process id. A run removes those that killed runs left.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from pyroute2 import netns

from controller.node.kernel.datapath import Datapath
from controller.node.kernel.links import Identity, Links
from controller.node.plane import replica as pod
from controller.node.plane.cluster import Cluster
from controller.node.plane.drain import Drain
from controller.node.plane.model import PROGRAM
from controller.node.reconcile.deletions import Deletions
from controller.node.reconcile.drains import Drains
from controller.node.reconcile.reconciler import Reconciler
from controller.node.reconcile.shortcuts import Shortcuts
from kube.api import ApiError
from sfc.chain import Chain
from sfc.reading import chain_of
from tests.netns.node import inside, opened, remove_leftovers

PREFIX = "sfcx-"
SO_RCVBUFFORCE = 33  # Python's socket module does not have it


@dataclass
class Replica:
    stage: str
    name: str
    """The pod's name and UID."""
    namespace: str
    slots: dict[str, int] = field(default_factory=dict)
    """By the name of the interface."""

    @property
    def drain_id(self) -> str:
        return self.name.encode().hex().ljust(32, "0")

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command], check=False, capture_output=True, text=True, timeout=60
        )
        assert not check or not done.returncode, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done.stdout

    def socket(self, *arguments: int) -> socket.socket:
        """Makes a socket in the replica's namespace. It stays there, whichever thread uses it."""
        with inside(self.namespace):
            return socket.socket(*arguments)


class Node:
    """A node with the data path to itself until it is closed. `clock` is the reconciler's, for drains."""

    def __init__(
        self, label: str, chain: Mapping[str, Any], datapath: Datapath, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.chain: Chain = chain_of(chain)
        self.replicas: list[Replica] = []
        self.pods: dict[str, pod.Replica] = {}
        self.api_is_away = False
        """Whether the API server does not answer. What it has shown before stays."""
        self._label = label
        self._slots: Iterator[int] = count(1)
        self._numbers = count(1)
        remove_leftovers(PREFIX)
        with ExitStack() as unfinished:
            self._cleanup = unfinished
            self._clock = clock
            self.namespace = self._namespace("node")
            with inside(self.namespace):
                self.links = Links()
            unfinished.callback(self.links.close)
            self.lead(datapath)
            unfinished.callback(self._clear)
            self._cleanup = unfinished.pop_all()

    def close(self) -> None:
        self._cleanup.close()

    def add(self, stage: str) -> Replica:
        """Makes a replica that is wired but does not serve yet."""
        name = f"{stage}-{next(self._numbers)}"
        added = Replica(stage, name, self._namespace(name))
        self.wire(added)
        self.replicas.append(added)
        return added

    def lead(self, datapath: Datapath, drains: Iterable[Drain] = ()) -> None:
        """An agent with this data path begins to lead the node, with the drains that were in progress: all that follows
        is its doing."""
        self.datapath = datapath
        known = Drains(drains, Deletions(self._deleted, self._clock))
        self.reconciler = Reconciler(self.links, datapath, self._cluster, self._clock, known)
        self.shortcuts = Shortcuts(
            datapath.shortcut.number,
            lambda ifindex: self.links.give_shortcut(ifindex, datapath.shortcut),
            self.links.take_shortcuts,
        )
        if self.links.tcx:
            self.reconciler.observe_with(self.shortcuts.note)

    def reconcile(self) -> None:
        self.reconciler.reconcile()

    def shorten(self) -> None:
        """Mends the shortcuts of all links, as the agent does soon after each pass."""
        for _ in self.shortcuts.mend():
            pass

    def wire(self, replica: Replica) -> None:
        """Makes the pod and its links, as CNI ADD does. Its namespace must exist."""
        stage = self.chain.stage(replica.stage)
        assert stage
        self.pods[replica.name] = pod.Replica(
            namespace=self.chain.namespace,
            name=replica.name,
            uid=replica.name,
            chain=self.chain.name,
            stage=replica.stage,
            ready=False,
            stopped=False,
            terminating=False,
            condition=None,
        )
        with opened(replica.namespace) as namespace:
            for interface in stage.interfaces:
                slot = replica.slots[interface.name] = next(self._slots)
                identity = Identity(replica.name, interface.name, replica.drain_id, slot)
                host = self.links.create(f"sfcx{slot}", identity, interface, namespace)
                self.links.attach(host.ifindex, slot, self.datapath.program_fd, PROGRAM)
                self.links.configure(interface, namespace)
        self.reconcile()

    def _deleted(self) -> set[str]:
        if self.api_is_away:
            raise ApiError(0, "NoAnswer", "away")
        return {each.uid for each in self.pods.values() if each.terminating}

    def become(self, replica: Replica, **fields: Any) -> None:
        """Changes fields of the pod in the API server's snapshot. The next pass sees them."""
        self.pods[replica.name] = replace(self.pods[replica.name], **fields)

    def serve(self, *replicas: Replica) -> None:
        for each in replicas:
            self.become(each, ready=True)
        self.reconcile()
        self.shorten()

    def drain(self, replica: Replica) -> None:
        self.become(replica, terminating=True)
        self.reconcile()

    def stop(self, replica: Replica) -> None:
        """The drain is over and the containers have ended. Their last packets may still be under way."""
        self.become(replica, stopped=True)
        self.reconcile()

    def remove(self, replica: Replica) -> None:
        """The pod is gone, drained or not: its links vanish, and then the agent makes a pass."""
        self.replicas.remove(replica)
        self._delete_links(replica)
        _delete_namespace(replica.namespace)
        del self.pods[replica.name]
        self.reconcile()

    def activity(self, replica: Replica) -> int:
        return sum(self.datapath.activity(list(replica.slots.values())).values())

    def sessions(self, replica: Replica) -> int:
        """Sessions that the replica has carried: chosen for, or opened by it."""
        traffic = self.datapath.counters.traffic(list(replica.slots.values()))
        return sum(each.sessions_chosen + each.sessions_opened for each in traffic.values())

    def _cluster(self) -> Cluster:
        return Cluster({(self.chain.namespace, self.chain.name): self.chain}, dict(self.pods))

    def _clear(self) -> None:
        """Clears the data path of this node's entries, because the next node uses it, too."""
        self.pods.clear()
        for replica in self.replicas:
            self._delete_links(replica)
        self.reconcile()

    def _delete_links(self, replica: Replica) -> None:
        for slot in replica.slots.values():
            self.links.delete(f"sfcx{slot}")

    def _namespace(self, name: str) -> str:
        namespace = f"{PREFIX}{os.getpid()}-{self._label}-{name}"
        netns.create(namespace)
        self._cleanup.callback(_delete_namespace, namespace)
        subprocess.run(["ip", "-n", namespace, "link", "set", "lo", "up"], check=True)
        return namespace


def _delete_namespace(namespace: str) -> None:
    if namespace in netns.listnetns():
        netns.remove(namespace)


class Echo:
    """A server in a replica: sends its name, then all that it receives, over TCP and UDP, IPv4 and IPv6."""

    PORT = 7

    def __init__(self, replica: Replica) -> None:
        self._name = replica.name.encode().ljust(16)
        self._listener = replica.socket(socket.AF_INET6, socket.SOCK_STREAM)
        self._listener.bind(("", self.PORT))
        self._listener.listen(256)
        self._datagrams = replica.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._datagrams.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
        self._datagrams.bind(("", self.PORT))
        for serve in (self._accept, self._answer):
            threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._datagrams.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            connection.sendall(self._name)
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def _answer(self) -> None:
        while True:
            try:
                data, sender = self._datagrams.recvfrom(1 << 16)
                self._datagrams.sendto(self._name + data, sender)
            except OSError:
                return

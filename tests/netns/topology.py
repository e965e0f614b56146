"""A node with replicas made of network namespaces: real network stacks around the real program.

The host ends of all links are in one namespace, the node's; every replica has one of its own. Addresses, MACs,
neighbours and cross-connection numbers come from a chain object, as they do on a node. Namespaces carry the test's
process id in their name, and those of a run that was killed are removed by the next.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, netns

from controller import maglev
from controller.datapath import Datapath
from controller.model import PROGRAM, LinkEntry, LinkState
from sfc.chain import Chain, InterfaceRef, Side, chain_of

PREFIX = "sfcx-"
INGRESS = 0xFFFFFFF2
FILTER_PRIORITY = 0x5FC


@dataclass
class Replica:
    stage: str
    name: str
    namespace: str
    slots: dict[str, int] = field(default_factory=dict)
    """By interface."""

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command], check=False, capture_output=True, text=True, timeout=60
        )
        assert not check or not done.returncode, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done.stdout

    def socket(self, *arguments: int) -> socket.socket:
        """A socket of the replica's namespace; it stays there whoever uses it."""
        with inside(self.namespace):
            return socket.socket(*arguments)


_slots = count(1)
"""Never given out twice, so that nodes may share a data path."""


class Node:
    def __init__(self, label: str, chain: Mapping[str, Any], datapath: Datapath) -> None:
        self.chain: Chain = chain_of(chain)
        self.datapath = datapath
        self.replicas: list[Replica] = []
        self._label = label
        self._serving: set[int] = set()
        self._numbers = count(1)
        self._cleanup = ExitStack()
        _remove_leftovers()
        with self._cleanup as unfinished:
            self.namespace = self._namespace("node")
            self._netlink = IPRoute(netns=self.namespace)
            unfinished.callback(self._netlink.close)
            unfinished.callback(self._clear)
            self._set_neighbours()
            self._cleanup = unfinished.pop_all()

    def close(self) -> None:
        self._cleanup.close()

    def add(self, stage: str) -> Replica:
        """A new replica, wired but not yet serving."""
        name = f"{stage}-{next(self._numbers)}"
        replica = Replica(stage, name, self._namespace(name))
        found = self.chain.stage(stage)
        assert found
        for interface in found.interfaces:
            slot = replica.slots[interface.name] = next(_slots)
            host = f"sfcx{slot}"
            _ip(
                self.namespace,
                f"link add {host} type veth peer name {interface.name} address {interface.mac}"
                f" netns {replica.namespace}",
                f"link set {host} up",
            )
            _ip(
                replica.namespace,
                f"link set {interface.name} up",
                *(f"address add {address} dev {interface.name}{_nodad(address)}" for address in interface.addresses),
                *(f"route add {route.dst} via {route.gw}" for route in interface.routes),
            )
            attached = self.chain.attachment(InterfaceRef(stage, interface.name))
            if attached:
                connection, side = attached
                ifindex = self._netlink.link_lookup(ifname=host)[0]
                self.datapath.set_link(slot, LinkEntry(ifindex, connection.number, side, LinkState.WIRED))
                self._attach(ifindex, slot)
        self.replicas.append(replica)
        return replica

    def serve(self, *replicas: Replica) -> None:
        for replica in replicas:
            self._set_state(replica, LinkState.SERVING)
            self._serving.update(replica.slots.values())
        self._set_targets()

    def drain(self, replica: Replica) -> None:
        self._serving.difference_update(replica.slots.values())
        self._set_targets()
        self._set_state(replica, LinkState.DRAINING)

    def remove(self, replica: Replica) -> None:
        """As when a pod is gone: its sessions choose again, its namespace vanishes, its slots are free."""
        self._set_state(replica, LinkState.GONE)
        self._serving.difference_update(replica.slots.values())
        self._set_targets()
        self.replicas.remove(replica)
        _delete_namespace(replica.namespace)
        for slot in replica.slots.values():
            self.datapath.clear_link(slot)

    def activity(self, replica: Replica) -> int:
        return sum(self.datapath.activity(list(replica.slots.values())).values())

    def sessions(self, replica: Replica) -> int:
        """Sessions that the replica has carried: chosen for, or opened by it."""
        traffic = self.datapath.traffic(list(replica.slots.values()))
        return sum(each.sessions_chosen + each.sessions_opened for each in traffic.values())

    def _namespace(self, name: str) -> str:
        namespace = f"{PREFIX}{os.getpid()}-{self._label}-{name}"
        netns.create(namespace)
        self._cleanup.callback(_delete_namespace, namespace)
        _ip(namespace, "link set lo up")
        return namespace

    def _attach(self, ifindex: int, slot: int) -> None:
        self._netlink.tc("add", "clsact", ifindex)
        self._netlink.tc(
            "replace-filter",
            "bpf",
            ifindex,
            handle=1,
            prio=FILTER_PRIORITY,
            parent=INGRESS,
            fd=self.datapath.program_fd,
            name=PROGRAM,
            classid=slot,
            direct_action=True,
        )

    def _clear(self) -> None:
        for replica in self.replicas:
            for slot in replica.slots.values():
                self.datapath.clear_link(slot)
        for connection in self.chain.cross_connections:
            for side in Side:
                self.datapath.clear_targets(connection.number, side)
                for address in self.chain.neighbours(connection.end(side)):
                    self.datapath.clear_neighbour(connection.number, side, address)
            self.datapath.forget(connection.number)

    def _set_state(self, replica: Replica, state: LinkState) -> None:
        links = self.datapath.observe().links
        for slot in replica.slots.values():
            if slot in links:
                entry = links[slot]
                self.datapath.set_link(slot, LinkEntry(entry.ifindex, entry.connection, entry.side, state))

    def _set_targets(self) -> None:
        identity = {slot: replica.name for replica in self.replicas for slot in replica.slots.values()}
        links = self.datapath.observe().links
        for connection in self.chain.cross_connections:
            for side in Side:
                serving = [
                    (identity[slot], slot)
                    for slot, link in links.items()
                    if slot in self._serving and (link.connection, link.side) == (connection.number, side)
                ]
                if serving:
                    self.datapath.set_targets(connection.number, side, maglev.table(serving))
                else:
                    self.datapath.clear_targets(connection.number, side)

    def _set_neighbours(self) -> None:
        for connection in self.chain.cross_connections:
            for side in Side:
                for address, mac in self.chain.neighbours(connection.end(side)).items():
                    self.datapath.set_neighbour(connection.number, side, address, mac)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """The calling thread is in the namespace meanwhile."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    netns.setns(namespace, flags=0)
    try:
        yield
    finally:
        netns.setns(before)
        os.close(before)


def _ip(namespace: str, *commands: str) -> None:
    batch = "".join(f"{command}\n" for command in commands)
    subprocess.run(["ip", "-n", namespace, "-batch", "-"], input=batch, text=True, check=True)


def _nodad(address: str) -> str:
    """`ip` warns of the word with IPv4 addresses."""
    return " nodad" if ":" in address else ""


def _delete_namespace(namespace: str) -> None:
    if namespace in netns.listnetns():
        netns.remove(namespace)


def _remove_leftovers() -> None:
    for namespace in netns.listnetns():
        owner = re.match(rf"{PREFIX}(\d+)-", namespace)
        if owner and not Path("/proc", owner[1]).exists():
            _delete_namespace(namespace)


class Echo:
    """A server in a replica: says who it is, then sends back whatever it receives, over TCP and UDP, IPv4 and IPv6."""

    PORT = 7

    def __init__(self, replica: Replica) -> None:
        self._name = replica.name.encode().ljust(16)
        self._listener = replica.socket(socket.AF_INET6, socket.SOCK_STREAM)
        self._listener.bind(("", self.PORT))
        self._listener.listen(256)
        self._datagrams = replica.socket(socket.AF_INET6, socket.SOCK_DGRAM)
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
        with connection:
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

"""The programs in the replicas of a node: network functions, echo servers, and clients that notice every fault.

All replicas of a stage have the same addresses and MACs. Each client and NAT uses source ports of its own, so that no
two replicas send the same five-tuple.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

from controller.node.kernel.datapath import Datapath
from sfc.chain import InterfaceRef
from tests.netns.topology import Echo, Node, Replica

SLICES, SLICE = 30, 2048
FIRST_PORT = 2048

QUICK = "sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0"
"""Otherwise many traceroutes at the same time wait for their answers."""
ROUTER = "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
BRIDGE = """
ip link add bridge type bridge
ip link set {left} master bridge
ip link set {right} master bridge
ip link set bridge up
"""
STATEFUL = """
sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0
nft -f - <<END
table inet firewall {{
  counter stranger {{ }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct state new tcp flags & (fin | syn | rst | ack) == syn accept
    ct state new meta l4proto {{ udp, icmp, icmpv6 }} accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report }} accept
    meta l4proto {{ tcp, udp }} counter name stranger
  }}
}}
END
"""
NAT = """
nft -f - <<END
table inet nat {{
  chain postrouting {{
    type nat hook postrouting priority srcnat
    oifname {right} meta l4proto {{ tcp, udp }} masquerade to :{first}-{last}
    oifname {right} masquerade
  }}
}}
END
"""
SCRIPTS = {
    "client": "sysctl -qw net.ipv4.ip_local_port_range='{first} {last}'",
    "bridge": BRIDGE,
    "watchful bridge": BRIDGE + STATEFUL,  # br_netfilter shows bridged packets to the inet family
    "router": ROUTER,
    "firewall": ROUTER + STATEFUL,
    "nat": ROUTER + NAT,
    "server": "",
}
TRANSPARENT = ("bridge", "watchful bridge")
STATELESS = ("bridge", "router")
LONG = {"deadlineSeconds": 1_000_000}
"""The drain of functions whose sessions cannot move to another replica: it lasts until they are idle."""


class World:
    """A node with the chain client → functions → server. `functions` names a script (SCRIPTS) by stage."""

    def __init__(
        self,
        label: str,
        functions: Mapping[str, str],
        datapath: Datapath,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = Node(label, chain_of(label, functions), datapath, clock)
        self.functions = functions
        self._slices = count()
        self._servers: list[Echo] = []
        self._dropped_before: dict[tuple[int, str], int] = {}

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(stage.name for stage in self.node.chain.stages)

    def address(self, stage: str, interface: str, family: int) -> str:
        """Without prefix length; `family` is 4 or 6."""
        found = self.node.chain.interface(InterfaceRef(stage, interface))
        assert found
        return next(str(a.ip) for a in map(ipaddress.ip_interface, found.addresses) if a.version == family)

    def mac(self, stage: str, interface: str) -> str:
        found = self.node.chain.interface(InterfaceRef(stage, interface))
        assert found
        return found.mac

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self.node.close()

    def add(self, stage: str) -> Replica:
        """Makes a replica that works, but does not serve yet."""
        replica = self.node.add(stage)
        self.start(replica)
        if stage == "server":
            self._servers.append(Echo(replica))
        return replica

    def start(self, replica: Replica) -> None:
        """Starts the stage's function in the replica."""
        script = SCRIPTS[self.functions.get(replica.stage, replica.stage)]
        first = FIRST_PORT + SLICE * (next(self._slices) % SLICES) if "{first}" in script else 0
        left, right = (*replica.slots, *replica.slots)[:2]
        settings = {"left": left, "right": right, "first": first, "last": first + SLICE - 1}
        replica.run("sh", "-ec", f"{QUICK}\n{script.format(**settings)}")

    def of(self, stage: str) -> list[Replica]:
        return [replica for replica in self.node.replicas if replica.stage == stage]

    def connect(self, client: Replica, server: tuple[str, int]) -> Connection:
        return Connection(client, server)

    def begin(self) -> None:
        """From here on nothing may be dropped; until all serve, what the stacks say by themselves finds no target."""
        self._dropped_before = self.node.datapath.counters.drops()

    def dropped(self) -> dict[tuple[int, str], int]:
        """The drops in this chain since `begin`. Packets of a replica whose namespace is dying belong to no chain."""
        before = self._dropped_before
        now = self.node.datapath.counters.drops()
        ours = set(self.node.reconciler.state.plan.numbers.of.values())
        return {key: n for key, n in now.items() if key[0] in ours and n > before.get(key, 0)}

    def carried(self) -> dict[str, int]:
        """Sessions, by replica."""
        return {replica.name: self.node.sessions(replica) for replica in self.node.replicas}

    def strangers(self, stage: str) -> int:
        """Packets that the stateful functions of a stage refused, because they belong to no connection they know."""
        shown = [replica.run("nft", "list", "counter", "inet", "firewall", "stranger") for replica in self.of(stage)]
        return sum(int(re.findall(r"packets (\d+)", each)[0]) for each in shown)


@contextmanager
def world_of(
    label: str,
    functions: Mapping[str, str],
    datapath: Datapath,
    replicas: int | Mapping[str, int],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[World]:
    """A world with so many replicas of each stage, all serving."""
    world = World(label, functions, datapath, clock)
    number = replicas if isinstance(replicas, Mapping) else dict.fromkeys(world.stages, replicas)
    try:
        world.node.serve(*(world.add(stage) for stage in world.stages for _ in range(number[stage])))
        world.begin()
        yield world
    finally:
        world.close()


class Connection:
    """A TCP connection to the chain's far end that notices when a byte is lost."""

    def __init__(self, client: Replica, server: tuple[str, int]) -> None:
        self._socket = client.socket(family_of(server[0]), socket.SOCK_STREAM)
        self._socket.settimeout(5)
        self._socket.connect(server)
        self.server = self._receive(16).decode().strip()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def echo(self, data: bytes) -> bool:
        self.send(data)
        return self._receive(len(data)) == data

    def close(self) -> None:
        self._socket.close()

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            assert more, "the connection was closed"
            data += more
        return data


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def chain_of(label: str, functions: Mapping[str, str]) -> dict[str, Any]:
    """The chain's object. On each segment the downstream end is host 1, the upstream end host 2."""
    segment = 1
    stages = [_stage("client", "client", lan=_interface(1, 2, _everywhere(1, 1)))]
    for name, function in functions.items():
        if function in TRANSPARENT:
            stages.append(_stage(name, function, left={}, right={}))
            continue
        back = [route for earlier in range(1, segment) for route in _back(earlier, segment)]
        left, right = _interface(segment, 1, back), _interface(segment + 1, 2, _everywhere(segment + 1, 1))
        stages.append(_stage(name, function, left=left, right=right))
        segment += 1
    stages.append(_stage("server", "server", wan=_interface(segment, 1, _everywhere(segment, 2))))
    return {"metadata": {"namespace": "telco", "name": "edge", "uid": label}, "spec": {"stages": stages}}


def _stage(name: str, function: str, **interfaces: dict[str, Any]) -> dict[str, Any]:
    stage = {"name": name, "interfaces": [{"name": each, **fields} for each, fields in interfaces.items()]}
    return stage if function in STATELESS else stage | {"drain": LONG}


def _interface(segment: int, host: int, routes: list[dict[str, str]]) -> dict[str, Any]:
    return {"addresses": [f"10.{segment}.0.{host}/24", f"fd00:{segment}::{host}/64"], "routes": routes}


def _everywhere(segment: int, gateway: int) -> list[dict[str, str]]:
    return [
        {"dst": "0.0.0.0/0", "gw": f"10.{segment}.0.{gateway}"},
        {"dst": "::/0", "gw": f"fd00:{segment}::{gateway}"},
    ]


def _back(segment: int, through: int) -> list[dict[str, str]]:
    return [
        {"dst": f"10.{segment}.0.0/24", "gw": f"10.{through}.0.2"},
        {"dst": f"fd00:{segment}::/64", "gw": f"fd00:{through}::2"},
    ]

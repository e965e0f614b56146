"""Replicas of a stage share their addresses, but never receive each other's frames, whatever a replica sends.

Every frame carries a unique mark, and so does an answer to it. Captures in all replicas' namespaces show where it went.
At most one replica of each stage may receive the mark, and in the sender's own stage only the sender.
"""

from __future__ import annotations

import random
import re
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from controller.node.kernel.datapath import Datapath
from controller.node.plane.model import LinkState
from tests.netns.topology import SO_RCVBUFFORCE, Echo, Replica
from tests.netns.world import World, world_of

BROADCAST = "ff:ff:ff:ff:ff:ff"
MULTICAST, MULTICAST6 = "01:00:5e:00:00:fb", "33:33:00:00:00:01"
ROUNDS = 3
PACKET_OUTGOING = 4


@dataclass(frozen=True)
class Talk:
    """The parts of a frame: the sender's addresses, those across the chain, and the frame's mark, as bytes of a
    payload or as an address that nobody has."""

    mac: str
    other_mac: str
    ip: str
    other_ip: str
    ip6: str
    other_ip6: str
    number: int

    @property
    def payload(self) -> Raw:
        return Raw(b"mark%06d" % self.number)

    @property
    def marked_ip(self) -> str:
        return f"10.77.{self.number >> 8}.{self.number & 255}"

    @property
    def marked_ip6(self) -> str:
        return f"fd00:77::{self.number:x}"

    def ether(self, dst: str) -> Packet:
        return Ether(src=self.mac, dst=dst)

    def arp(self, op: str, dst: str, source: str, target: str) -> Packet:
        return self.ether(dst) / ARP(op=op, hwsrc=self.mac, psrc=source, pdst=target)

    def nd(self, message: Packet, source: str) -> Packet:
        return self.ether(MULTICAST6) / IPv6(src=source, dst="ff02::1", hlim=255) / message


MARK = re.compile(rb"mark(\d{6})|\x0a\x4d(..)|\xfd\x00\x00\x77" + bytes(10) + rb"(..)", re.DOTALL)

KINDS: dict[str, Callable[[Talk], Packet]] = {
    "broadcast IPv4": lambda t: t.ether(BROADCAST) / IP(src=t.ip, dst="255.255.255.255") / UDP(dport=9) / t.payload,
    "multicast IPv4": lambda t: t.ether(MULTICAST) / IP(src=t.ip, dst="224.0.0.251") / UDP(dport=5353) / t.payload,
    "multicast IPv6": lambda t: t.ether(MULTICAST6) / IPv6(src=t.ip6, dst="ff02::1") / UDP(dport=5353) / t.payload,
    "broadcast of an unknown type": lambda t: Ether(src=t.mac, dst=BROADCAST, type=0x88B5) / t.payload,
    "multicast of an unknown type": lambda t: Ether(src=t.mac, dst="01:80:c2:00:00:0e", type=0x88CC) / t.payload,
    "ARP for a known address": lambda t: t.arp("who-has", BROADCAST, t.marked_ip, t.other_ip),
    "ARP for an unknown address": lambda t: t.arp("who-has", BROADCAST, t.ip, t.marked_ip),
    "ARP for the own address": lambda t: t.arp("who-has", BROADCAST, t.marked_ip, t.ip),
    "gratuitous ARP": lambda t: t.arp("who-has", BROADCAST, t.marked_ip, t.marked_ip),
    "gratuitous ARP reply": lambda t: t.arp("is-at", BROADCAST, t.marked_ip, t.marked_ip),
    "ARP reply": lambda t: t.arp("is-at", t.other_mac, t.marked_ip, t.other_ip),
    "solicitation for a known address": lambda t: t.nd(
        ICMPv6ND_NS(tgt=t.other_ip6) / ICMPv6NDOptSrcLLAddr(lladdr=t.mac), t.marked_ip6
    ),
    "solicitation for an unknown address": lambda t: t.nd(
        ICMPv6ND_NS(tgt=t.marked_ip6) / ICMPv6NDOptSrcLLAddr(lladdr=t.mac), t.ip6
    ),
    "duplicate address detection": lambda t: t.nd(ICMPv6ND_NS(tgt=t.marked_ip6), "::"),
    "unsolicited advertisement": lambda t: t.nd(
        ICMPv6ND_NA(tgt=t.marked_ip6, R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=t.mac), t.marked_ip6
    ),
    "router solicitation": lambda t: t.nd(ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=t.mac) / t.payload, "fe80::77"),
    "router advertisement": lambda t: t.nd(ICMPv6ND_RA(routerlifetime=0) / t.payload, "fe80::77"),
    "ping": lambda t: t.ether(t.other_mac) / IP(src=t.ip, dst=t.other_ip) / ICMP(id=t.number) / t.payload,
    "ping of IPv6": lambda t: (
        t.ether(t.other_mac) / IPv6(src=t.ip6, dst=t.other_ip6) / ICMPv6EchoRequest(id=t.number, data=bytes(t.payload))
    ),
    "UDP": lambda t: t.ether(t.other_mac) / IP(src=t.ip, dst=t.other_ip) / UDP(sport=t.number, dport=9) / t.payload,
    "TCP": lambda t: t.ether(t.other_mac) / IP(src=t.ip, dst=t.other_ip) / TCP(sport=t.number, dport=9) / t.payload,
    "SCTP": lambda t: t.ether(t.other_mac) / IP(src=t.ip, dst=t.other_ip) / SCTP(sport=t.number, dport=9) / t.payload,
    "GRE": lambda t: t.ether(t.other_mac) / IP(src=t.ip, dst=t.other_ip) / GRE() / t.payload,
    "VLAN": lambda t: t.ether(t.other_mac) / Dot1Q(vlan=7) / IP(src=t.ip, dst=t.other_ip) / UDP() / t.payload,
    "VLAN broadcast": lambda t: t.ether(BROADCAST) / Dot1Q(vlan=7) / IP(src=t.ip, dst="255.255.255.255") / t.payload,
    "IPv4 to the own address": lambda t: t.ether(t.mac) / IP(src=t.ip, dst=t.ip) / UDP(dport=9) / t.payload,
    "IPv6 to the own address": lambda t: t.ether(t.mac) / IPv6(src=t.ip6, dst=t.ip6) / UDP(dport=9) / t.payload,
    "anything to the own MAC": lambda t: Ether(src=t.mac, dst=t.mac, type=0x88B5) / t.payload,
    "IPv4 to a stranger's MAC": lambda t: t.ether("02:77:00:00:00:01") / IP(src=t.ip, dst="10.1.0.99") / t.payload,
}


@pytest.fixture(scope="module")
def world(datapath: Datapath) -> Iterator[World]:
    """Three serving replicas of each stage, one that does not serve yet, and one that drains while it is used."""
    with world_of("apart", {"firewall": "bridge"}, datapath, replicas=4) as world:
        server = (world.address("server", "wan", 4), Echo.PORT)
        used = [world.connect(world.of("client")[0], server) for _ in range(30)]
        for stage in world.stages:
            world.add(stage)
            world.node.become(world.of(stage)[0], terminating=True)
        world.node.reconcile()
        states = Counter(link.state for link in world.node.datapath.observe().links.values())
        assert states == {LinkState.SERVING: 12, LinkState.WIRED: 4, LinkState.DRAINING: 4}
        yield world
        for each in used:
            each.close()


Hearer = tuple[str, str]
"""(stage, replica)"""


class Captures:
    """Records the frames that replicas receive, at all of their interfaces."""

    def __init__(self, world: World) -> None:
        self._sockets: list[tuple[Hearer, socket.socket]] = []
        for replica in world.node.replicas:
            for interface in replica.slots:
                tap = raw_socket(replica, interface)
                tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
                tap.setblocking(False)
                self._sockets.append(((replica.stage, replica.name), tap))

    def close(self) -> None:
        for _, tap in self._sockets:
            tap.close()

    def heard(self) -> dict[int, set[Hearer]]:
        """The receivers, by mark."""
        heard: dict[int, set[Hearer]] = defaultdict(set)
        for hearer, tap in self._sockets:
            for frame in _received(tap):
                for digits, low, low6 in MARK.findall(frame):
                    heard[int(digits) if digits else int.from_bytes(low or low6, "big")].add(hearer)
        return heard


def _received(tap: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            frame, (_, _, kind, *_) = tap.recvfrom(2048)
        except BlockingIOError:
            return
        if kind != PACKET_OUTGOING:
            yield frame


def raw_socket(replica: Replica, interface: str) -> socket.socket:
    raw = replica.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
    raw.bind((interface, 3))
    return raw


def talk_of(world: World, stage: str, interface: str, number: int) -> Talk:
    """A transparent function has no addresses, so it uses the client's."""
    here, there = (("server", "wan"), ("client", "lan"))[:: 1 if stage == "server" else -1]
    return Talk(
        mac=world.mac(stage, interface),
        other_mac=world.mac(*there),
        ip=world.address(*here, 4),
        other_ip=world.address(*there, 4),
        ip6=world.address(*here, 6),
        other_ip6=world.address(*there, 6),
        number=number,
    )


def spoken(world: World, kind: Callable[[Talk], Packet], first: int) -> dict[int, Hearer]:
    """Every replica sends some frames of a kind from each of its interfaces; the senders, by mark."""
    senders: dict[int, Hearer] = {}
    for replica in world.node.replicas:
        for interface in replica.slots:
            with raw_socket(replica, interface) as raw:
                for _ in range(ROUNDS):
                    number = first + len(senders)
                    raw.send(bytes(kind(talk_of(world, replica.stage, interface, number))))
                    senders[number] = (replica.stage, replica.name)
    return senders


def assert_apart(senders: dict[int, Hearer], heard: dict[int, set[Hearer]]) -> None:
    for number, sender in senders.items():
        by_stage: dict[str, set[str]] = defaultdict(set)
        for stage, name in heard.get(number, set()):
            by_stage[stage].add(name)
        assert by_stage[sender[0]] <= {sender[1]}, f"{sender} was heard by its own side: {by_stage}"
        assert all(len(names) <= 1 for names in by_stage.values()), f"{sender} was heard by several: {by_stage}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_reaches_one_replica_of_the_other_side_and_none_of_its_own(world: World, kind: str) -> None:
    with ExitStack() as cleanup:
        captures = Captures(world)
        cleanup.callback(captures.close)

        senders = spoken(world, KINDS[kind], first=1 + 200 * list(KINDS).index(kind))
        heard = captures.heard()

    if kind == "GRE":  # one session for all: errors about the frame of one that is not ready go to one that is
        senders = {number: sender for number, sender in senders.items() if world.node.pods[sender[1]].ready}
    assert heard.keys() & senders.keys(), "no capture saw anything"
    assert_apart(senders, heard)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_frame_says_its_own_side_does_not_hear_it(world: World, seed: int) -> None:
    """Random EtherTypes; random, shared or group MACs; random bytes instead of a header."""
    choice = random.Random(seed)

    def anything(talk: Talk) -> Packet:
        macs = [talk.mac, talk.other_mac, BROADCAST, MULTICAST, MULTICAST6, choice.randbytes(6).hex(":")]
        types = [0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8, choice.randrange(1536, 65536)]
        body = Raw(choice.randbytes(choice.randrange(200)))
        return Ether(src=talk.mac, dst=choice.choice(macs), type=choice.choice(types)) / body / talk.payload

    with ExitStack() as cleanup:
        captures = Captures(world)
        cleanup.callback(captures.close)

        senders = spoken(world, anything, first=20_000 + 200 * seed)
        heard = captures.heard()

    assert heard.keys() & senders.keys(), "no capture saw anything"
    assert_apart(senders, heard)

"""Frames of one conversation between the two sides of a cross-connection, as either side sends them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Timestamp
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
from scapy.packet import Packet, Raw

from sfc.chain import Side

MAC = {Side.UPSTREAM: "02:00:00:00:00:01", Side.DOWNSTREAM: "02:00:00:00:00:02"}
ADDRESS = {Side.UPSTREAM: "10.1.0.2", Side.DOWNSTREAM: "10.1.0.1"}
ADDRESS6 = {Side.UPSTREAM: "fd00::2", Side.DOWNSTREAM: "fd00::1"}
BROADCAST = "ff:ff:ff:ff:ff:ff"

Conversation = Callable[[Side, int], Packet]
"""The frame that a side sends in the conversation of a number: the same number, the same conversation."""


def ether(sender: Side, **fields: Any) -> Packet:
    return Ether(**{"src": MAC[sender], "dst": MAC[sender.other], **fields})


def ip(sender: Side, **fields: Any) -> Packet:
    return ether(sender) / IP(**{"src": ADDRESS[sender], "dst": ADDRESS[sender.other], **fields})


def tcp(sender: Side, number: int = 0, flags: str = "A", **ip_fields: Any) -> Packet:
    return ip(sender, **ip_fields) / TCP(**_ports(sender, 20000 + number, 80), flags=flags) / b"data"


def udp(sender: Side, number: int = 0) -> Packet:
    return ip(sender) / UDP(**_ports(sender, 20000 + number, 53)) / b"question"


def ping(sender: Side, number: int = 0, pinger: Side = Side.UPSTREAM) -> Packet:
    kind = "echo-request" if sender == pinger else "echo-reply"
    return ip(sender) / ICMP(type=kind, id=number, seq=1) / b"payload"


def tcp_with_options(sender: Side, number: int = 0) -> Packet:
    return tcp(sender, number, options=[IPOption_Timestamp()])


def gre(sender: Side, number: int = 0) -> Packet:
    return _between(sender, number) / GRE() / IP() / UDP()


def unknown_protocol(sender: Side, number: int = 0) -> Packet:
    return _between(sender, number, proto=253) / Raw(b"anything")


def last_fragment(sender: Side, number: int = 0) -> Packet:
    return _between(sender, number, proto=17, frag=185) / Raw(b"the rest")


def arp(sender: Side, number: int = 0, asker: Side = Side.UPSTREAM) -> Packet:
    """A question between hosts that the cross-connection does not know, and its answer."""
    host = {asker: f"10.9.0.{number % 250 + 1}", asker.other: "10.9.1.1"}
    question = ARP(op="who-has", hwsrc=MAC[sender], psrc=host[sender], pdst=host[sender.other])
    if sender == asker:
        return ether(sender, dst=BROADCAST) / question
    return ether(sender) / ARP(op="is-at", hwsrc=MAC[sender], psrc=host[sender], hwdst=MAC[asker], pdst=host[asker])


def ipv6(sender: Side, number: int = 0) -> Packet:
    return _mac_pair(sender, number) / IPv6(src=ADDRESS6[sender], dst=ADDRESS6[sender.other]) / ICMPv6EchoRequest()


def vlan(sender: Side, number: int = 0) -> Packet:
    return _mac_pair(sender, number) / Dot1Q(vlan=10) / IP() / UDP()


def mpls(sender: Side, number: int = 0) -> Packet:
    return _mac_pair(sender, number) / MPLS(label=3) / IP() / UDP()


def llc(sender: Side, number: int = 0) -> Packet:
    """A length where others have an EtherType."""
    return _mac_pair(sender, number, type=40) / Raw(bytes(40))


WITH_SESSION: dict[str, Conversation] = {
    "TCP": tcp,
    "TCP with IP options": tcp_with_options,
    "UDP": udp,
    "ICMP echo": ping,
    "GRE": gre,
    "unknown IP protocol": unknown_protocol,
    "IPv4 fragment": last_fragment,
    "ARP for an unknown address": arp,
}

WITHOUT_SESSION: dict[str, Conversation] = {
    "IPv6": ipv6,
    "VLAN": vlan,
    "MPLS": mpls,
    "802.3 length": llc,
}


def fragments(sender: Side, size: int = 4000) -> list[Packet]:
    whole = IP(bytes(udp(sender)[IP])) / Raw(bytes(size))
    return [ether(sender) / part for part in whole.fragment(fragsize=1400)]  # type: ignore[no-untyped-call]


def _ports(sender: Side, upstream: int, downstream: int) -> dict[str, Any]:
    source, destination = (upstream, downstream) if sender == Side.UPSTREAM else (downstream, upstream)
    return {"sport": source, "dport": destination}


def _between(sender: Side, number: int, **fields: Any) -> Packet:
    """IP without ports: the conversation is told by the upstream address."""
    address = ADDRESS | {Side.UPSTREAM: f"10.2.0.{number % 250 + 1}"}
    return ether(sender) / IP(**{"src": address[sender], "dst": address[sender.other], **fields})


def _mac_pair(sender: Side, number: int, **fields: Any) -> Packet:
    mac = MAC | {Side.UPSTREAM: f"02:00:00:00:01:{number % 256:02x}"}
    return Ether(**{"src": mac[sender], "dst": mac[sender.other], **fields})

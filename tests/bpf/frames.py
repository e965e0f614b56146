"""Frames of one conversation between the two sides of a cross-connection, as either side sends them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Timestamp
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
from scapy.layers.sctp import SCTP
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


def sctp(sender: Side, number: int = 0) -> Packet:
    return ip(sender) / SCTP(**_ports(sender, 20000 + number, 38412)) / Raw(bytes(16))


def ip6(sender: Side, **fields: Any) -> Packet:
    return ether(sender) / IPv6(**{"src": ADDRESS6[sender], "dst": ADDRESS6[sender.other], **fields})


def tcp6(sender: Side, number: int = 0, flags: str = "A") -> Packet:
    return ip6(sender) / TCP(**_ports(sender, 20000 + number, 80), flags=flags) / b"data"


def udp6(sender: Side, number: int = 0) -> Packet:
    return ip6(sender) / UDP(**_ports(sender, 20000 + number, 53)) / b"question"


def sctp6(sender: Side, number: int = 0) -> Packet:
    return ip6(sender) / SCTP(**_ports(sender, 20000 + number, 38412)) / Raw(bytes(16))


def ping6(sender: Side, number: int = 0, pinger: Side = Side.UPSTREAM) -> Packet:
    kind = ICMPv6EchoRequest if sender == pinger else ICMPv6EchoReply
    return ip6(sender) / kind(id=number, seq=1) / b"payload"


def udp6_behind_extensions(sender: Side, number: int = 0) -> Packet:
    extensions = IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=["fd00::9"]) / IPv6ExtHdrDestOpt()
    return ip6(sender) / extensions / UDP(**_ports(sender, 20000 + number, 53))


def atomic_fragment6(sender: Side, number: int = 0) -> Packet:
    """Whole in spite of its fragment header (RFC 6946)."""
    return ip6(sender) / IPv6ExtHdrFragment(id=number) / UDP(**_ports(sender, 20000 + number, 53))


def unknown_protocol6(sender: Side, number: int = 0) -> Packet:
    return _between6(sender, number, nh=253) / Raw(b"anything")


def last_fragment6(sender: Side, number: int = 0) -> Packet:
    return _between6(sender, number) / IPv6ExtHdrFragment(nh=17, offset=185) / Raw(b"the rest")


def too_many_extensions(sender: Side, number: int = 0) -> Packet:
    packet = _between6(sender, number)
    for _ in range(10):
        packet /= IPv6ExtHdrDestOpt()
    return packet / UDP()


def nd(sender: Side, number: int = 0, asker: Side = Side.UPSTREAM) -> Packet:
    """A question between hosts that the cross-connection does not know, and its answer."""
    host = {asker: f"fd00:9::{number % 250 + 1:x}", asker.other: "fd00:9::1:1"}
    if sender == asker:
        question = ICMPv6ND_NS(tgt=host[sender.other])
        return (
            ether(sender, dst="33:33:ff:01:00:01") / IPv6(src=host[sender], dst="ff02::1:ff01:1", hlim=255) / question
        )
    answer = ICMPv6ND_NA(tgt=host[sender], R=0, S=1)
    return ether(sender) / IPv6(src=host[sender], dst=host[asker], hlim=255) / answer


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
    "SCTP": sctp,
    "ARP for an unknown address": arp,
    "IPv6 TCP": tcp6,
    "IPv6 UDP": udp6,
    "IPv6 SCTP": sctp6,
    "ICMPv6 echo": ping6,
    "IPv6 UDP behind extension headers": udp6_behind_extensions,
    "IPv6 atomic fragment": atomic_fragment6,
    "unknown IPv6 protocol": unknown_protocol6,
    "IPv6 with too many extension headers": too_many_extensions,
    "neighbour solicitation for an unknown address": nd,
}

WITHOUT_SESSION: dict[str, Conversation] = {
    "IPv4 fragment without its first": last_fragment,
    "IPv6 fragment without its first": last_fragment6,
    "VLAN": vlan,
    "MPLS": mpls,
    "802.3 length": llc,
}


def icmp_error(quoted: Packet, sender: Side, error: Packet | None = None) -> Packet:
    """From a router between the two ends, about a packet of the other side."""
    router = ether(sender) / IP(src="10.99.0.1", dst=quoted[IP].src)
    return router / (error or ICMP(type="time-exceeded")) / Raw(bytes(quoted[IP]))


def icmp_error6(quoted: Packet, sender: Side, error: Packet | None = None) -> Packet:
    router = ether(sender) / IPv6(src="fd00:99::1", dst=quoted[IPv6].src)
    return router / (error or ICMPv6TimeExceeded()) / Raw(bytes(quoted[IPv6]))


def fragments(sender: Side, number: int = 0, size: int = 4000) -> list[Packet]:
    whole = IP(bytes(udp(sender, number)[IP])) / Raw(bytes(size))
    whole[IP].id = 100 + number
    return [ether(sender) / part for part in whole.fragment(fragsize=1400)]  # type: ignore[no-untyped-call]


def fragments6(sender: Side, number: int = 0, size: int = 4000) -> list[Packet]:
    """With an extension header in each fragment, and one in the first alone."""
    whole = IPv6(src=ADDRESS6[sender], dst=ADDRESS6[sender.other]) / IPv6ExtHdrHopByHop()
    whole /= IPv6ExtHdrFragment(id=100 + number) / IPv6ExtHdrDestOpt() / udp6(sender, number)[UDP] / Raw(bytes(size))
    return [ether(sender) / IPv6(bytes(part)) for part in fragment6(whole, 1400)]  # type: ignore[no-untyped-call]


def _ports(sender: Side, upstream: int, downstream: int) -> dict[str, Any]:
    source, destination = (upstream, downstream) if sender == Side.UPSTREAM else (downstream, upstream)
    return {"sport": source, "dport": destination}


def _between(sender: Side, number: int, **fields: Any) -> Packet:
    """IP without ports: the conversation is told by the upstream address."""
    address = ADDRESS | {Side.UPSTREAM: f"10.2.0.{number % 250 + 1}"}
    return ether(sender) / IP(**{"src": address[sender], "dst": address[sender.other], **fields})


def _between6(sender: Side, number: int, **fields: Any) -> Packet:
    address = ADDRESS6 | {Side.UPSTREAM: f"fd00:2::{number % 250 + 1:x}"}
    return ether(sender) / IPv6(**{"src": address[sender], "dst": address[sender.other], **fields})


def _mac_pair(sender: Side, number: int, **fields: Any) -> Packet:
    mac = MAC | {Side.UPSTREAM: f"02:00:00:00:01:{number % 256:02x}"}
    return Ether(**{"src": mac[sender], "dst": mac[sender.other], **fields})

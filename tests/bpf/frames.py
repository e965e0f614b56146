"""Frames of a conversation between the two sides of a cross-connection, as each side sends them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Timestamp
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from sfc.chain import Side

MAC = {Side.UPSTREAM: "02:00:00:00:00:01", Side.DOWNSTREAM: "02:00:00:00:00:02"}
ADDRESS = {Side.UPSTREAM: "10.1.0.2", Side.DOWNSTREAM: "10.1.0.1"}
ADDRESS6 = {Side.UPSTREAM: "fd00::2", Side.DOWNSTREAM: "fd00::1"}
BROADCAST = "ff:ff:ff:ff:ff:ff"

Conversation = Callable[[Side, int], Packet]
"""(side, number) → the frame that the side sends in the conversation of that number."""


def ether(sender: Side, **fields: Any) -> Packet:
    return Ether(**{"src": MAC[sender], "dst": MAC[sender.other], **fields})


def ip(sender: Side, **fields: Any) -> Packet:
    return ether(sender) / IP(**{"src": ADDRESS[sender], "dst": ADDRESS[sender.other], **fields})


def ip6(sender: Side, **fields: Any) -> Packet:
    return ether(sender) / IPv6(**{"src": ADDRESS6[sender], "dst": ADDRESS6[sender.other], **fields})


def tcp(sender: Side, number: int = 0, flags: str = "A", **ip_fields: Any) -> Packet:
    return ip(sender, **ip_fields) / TCP(**ports(sender, 20000 + number, 80), flags=flags) / b"data"


def tcp6(sender: Side, number: int = 0, flags: str = "A") -> Packet:
    return ip6(sender) / TCP(**ports(sender, 20000 + number, 80), flags=flags) / b"data"


def tcp_with_options(sender: Side, number: int = 0) -> Packet:
    return tcp(sender, number, options=[IPOption_Timestamp()])


def udp(sender: Side, number: int = 0, **ip_fields: Any) -> Packet:
    return ip(sender, **ip_fields) / UDP(**ports(sender, 20000 + number, 53)) / b"question"


def udp6(sender: Side, number: int = 0, **ip_fields: Any) -> Packet:
    return ip6(sender, **ip_fields) / UDP(**ports(sender, 20000 + number, 53)) / b"question"


def numbered(frame: bytes, sender: Side, number: int) -> bytes:
    """A frame of `tcp` or `udp` in the conversation of another number, with the checksum of the first. Thousands of
    frames are made a hundred times as fast as by scapy."""
    at = 34 + 2 * sender
    return frame[:at] + (20000 + number).to_bytes(2) + frame[at + 2 :]


def sctp(sender: Side, number: int = 0) -> Packet:
    return ip(sender) / SCTP(**ports(sender, 20000 + number, 38412)) / Raw(bytes(16))


def sctp6(sender: Side, number: int = 0) -> Packet:
    return ip6(sender) / SCTP(**ports(sender, 20000 + number, 38412)) / Raw(bytes(16))


def ping(sender: Side, number: int = 0, pinger: Side = Side.UPSTREAM) -> Packet:
    kind = "echo-request" if sender == pinger else "echo-reply"
    return ip(sender) / ICMP(type=kind, id=number, seq=1) / b"payload"


def ping6(sender: Side, number: int = 0, pinger: Side = Side.UPSTREAM) -> Packet:
    kind = ICMPv6EchoRequest if sender == pinger else ICMPv6EchoReply
    return ip6(sender) / kind(id=number, seq=1) / b"payload"


def udp6_behind_extensions(sender: Side, number: int = 0) -> Packet:
    extensions = IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=["fd00::9"]) / IPv6ExtHdrDestOpt()
    return ip6(sender) / extensions / UDP(**ports(sender, 20000 + number, 53))


def arp(sender: Side, number: int = 0, asker: Side = Side.UPSTREAM) -> Packet:
    """A question between hosts that the cross-connection does not know, and its answer."""
    host = {asker: f"10.9.0.{number % 250 + 1}", asker.other: f"10.9.1.{number % 250 + 1}"}
    question = ARP(op="who-has", hwsrc=MAC[sender], psrc=host[sender], pdst=host[sender.other])
    if sender == asker:
        return ether(sender, dst=BROADCAST) / question
    return ether(sender) / ARP(op="is-at", hwsrc=MAC[sender], psrc=host[sender], hwdst=MAC[asker], pdst=host[asker])


def nd(sender: Side, number: int = 0, asker: Side = Side.UPSTREAM) -> Packet:
    """A question between hosts that the cross-connection does not know, and its answer."""
    host = {asker: f"fd00:9::{number % 250 + 1:x}", asker.other: "fd00:9::1:1"}
    if sender == asker:
        frame = ether(sender, dst="33:33:ff:01:00:01") / IPv6(src=host[sender], dst="ff02::1:ff01:1", hlim=255)
        return frame / ICMPv6ND_NS(tgt=host[sender.other]) / ICMPv6NDOptSrcLLAddr(lladdr=MAC[sender])
    answer = ICMPv6ND_NA(tgt=host[sender], R=0, S=1)
    return ether(sender) / IPv6(src=host[sender], dst=host[asker], hlim=255) / answer


def last_fragment(sender: Side, number: int = 0) -> Packet:
    return between(sender, number, proto=17, frag=185) / Raw(b"the rest")


def last_fragment6(sender: Side, number: int = 0) -> Packet:
    return between6(sender, number) / IPv6ExtHdrFragment(nh=17, offset=185) / Raw(b"the rest")


def fragments(sender: Side, number: int = 0, size: int = 4000, *, identification: int | None = None) -> list[Packet]:
    """The fragments of one datagram. Its identification comes from the conversation unless it is given."""
    whole = IP(bytes(udp(sender, number)[IP])) / Raw(bytes(size))
    whole[IP].id = identification or 100 + number
    return [ether(sender) / part for part in whole.fragment(fragsize=1400)]  # type: ignore[no-untyped-call]


def fragments6(sender: Side, number: int = 0, size: int = 4000, *, identification: int | None = None) -> list[Packet]:
    """IPv6 fragments: one extension header is in each of them, another one in the first alone."""
    known = identification or 100 + number
    whole = IPv6(src=ADDRESS6[sender], dst=ADDRESS6[sender.other]) / IPv6ExtHdrHopByHop()
    whole /= IPv6ExtHdrFragment(id=known) / IPv6ExtHdrDestOpt() / udp6(sender, number)[UDP] / Raw(bytes(size))
    return [ether(sender) / IPv6(bytes(part)) for part in fragment6(whole, 1400)]  # type: ignore[no-untyped-call]


def icmp_error(quoted: Packet, sender: Side, error: Packet | None = None) -> Packet:
    """A router between the two ends reports an error about a packet of the other side."""
    router = ether(sender) / IP(src="10.99.0.1", dst=quoted[IP].src)
    return router / (error or ICMP(type="time-exceeded")) / Raw(bytes(quoted[IP]))


def icmp_error6(quoted: Packet, sender: Side, error: Packet | None = None) -> Packet:
    router = ether(sender) / IPv6(src="fd00:99::1", dst=quoted[IPv6].src)
    return router / (error or ICMPv6TimeExceeded()) / Raw(bytes(quoted[IPv6]))


def tagged(conversation: Conversation, *tags: Packet) -> Conversation:
    """The same conversation in a VLAN, or in nested ones, the outermost first."""

    def frame(sender: Side, number: int = 0) -> Packet:
        untagged = Ether(bytes(conversation(sender, number)))
        tagged = Ether(src=untagged.src, dst=untagged.dst)
        for tag in tags:
            tagged /= tag.copy()
        tagged.lastlayer().type = untagged.type
        return tagged / untagged.payload

    return frame


def vlan(sender: Side, number: int = 0) -> Packet:
    return tagged(udp, Dot1Q(vlan=10))(sender, number)


def between(sender: Side, number: int, **fields: Any) -> Packet:
    """IP without ports: each conversation has another upstream address."""
    address = ADDRESS | {Side.UPSTREAM: f"10.2.0.{number % 250 + 1}"}
    return ether(sender) / IP(**{"src": address[sender], "dst": address[sender.other], **fields})


def between6(sender: Side, number: int, **fields: Any) -> Packet:
    address = ADDRESS6 | {Side.UPSTREAM: f"fd00:2::{number % 250 + 1:x}"}
    return ether(sender) / IPv6(**{"src": address[sender], "dst": address[sender.other], **fields})


def mac_pair(sender: Side, number: int, **fields: Any) -> Packet:
    """No IP: each conversation has another upstream MAC."""
    mac = MAC | {Side.UPSTREAM: f"02:00:00:00:01:{number % 256:02x}"}
    return Ether(**{"src": mac[sender], "dst": mac[sender.other], **fields})


def ports(sender: Side, upstream: int, downstream: int) -> dict[str, Any]:
    source, destination = (upstream, downstream) if sender == Side.UPSTREAM else (downstream, upstream)
    return {"sport": source, "dport": destination}

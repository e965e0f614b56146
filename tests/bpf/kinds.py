"""Every kind of frame that a network function may send, and its fate.

One catalogue for the rules that hold for every kind (test_kinds.py) and for the table of all kinds (packets_table.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from scapy.contrib.lldp import LLDPDUChassisID, LLDPDUEndOfLLDPDU, LLDPDUPortID, LLDPDUTimeToLive
from scapy.contrib.mpls import MPLS
from scapy.layers.eap import EAPOL
from scapy.layers.igmp import IGMP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, GRE, LLC, STP, Dot1AD, Dot1Q
from scapy.layers.ppp import PPPoE, PPPoED
from scapy.packet import Packet, Raw

from sfc.chain import Side
from tests.bpf import frames
from tests.bpf.frames import ADDRESS, ADDRESS6, BROADCAST, MAC, Conversation, between, between6, mac_pair, ports, tagged


class Fate(StrEnum):
    SESSION = "forwarded by its session"
    FOLLOWS = "forwarded where another frame goes: its session, or its datagram"
    CHOSEN = "forwarded by choice, without session"
    ANSWERED = "answered"


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    frame: Conversation
    fate: Fate = Fate.SESSION
    reacts_to: Conversation | None = None
    """The frame that the other side sent before: the one that an error quotes, or that an answer answers."""
    continues: Conversation | None = None
    """The frame that the sender itself sent before: another fragment of the datagram."""
    one_way: bool = False
    """There is no answer with a frame of the same kind."""

    def before(self, sender: Side, number: int) -> list[tuple[Side, Packet]]:
        """(frame, sender) of each frame that was sent before it."""
        told = [(sender.other, self.reacts_to), (sender, self.continues)]
        return [(side, conversation(side, number)) for side, conversation in told if conversation]


def _over_ip(payload: Packet, **fields: Any) -> Conversation:
    return lambda sender, number: between(sender, number, **fields) / payload.copy()


def _over_ip6(payload: Packet, **fields: Any) -> Conversation:
    return lambda sender, number: between6(sender, number, **fields) / payload.copy()


def _over_ether(payload: Packet, **fields: Any) -> Conversation:
    return lambda sender, number: mac_pair(sender, number, **fields) / payload.copy()


def _to(destination: str, conversation: Conversation) -> Conversation:
    """The same conversation to a group MAC."""

    def frame(sender: Side, number: int) -> Packet:
        packet = conversation(sender, number)
        packet.dst = destination
        return packet

    return frame


def _cut(conversation: Conversation, length: int) -> Conversation:
    return lambda sender, number: Raw(bytes(conversation(sender, number))[:length])


def _fragment(of: Callable[[Side, int], list[Packet]], index: int) -> Conversation:
    return lambda sender, number: of(sender, number)[index]


def _error(quoted: Conversation, error: Packet | None = None) -> Conversation:
    """An error about a packet of the other side."""
    return lambda sender, number: frames.icmp_error(quoted(sender.other, number), sender, error)


def _error6(quoted: Conversation, error: Packet | None = None) -> Conversation:
    return lambda sender, number: frames.icmp_error6(quoted(sender.other, number), sender, error)


def _tcp_syn(sender: Side, number: int) -> Packet:
    return frames.ip(sender) / TCP(**ports(sender, 20000 + number, 80), flags="S")


def _tcp6_syn(sender: Side, number: int) -> Packet:
    return frames.ip6(sender) / TCP(**ports(sender, 20000 + number, 80), flags="S")


def _udp_empty(sender: Side, number: int) -> Packet:
    return frames.ip(sender) / UDP(**ports(sender, 20000 + number, 53))


def _udp6_empty(sender: Side, number: int) -> Packet:
    return frames.ip6(sender) / UDP(**ports(sender, 20000 + number, 53))


def _padded(sender: Side, number: int) -> Packet:
    return frames.udp(sender, number) / Raw(bytes(20))


def _udp_of(**ip_fields: Any) -> Conversation:
    return lambda sender, number: frames.udp(sender, number, **ip_fields)


def _udp6_of(**ip_fields: Any) -> Conversation:
    return lambda sender, number: frames.udp6(sender, number, **ip_fields)


def _udp6_behind(extension: Packet) -> Conversation:
    def frame(sender: Side, number: int) -> Packet:
        return frames.ip6(sender) / extension.copy() / UDP(**ports(sender, 20000 + number, 53))

    return frame


def _extensions(count: int) -> Packet:
    packet = IPv6ExtHdrDestOpt()
    for _ in range(count - 1):
        packet /= IPv6ExtHdrDestOpt()
    return packet


def _malformed(**fields: Any) -> Conversation:
    """Not valid as IPv4, so only the MACs distinguish conversations."""
    return lambda sender, number: mac_pair(sender, number) / IP(src="10.1.0.2", dst="10.1.0.1", **fields) / UDP()


def _malformed6(**fields: Any) -> Conversation:
    return lambda sender, number: mac_pair(sender, number) / IPv6(src="fd00::2", dst="fd00::1", **fields) / UDP()


def _arp(**fields: Any) -> Conversation:
    """A request of the sender to all. Each field may be a function of the conversation's number."""

    def frame(sender: Side, number: int) -> Packet:
        question = {"psrc": f"10.9.0.{number % 250 + 1}", "pdst": ADDRESS[sender.other]} | fields
        told = {name: value(sender, number) if callable(value) else value for name, value in question.items()}
        return frames.ether(sender, dst=BROADCAST) / ARP(**{"op": "who-has", "hwsrc": MAC[sender], **told})

    return frame


def _arp_question(sender: Side, number: int) -> Packet:
    return frames.arp(sender, number, asker=sender)


def _arp_answer(sender: Side, number: int) -> Packet:
    return frames.arp(sender, number, asker=sender.other)


def _stranger(sender: Side, number: int) -> str:
    """An address that the chain does not have."""
    return f"10.9.0.{number % 250 + 1}"


def _stranger6(sender: Side, number: int) -> str:
    return f"fd00:9::{number % 250 + 1:x}"


def _told(sender: Side, number: int) -> str:
    return f"10.9.2.{number % 250 + 1}"


def _told6(sender: Side, number: int) -> str:
    return f"fd00:9:2::{number % 250 + 1:x}"


_arp_announcement = _arp(psrc=_told, pdst=_told)


def _nd_announcement(sender: Side, number: int) -> Packet:
    address = _told6(sender, number)
    message = ICMPv6ND_NA(tgt=address, R=0, S=0) / ICMPv6NDOptDstLLAddr(lladdr=MAC[sender])
    return frames.ether(sender, dst="33:33:00:00:00:01") / IPv6(src=address, dst="ff02::1", hlim=255) / message


def _solicitation(
    target: Callable[[Side, int], str], source: Callable[[Side, int], str] = _stranger6, hops: int = 255
) -> Conversation:
    def frame(sender: Side, number: int) -> Packet:
        packet = frames.ether(sender, dst="33:33:ff:00:00:01")
        packet /= IPv6(src=source(sender, number), dst="ff02::1:ff00:1", hlim=hops)
        packet /= ICMPv6ND_NS(tgt=target(sender, number))
        unknown = packet[IPv6].src == "::"
        return packet if unknown else packet / ICMPv6NDOptSrcLLAddr(lladdr=MAC[sender])

    return frame


def _nd_question(sender: Side, number: int) -> Packet:
    return frames.nd(sender, number, asker=sender)


def _nd_answer(sender: Side, number: int) -> Packet:
    return frames.nd(sender, number, asker=sender.other)


def _known6(sender: Side, number: int) -> str:
    return ADDRESS6[sender.other]


def _to_all_nodes(message: Packet) -> Conversation:
    return _over_ether(IPv6(src="fe80::1", dst="ff02::1", hlim=255) / message, dst="33:33:00:00:00:01")


def _group(destination: str, payload: Packet, **fields: Any) -> Conversation:
    """To an IPv4 group, at its MAC (RFC 1112)."""
    low = [int(each) for each in destination.split(".")[1:]]
    mac = f"01:00:5e:{low[0] & 0x7F:02x}:{low[1]:02x}:{low[2]:02x}"
    return _over_ether(IP(src="10.1.0.2", dst=destination, **fields) / payload, dst=mac)


def _group6(destination: str, payload: Packet, **fields: Any) -> Conversation:
    return _over_ether(IPv6(src="fe80::1", dst=destination, **fields) / payload, dst="33:33:00:00:00:01")


def _echo_part(sender: Side, number: int) -> Packet:
    packet = frames.ping(sender, number)
    packet[IP].flags, packet[IP].id = "MF", 100 + number
    return packet


def _echo_rest(sender: Side, number: int) -> Packet:
    return frames.ip(sender, proto=1, id=100 + number, frag=2) / Raw(bytes(8))


_first, _second, _last = (_fragment(frames.fragments, index) for index in (0, 1, -1))
_first6, _second6, _last6 = (_fragment(frames.fragments6, index) for index in (0, 1, -1))
_gre = _over_ip(GRE() / IP() / UDP())
_gre6 = _over_ip6(GRE() / IP() / UDP())
_SESSION, _FOLLOWS, _CHOSEN, _ANSWERED = Fate.SESSION, Fate.FOLLOWS, Fate.CHOSEN, Fate.ANSWERED

_Q, _AD = Dot1Q(vlan=10), Dot1AD(vlan=20)

FAMILIES: dict[str, list[Kind]] = {
    "IPv4": [
        Kind("TCP", frames.tcp),
        Kind("TCP without payload", _tcp_syn),
        Kind("UDP", frames.udp),
        Kind("UDP without payload", _udp_empty),
        Kind("UDP from port 0 to port 0", _over_ip(UDP(sport=0, dport=0))),
        Kind("SCTP", frames.sctp),
        Kind("ICMP echo request or reply", frames.ping),
        Kind("other ICMP message", _over_ip(ICMP(type="timestamp-request"))),
        Kind("GRE", _gre),
        Kind("ESP", _over_ip(Raw(bytes(32)), proto=50)),
        Kind("AH", _over_ip(Raw(bytes(32)), proto=51)),
        Kind("IP in IP", _over_ip(IP() / UDP())),
        Kind("IPv6 in IPv4", _over_ip(IPv6() / UDP())),
        Kind("unknown protocol", _over_ip(Raw(b"anything"), proto=253)),
        Kind("TCP behind IP options", frames.tcp_with_options),
        Kind("UDP with time to live 1 and a wrong checksum", _udp_of(ttl=1, chksum=1)),
        Kind("UDP, the frame padded beyond the IP length", _padded),
        Kind("UDP, the frame cut off before the IP length", _udp_of(len=1000)),
        Kind("TCP, cut off before its ports", _cut(_over_ip(TCP()), 14 + 20 + 2)),
        Kind("TCP behind options beyond the end of the frame", _over_ip(TCP(), ihl=15)),
        Kind("header length below 20 bytes", _malformed(ihl=4)),
        Kind("IP version 5", _malformed(version=5)),
        Kind("cut off within the IP header", _cut(_over_ether(IP() / UDP()), 14 + 12)),
    ],
    "IPv4 fragments": [
        Kind("first fragment", _first),
        Kind("later fragment", _second, _FOLLOWS, continues=_first),
        Kind("last fragment", _last, _FOLLOWS, continues=_first),
        Kind("first fragment, after a later one", _first, continues=_second),
        Kind("later fragment, before its first or without it", frames.last_fragment, _FOLLOWS),
        Kind("first fragment, too short for its ports", _over_ip(Raw(b"\0"), proto=17, flags="MF")),
        Kind("first fragment of an ICMP echo", _echo_part),
        Kind("later fragment of an ICMP echo", _echo_rest, _FOLLOWS, continues=_echo_part),
    ],
    "IPv6": [
        Kind("IPv6 TCP", frames.tcp6),
        Kind("IPv6 TCP without payload", _tcp6_syn),
        Kind("IPv6 UDP", frames.udp6),
        Kind("IPv6 UDP without payload", _udp6_empty),
        Kind("IPv6 UDP from port 0 to port 0", _over_ip6(UDP(sport=0, dport=0))),
        Kind("IPv6 SCTP", frames.sctp6),
        Kind("ICMPv6 echo request or reply", frames.ping6),
        Kind("other ICMPv6 message", _over_ip6(Raw(b"\x8b\0\0\0" + bytes(12)), nh=58)),
        Kind("IPv6 GRE", _gre6),
        Kind("IPv6 ESP", _over_ip6(Raw(bytes(32)), nh=50)),
        Kind("IPv6 AH", _over_ip6(Raw(b"\x11\x04" + bytes(30)), nh=51)),
        Kind("IPv4 in IPv6", _over_ip6(IP() / UDP())),
        Kind("IPv6 no next header", _over_ip6(Raw(b""), nh=59)),
        Kind("unknown IPv6 protocol", _over_ip6(Raw(b"anything"), nh=253)),
        Kind("IPv6 UDP behind hop-by-hop options", _udp6_behind(IPv6ExtHdrHopByHop())),
        Kind("IPv6 UDP behind a routing header", _udp6_behind(IPv6ExtHdrRouting(addresses=["fd00::9"]))),
        Kind("IPv6 UDP behind destination options", _udp6_behind(IPv6ExtHdrDestOpt())),
        Kind("IPv6 UDP behind all of these", frames.udp6_behind_extensions),
        Kind("IPv6 UDP behind 5 extension headers", _udp6_behind(_extensions(5))),
        Kind("IPv6 UDP behind 10 extension headers", _over_ip6(_extensions(10) / UDP())),
        Kind("IPv6 mobility header", _over_ip6(Raw(b"\x3b\0" + bytes(6)), nh=135)),
        Kind("IPv6 UDP, the frame cut off before the IP length", _udp6_of(plen=1000)),
        Kind("IPv6 TCP, cut off before its ports", _cut(_over_ip6(TCP()), 14 + 40 + 2)),
        Kind("IPv6 extension header beyond the end of the frame", _over_ip6(Raw(b"\x11\xff" + bytes(6)), nh=60)),
        Kind("IPv6 header of version 4", _malformed6(version=4)),
        Kind("cut off within the IPv6 header", _cut(_over_ether(IPv6() / UDP()), 14 + 30)),
    ],
    "IPv6 fragments": [
        Kind("IPv6 first fragment", _first6),
        Kind("IPv6 later fragment", _second6, _FOLLOWS, continues=_first6),
        Kind("IPv6 last fragment", _last6, _FOLLOWS, continues=_first6),
        Kind("IPv6 first fragment, after a later one", _first6, continues=_second6),
        Kind("IPv6 later fragment, before its first or without it", frames.last_fragment6, _FOLLOWS),
        Kind("IPv6 first fragment, too short for its ports", _over_ip6(IPv6ExtHdrFragment(nh=17, m=1) / Raw(b"\0"))),
        Kind("IPv6 atomic fragment (RFC 6946)", _udp6_behind(IPv6ExtHdrFragment(id=9))),
    ],
    "ICMP errors": [
        *(
            Kind(f"{name}, about UDP", _error(frames.udp, error), _FOLLOWS, reacts_to=frames.udp)
            for name, error in {
                "destination unreachable": ICMP(type=3, code=1),
                "fragmentation needed": ICMP(type=3, code=4, nexthopmtu=1400),
                "source quench": ICMP(type=4),
                "redirect": ICMP(type=5),
                "time exceeded": ICMP(type=11),
                "parameter problem": ICMP(type=12),
            }.items()
        ),
        *(
            Kind(f"time exceeded, about {name}", _error(quoted), _FOLLOWS, reacts_to=quoted)
            for name, quoted in {
                "TCP": frames.tcp,
                "TCP behind IP options": frames.tcp_with_options,
                "SCTP": frames.sctp,
                "ICMP echo": frames.ping,
                "another protocol": _gre,
                "a first fragment": _first,
            }.items()
        ),
        Kind("time exceeded, about a later fragment", _error(_second), _CHOSEN, reacts_to=_first),
        Kind("time exceeded, about a packet never seen", _error(frames.udp), _CHOSEN),
        Kind(
            "time exceeded, 8 bytes of TCP quoted",
            _cut(_error(frames.tcp), 14 + 20 + 8 + 20 + 8),
            _FOLLOWS,
            reacts_to=frames.tcp,
        ),
        Kind(
            "time exceeded, 3 bytes of TCP quoted",
            _cut(_error(frames.tcp), 14 + 20 + 8 + 20 + 3),
            _CHOSEN,
            reacts_to=frames.tcp,
        ),
        Kind("time exceeded, 12 bytes of an IP header quoted", _cut(_error(_gre), 14 + 20 + 8 + 12), one_way=True),
        Kind("time exceeded, nothing quoted", _over_ip(ICMP(type="time-exceeded"))),
    ],
    "ICMPv6 errors": [
        *(
            Kind(f"ICMPv6 {name}, about UDP", _error6(frames.udp6, error), _FOLLOWS, reacts_to=frames.udp6)
            for name, error in {
                "destination unreachable": ICMPv6DestUnreach(),
                "packet too big": ICMPv6PacketTooBig(mtu=1400),
                "time exceeded": ICMPv6TimeExceeded(),
                "parameter problem": ICMPv6ParamProblem(),
            }.items()
        ),
        *(
            Kind(f"ICMPv6 time exceeded, about {name}", _error6(quoted), _FOLLOWS, reacts_to=quoted)
            for name, quoted in {
                "TCP": frames.tcp6,
                "SCTP": frames.sctp6,
                "ICMPv6 echo": frames.ping6,
                "another protocol": _gre6,
                "UDP behind extension headers": frames.udp6_behind_extensions,
                "a first fragment": _first6,
            }.items()
        ),
        Kind("ICMPv6 time exceeded, about a later fragment", _error6(_second6), _CHOSEN, reacts_to=_first6),
        Kind("ICMPv6 time exceeded, about a packet never seen", _error6(frames.udp6), _CHOSEN),
        Kind(
            "ICMPv6 time exceeded, 8 bytes of TCP quoted",
            _cut(_error6(frames.tcp6), 14 + 40 + 8 + 40 + 8),
            _FOLLOWS,
            reacts_to=frames.tcp6,
        ),
        Kind(
            "ICMPv6 time exceeded, 3 bytes of TCP quoted",
            _cut(_error6(frames.tcp6), 14 + 40 + 8 + 40 + 3),
            _CHOSEN,
            reacts_to=frames.tcp6,
        ),
        Kind(
            "ICMPv6 time exceeded, 30 bytes of an IPv6 header quoted",
            _cut(_error6(_gre6), 14 + 40 + 8 + 30),
            one_way=True,
        ),
        Kind("ICMPv6 time exceeded, nothing quoted", _over_ip6(ICMPv6TimeExceeded())),
    ],
    "ARP": [
        Kind("ARP request for an address of the chain", _arp(), _ANSWERED),
        Kind("ARP request for another address", _arp_question, one_way=True),
        Kind("ARP reply", _arp_answer, reacts_to=_arp_question),
        Kind("ARP announcement, as a request (gratuitous)", _arp_announcement, one_way=True),
        Kind(
            "ARP announcement, as a reply (gratuitous)", _arp(op="is-at", psrc=_stranger, pdst=_stranger), one_way=True
        ),
        Kind("ARP probe for an address of the chain (RFC 5227)", _arp(psrc="0.0.0.0"), _ANSWERED),
        Kind("ARP probe for another address (RFC 5227)", _arp(psrc="0.0.0.0", pdst=_stranger), one_way=True),
        Kind("ARP request for an address that was announced", _arp(pdst=_told), _ANSWERED, reacts_to=_arp_announcement),
        Kind("reverse ARP", _over_ether(ARP(op=3), dst=BROADCAST, type=0x8035), _CHOSEN),
        Kind("ARP for other hardware or protocols", _over_ether(ARP(hwtype=6), dst=BROADCAST), _CHOSEN),
        Kind("ARP, cut off", _cut(_over_ether(ARP(), dst=BROADCAST), 14 + 20), _CHOSEN),
    ],
    "Neighbour discovery": [
        Kind("neighbour solicitation for an address of the chain", _solicitation(_known6), _ANSWERED),
        Kind("neighbour solicitation for another address", _nd_question, one_way=True),
        Kind(
            "neighbour solicitation for an address that was advertised",
            _solicitation(_told6),
            _ANSWERED,
            reacts_to=_nd_announcement,
        ),
        Kind("neighbour advertisement", _nd_answer, reacts_to=_nd_question),
        Kind(
            "unsolicited neighbour advertisement", _to_all_nodes(ICMPv6ND_NA(tgt="fd00:9::1", R=0, S=0)), one_way=True
        ),
        Kind("duplicate address detection", _solicitation(_stranger6, source=lambda *_: "::"), one_way=True),
        Kind("neighbour solicitation that a router let in", _solicitation(_known6, hops=254), _CHOSEN),
        Kind("router solicitation", _to_all_nodes(ICMPv6ND_RS()), _CHOSEN),
        Kind("router advertisement", _to_all_nodes(ICMPv6ND_RA()), _CHOSEN),
        Kind("router advertisement to one host", _over_ip6(ICMPv6ND_RA(), hlim=255)),
        Kind("ICMPv6 redirect", _over_ip6(ICMPv6ND_Redirect(), hlim=255)),
    ],
    "Broadcast and multicast": [
        Kind("DHCP discovery", _over_ether(IP(src="0.0.0.0") / UDP(sport=68, dport=67), dst=BROADCAST), _CHOSEN),
        Kind("IPv4 to the subnet's broadcast address", _to(BROADCAST, _over_ether(IP() / UDP())), _CHOSEN),
        Kind("IPv4 multicast, UDP", _group("224.0.0.251", UDP(sport=5353, dport=5353)), _CHOSEN),
        Kind("IPv4 multicast, to the MAC of one host", _over_ip(UDP(), dst="224.0.0.251"), one_way=True),
        Kind("IPv4 multicast, OSPF", _group("224.0.0.5", Raw(bytes(24)), proto=89), _CHOSEN),
        Kind("IGMP", _group("224.0.0.22", IGMP(type=0x16)), _CHOSEN),
        Kind("IPv6 multicast, UDP", _group6("ff02::fb", UDP(sport=5353, dport=5353)), _CHOSEN),
        Kind("IPv6 multicast, OSPF", _group6("ff02::5", Raw(bytes(16)), nh=89), _CHOSEN),
        Kind("IPv6 multicast, ICMPv6 echo", _group6("ff02::1", ICMPv6EchoRequest()), _CHOSEN),
        Kind("multicast listener report", _group6("ff02::16", IPv6ExtHdrHopByHop() / ICMPv6MLReport2()), _CHOSEN),
        Kind("broadcast of another EtherType", _over_ether(Raw(bytes(46)), dst=BROADCAST, type=0x88B5), _CHOSEN),
    ],
    "VLAN tags": [
        *(
            Kind(f"802.1Q, {name}", tagged(conversation, _Q))
            for name, conversation in {
                "TCP": frames.tcp,
                "UDP": frames.udp,
                "ICMP echo": frames.ping,
                "GRE": _gre,
                "a first fragment": _first,
                "IPv6 TCP": frames.tcp6,
                "IPv6 UDP": frames.udp6,
                "ICMPv6 echo": frames.ping6,
                "an IPv6 first fragment": _first6,
            }.items()
        ),
        Kind("802.1Q, an ARP request for an address of the chain", tagged(_arp(), _Q), one_way=True),
        Kind("802.1Q, an ARP reply", tagged(_arp_answer, _Q), reacts_to=tagged(_arp_question, _Q)),
        Kind(
            "802.1Q, a neighbour solicitation for an address of the chain",
            tagged(_solicitation(_known6), _Q),
            one_way=True,
        ),
        Kind("802.1Q, a neighbour advertisement", tagged(_nd_answer, _Q), reacts_to=tagged(_nd_question, _Q)),
        Kind("802.1Q, a later fragment", tagged(_second, _Q), _FOLLOWS, continues=tagged(_first, _Q)),
        Kind("802.1Q, an IPv6 later fragment", tagged(_second6, _Q), _FOLLOWS, continues=tagged(_first6, _Q)),
        Kind(
            "802.1Q, ICMP time exceeded, about UDP",
            tagged(_error(frames.udp), _Q),
            _FOLLOWS,
            reacts_to=tagged(frames.udp, _Q),
        ),
        Kind(
            "802.1Q, ICMPv6 time exceeded, about UDP",
            tagged(_error6(frames.udp6), _Q),
            _FOLLOWS,
            reacts_to=tagged(frames.udp6, _Q),
        ),
        Kind("802.1Q with VLAN 0 (priority tag), UDP", tagged(frames.udp, Dot1Q(vlan=0, prio=5))),
        Kind(
            "802.1Q with VLAN 0, an ARP request for an address of the chain", tagged(_arp(), Dot1Q(vlan=0)), _ANSWERED
        ),
        Kind(
            "802.1Q with VLAN 0, a neighbour solicitation for an address of the chain",
            tagged(_solicitation(_known6), Dot1Q(vlan=0)),
            _ANSWERED,
        ),
        Kind("802.1Q twice, UDP", tagged(frames.udp, _Q, Dot1Q(vlan=11))),
        Kind("802.1ad, UDP", tagged(frames.udp, _AD)),
        Kind("802.1ad and 802.1Q, UDP", tagged(frames.udp, _AD, _Q)),
        Kind("802.1ad and 802.1Q, IPv6 UDP", tagged(frames.udp6, _AD, _Q)),
        Kind("802.1Q, MPLS", tagged(_over_ether(MPLS() / IP()), _Q)),
        Kind("three tags, UDP", tagged(_over_ether(IP() / UDP()), _AD, _Q, Dot1Q(vlan=12))),
    ],
    "Other EtherTypes": [
        Kind("MPLS", _over_ether(MPLS(label=3) / IP() / UDP())),
        Kind("PPPoE discovery", _over_ether(PPPoED(), dst=BROADCAST), _CHOSEN),
        Kind("PPPoE discovery, to one host", _over_ether(PPPoED(code=0x65, sessionid=7))),
        Kind("PPPoE session", _over_ether(PPPoE(sessionid=7) / Raw(bytes(20)), type=0x8864)),
        Kind(
            "LLDP",
            _over_ether(
                LLDPDUChassisID(id=b"\1\2") / LLDPDUPortID(id=b"\1") / LLDPDUTimeToLive() / LLDPDUEndOfLLDPDU(),
                dst="01:80:c2:00:00:0e",
            ),
            _CHOSEN,
        ),
        Kind("802.1X", _over_ether(EAPOL(), dst="01:80:c2:00:00:03"), _CHOSEN),
        Kind("spanning tree (802.3 length)", _over_ether(LLC() / STP(), dst="01:80:c2:00:00:00", type=38), _CHOSEN),
        Kind("802.3 length, to one host", _over_ether(Raw(bytes(40)), type=40)),
        Kind("0x9100 and 802.1Q, UDP", _over_ether(Raw(b"\0\x14") / Dot1Q(vlan=10) / IP() / UDP(), type=0x9100)),
        Kind("unknown EtherType", _over_ether(Raw(bytes(46)), type=0x88B5)),
        Kind("nothing behind the EtherType", _over_ether(Raw(b""), type=0x88B5)),
    ],
}

KINDS = {kind.name: kind for kinds in FAMILIES.values() for kind in kinds}
CONVERSATIONS = {
    name: (kind.reacts_to or kind.frame, kind.frame)
    for name, kind in KINDS.items()
    if kind.fate == Fate.SESSION and not kind.one_way
}
"""A packet that opens a session, and the other side's answer."""

"""Finds the fate of a kind of frame by trying.

The other side has one target, which then leaves the targets but stays, as in a drain. Frames that still reach it have a
session; for all others the program chooses again. A frame is known by those fields whose change loses its session or,
without a session, changes the choice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    IPerror6,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import ARP, Dot1Q, Dot3, Ether
from scapy.layers.ppp import PPPoE, PPPoED
from scapy.layers.sctp import SCTP
from scapy.packet import Packet

from controller.node.plane.model import LinkState
from sfc.chain import Side
from tests.bpf.frames import ADDRESS, ADDRESS6, MAC
from tests.bpf.kinds import Fate, Kind
from tests.bpf.node import CONNECTION, Node

SENDER, REMEMBERED, OTHERS = 1, 11, (12, 13, 14, 15)
TRIES = range(8)
PACKET, SESSION = "packet", "session"

_MACS = {"src": "source MAC", "dst": "destination MAC"}
_ADDRESSES = {"src": "source address", "dst": "destination address"}
_PORTS = {"sport": "source port", "dport": "destination port"}
_FIELDS: dict[type[Packet], dict[str, str]] = {
    Ether: _MACS | {"type": "EtherType"},
    Dot3: _MACS,
    Dot1Q: {"vlan": "VLAN"},
    ARP: {"psrc": "source address", "pdst": "target"},
    IP: _ADDRESSES | {"proto": "protocol", "id": "identification"},
    IPv6: _ADDRESSES | {"nh": "protocol"},
    IPv6ExtHdrFragment: {"nh": "protocol", "id": "identification"},
    TCP: _PORTS,
    UDP: _PORTS,
    SCTP: _PORTS,
    ICMP: {"id": "identifier"},
    ICMPv6EchoRequest: {"id": "identifier"},
    ICMPv6EchoReply: {"id": "identifier"},
    ICMPv6ND_NS: {"tgt": "target"},
    ICMPv6ND_NA: {"tgt": "target"},
    PPPoE: {"sessionid": "session"},
    PPPoED: {"sessionid": "session"},
    MPLS: {"label": "label"},
}
_QUOTES = (IPerror, IPerror6)
_TELLING = (*_QUOTES, ICMPv6ND_NS, ICMPv6ND_NA)
_UNDERSTOOD = (IP, IPv6, ARP, PPPoE, PPPoED, MPLS)
_NUMBERS = {"vlan": 100, "proto": 200, "nh": 200, "type": 0x9000, "label": 900}
_MAC = re.compile("..(:..){5}")

Change = tuple[str, Callable[[int], bytes]]
"""(name of a field, n → the frame with the n-th other value in it)"""


@dataclass(frozen=True, slots=True)
class Observation:
    fate: Fate
    known_by: tuple[str, ...]
    counted_as: tuple[str, ...]


def observe(node: Node, kind: Kind, sender: Side) -> Observation:
    """Tries one kind of frame. It empties the node first, and leaves entries behind."""
    frame = bytes(kind.frame(sender, 0))
    alone = _counted_as(_wired(node, sender), frame)
    before = kind.before(sender, 0)
    counted_as = _counted_as(_wired(node, sender, before), frame) if before else alone
    if _answered(node, frame):
        known_by = _known_by(frame, lambda change: not _answered(node, change(0)))
        return Observation(Fate.ANSWERED, known_by, counted_as)
    node.forget_pairs()  # or any fragment between the same addresses would seem to be of the same datagram
    node.serve(sender.other, OTHERS)
    node.link(REMEMBERED, sender.other, LinkState.DRAINING)
    if node.receiver(SENDER, frame) == REMEMBERED:
        known_by = _known_by(frame, lambda change: node.receiver(SENDER, change(0)) != REMEMBERED)
        return Observation(Fate.SESSION if SESSION in alone else Fate.FOLLOWS, known_by, counted_as)
    known_by = _known_by(frame, lambda change: len({node.receiver(SENDER, change(n)) for n in TRIES}) > 1)
    return Observation(Fate.CHOSEN, known_by, counted_as)


def wire(node: Node, slots: Mapping[Side, Sequence[int]]) -> None:
    """Links on both sides; the address of each is a neighbour of the other."""
    for side in Side:
        node.serve(side, slots[side])
        for address in (ADDRESS, ADDRESS6):
            node.datapath.set_neighbour(CONNECTION, side, address[side.other], MAC[side.other])


def _wired(node: Node, sender: Side, before: Sequence[tuple[Side, Packet]] = ()) -> Node:
    """A node with one link on each side, after some frames."""
    node.reset()
    wire(node, {sender: (SENDER,), sender.other: (REMEMBERED,)})
    for side, earlier in before:
        node.send(SENDER if side == sender else REMEMBERED, earlier)
    return node


def _answered(node: Node, frame: bytes) -> bool:
    return node.send(SENDER, frame).sent_to == SENDER


def _counted_as(node: Node, frame: bytes) -> tuple[str, ...]:
    """What went up when it was sent: packets of its receiver, sessions, verdicts."""
    before, opened = node.tally(), node.datapath.counters.traffic([SENDER])[SENDER].sessions_opened
    node.send(SENDER, frame)
    tally = node.tally().since(before)
    sessions = node.datapath.counters.traffic([SENDER])[SENDER].sessions_opened - opened
    return (*[PACKET] * tally.sent.total(), *[SESSION] * sessions, *tally.verdicts.elements())


def _known_by(frame: bytes, matters: Callable[[Callable[[int], bytes]], bool]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name, change in changes(frame) if matters(change)))


def changes(frame: bytes) -> Iterator[Change]:
    """A change of each field that a frame may be known by, unless another value makes it another kind of frame."""
    layers = list(_layers(Ether(frame)))
    understood = any(isinstance(layer, _UNDERSTOOD) for layer in layers)
    telling = any(isinstance(layer, _TELLING) for layer in layers)
    quoted, tags = "", 0
    for index, layer in enumerate(layers):
        quoted = "quoted " if isinstance(layer, _QUOTES) else quoted
        tags += isinstance(layer, Dot1Q)
        for field, name in _fields(layer).items():
            if (name == "EtherType" and understood) or (name == "protocol" and telling and not quoted):
                continue
            number = f" {tags}" if name == "VLAN" and tags > 1 else ""
            yield f"{quoted}{name}{number}", _changer(frame, index, field)


def _fields(layer: Packet) -> dict[str, str]:
    named = next((fields for kind, fields in _FIELDS.items() if isinstance(layer, kind)), {})
    return {field: name for field, name in named.items() if field in layer.fields}


def _layers(packet: Packet) -> Iterator[Packet]:
    while packet:
        yield packet
        packet = packet.payload


def _changer(frame: bytes, index: int, field: str) -> Callable[[int], bytes]:
    packet = Ether(frame)
    layer = list(_layers(packet))[index]
    value = layer.getfieldval(field)

    def change(number: int) -> bytes:
        layer.setfieldval(field, _other_value(field, value, number))
        return bytes(packet)

    return change


def _other_value(field: str, value: str | int, number: int) -> str | int:
    """Another value: a number, an address of the same family, or a MAC, of a group if it was one."""
    if isinstance(value, int):
        return _NUMBERS.get(field, 40000) + number
    if _MAC.fullmatch(value):
        return f"{value[:-2]}{0x80 + number:02x}"
    return f"fd00:77::{number + 1:x}" if ":" in value else f"10.77.0.{number + 1}"

"""Frames that a replica may send: of every kind in `tests/bpf/kinds.py`, or made header by header, then changed.

Addresses, ports and numbers come from small sets, so that frames meet the sessions, datagrams and questions of others.
Every length field may lie, and every header may be cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from itertools import pairwise
from random import Random

from sfc.chain import Side
from tests.bpf.frames import ADDRESS, ADDRESS6, BROADCAST, MAC
from tests.bpf.kinds import FAMILIES
from tests.bpf.node import shortest

LONGEST = 1600
"""Bytes of a frame: beyond an Ethernet MTU, within the pages that a test run accepts."""

IPV4, IPV6, ARP, DOT1Q, DOT1AD = (bytes.fromhex(t) for t in ("0800", "86dd", "0806", "8100", "88a8"))
ETHERTYPES = (IPV4, IPV6, ARP, DOT1Q, DOT1AD, *(bytes.fromhex(t) for t in ("8847", "8864", "0004", "88cc")))
EXTENSIONS = (0, 43, 44, 44, 44, 50, 51, 60, 135, 139, 140, 253)
PROTOCOLS = (0, 1, 2, 6, 17, 41, 47, 50, 51, 58, 59, 132, 253, 255)
BYTES = (0, 1, 4, 5, 6, 15, 16, 40, 44, 45, 58, 60, 69, 0x60, 127, 128, 255)
TCP_FLAGS = (0x10, 0x10, 0x18, 0x02, 0x12, 0x11, 0x01, 0x04, 0x14, 0x00, 0xFF)
SCTP_CHUNKS = (0, 1, 2, 3, 4, 6, 7, 8, 10, 11, 14, 255)
ICMP_TYPES = (0, 3, 4, 5, 8, 11, 12, 13)
ICMP6_TYPES = (1, 2, 3, 4, 128, 129, 133, 134, 135, 136, 137, 143)
OFFSETS = (b"\0\0", b"\x40\0", b"\x20\0", b"\x20\0", b"\x20\xb9", b"\0\xb9", b"\0\x01", b"\x1f\xff", b"\x3f\xff")
OFFSETS6 = (b"\0\0", b"\0\x01", b"\0\x01", b"\x05\xc9", b"\x05\xc8", b"\xff\xf8", b"\xff\xff")
PORTS = (0, 53, 80, 20000, 20001)


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


MACS = {side: _octets(MAC[side]) for side in Side}
GROUPS = (_octets(BROADCAST), _octets("33:33:ff:00:00:01"), _octets("01:00:5e:00:00:05"))
HOSTS = {side: ip_address(ADDRESS[side]).packed for side in Side}
HOSTS6 = {side: ip_address(ADDRESS6[side]).packed for side in Side}


def seeds() -> dict[Side, list[bytes]]:
    """The frames that a replica of each side may send, of every kind and in three conversations."""
    found: dict[Side, list[bytes]] = {}
    for side in Side:
        kinds = [kind for family in FAMILIES.values() for kind in family]
        frames = [kind.frame(side, number) for kind in kinds for number in range(3)]
        before = [frame for kind in kinds for sender, frame in kind.before(side, 0) if sender == side]
        found[side] = [bytes(frame) for frame in (*frames, *before)]
    return found


def frame(random: Random, side: Side, seeds: Sequence[bytes]) -> bytes:
    """A frame that the kernel would deliver: long enough for its type, and not too long."""
    made = bytearray(random.choice(seeds) if random.random() < 0.4 else _made(random, side))
    for _ in range(random.choice((0, 0, 0, 1, 1, 2, 4, 8))):
        random.choice(CHANGES)(random, made, seeds)
    del made[LONGEST:]
    made.extend(bytes(max(0, 14 - len(made))))
    return bytes(made.ljust(shortest(bytes(made)), b"\0"))


# --- header by header -------------------------------------------------------------------------------------------------


def _made(random: Random, side: Side) -> bytes:
    source, destination = MACS[side], MACS[side.other]
    if random.random() < 0.1:
        destination = random.choice(GROUPS)
    tags = b"".join(_tag_of(random) for _ in range(random.choice((0, 0, 0, 0, 1, 2, 3))))
    kind = random.random()
    if kind < 0.45:
        content = IPV4 + _ipv4(random, side)
    elif kind < 0.85:
        content = IPV6 + _ipv6(random, side)
    else:
        content = ARP + _arp(random, side)
    made = destination + source + tags + content
    return made[: random.randrange(14, len(made) + 1)] if random.random() < 0.1 else made


def _tag_of(random: Random) -> bytes:
    return random.choice((DOT1Q, DOT1AD)) + random.choice((b"\0\x0a", b"\0\x14", b"\xe0\0", random.randbytes(2)))


def _pair(random: Random, hosts: dict[Side, bytes], side: Side) -> bytes:
    """Source and destination: the chain's own addresses, or near ones."""
    if random.random() < 0.05:
        side = side.other
    ends = [hosts[side], hosts[side.other]]
    if random.random() < 0.3:
        index = random.randrange(2)
        ends[index] = ends[index][:-1] + bytes((random.randrange(4),))
    return b"".join(ends)


def _ipv4(random: Random, side: Side, depth: int = 0) -> bytes:
    words = random.choice((5, 5, 5, 5, 5, 5, 6, 15, 4))
    protocol = random.choice((1, 6, 6, 17, 17, 132, random.choice(PROTOCOLS)))
    payload = _transport(random, side, protocol, depth)
    length = 20 + len(payload) if random.random() < 0.9 else random.randrange(0x10000)
    head = bytes((0x40 | words, 0)) + length.to_bytes(2) + bytes((0, random.randrange(4)))
    head += random.choice(OFFSETS) if random.random() < 0.4 else b"\0\0"
    head += bytes((random.choice((64, 64, 1, 255)), protocol, 0, 0)) + _pair(random, HOSTS, side)
    return head + random.randbytes(max(0, words - 5) * 4) + payload


def _ipv6(random: Random, side: Side, depth: int = 0) -> bytes:
    chain = [random.choice(EXTENSIONS) for _ in range(random.choice((0, 0, 0, 0, 1, 1, 1, 2, 3, 6, 8)))]
    protocol = random.choice((58, 58, 6, 6, 17, 17, 132, random.choice(PROTOCOLS)))
    payload = b""
    for extension, following in pairwise((*chain, protocol)):
        if extension == 44:
            payload += bytes((following, 0)) + random.choice(OFFSETS6) + bytes((0, 0, 0, random.randrange(4)))
        else:
            payload += bytes((following, random.choice((0, 0, 0, 1, 2, 255)))) + random.randbytes(6)
            payload += random.randbytes(random.choice((0, 0, 0, 8, 16)))
    payload += _transport6(random, side, depth) if protocol == 58 else _transport(random, side, protocol, depth)
    length = len(payload) if random.random() < 0.9 else random.randrange(0x10000)
    head = b"\x60\0\0\0" + length.to_bytes(2) + bytes(((*chain, protocol)[0], random.choice((64, 255, 255, 1))))
    return head + _pair(random, HOSTS6, side) + payload


def _transport(random: Random, side: Side, protocol: int, depth: int) -> bytes:
    ports = random.choice(PORTS).to_bytes(2) + random.choice(PORTS).to_bytes(2)
    rest = random.randbytes(random.choice((0, 0, 1, 4, 8, 20, 60)))
    if protocol == 6:
        return ports + bytes(8) + bytes((0x50, random.choice(TCP_FLAGS))) + bytes(6) + rest
    if protocol == 17:
        return ports + (8 + len(rest)).to_bytes(2) + bytes(2) + rest
    if protocol == 132:
        return ports + bytes(8) + bytes((random.choice(SCTP_CHUNKS), 0, 0, 4)) + rest
    if protocol == 1:
        head = bytes((random.choice(ICMP_TYPES), 0, 0, 0, 0, random.randrange(4), 0, 0))
        return head + (_ipv4(random, side.other, depth + 1) if depth < 2 and random.random() < 0.6 else rest)
    return rest


def _transport6(random: Random, side: Side, depth: int) -> bytes:
    kind = random.choice(ICMP6_TYPES)
    if kind in (135, 136):
        asked = HOSTS6[side.other if kind == 135 else side]
        target = asked[:-1] + bytes((random.choice((asked[-1], random.randrange(4))),))
        option = bytes((random.choice((1, 2)), 1)) + random.choice((MACS[side], random.randbytes(6)))
        return bytes((kind, 0, 0, 0, 0, 0, 0, 0)) + target + (option if random.random() < 0.8 else b"")
    head = bytes((kind, 0, 0, 0, 0, random.randrange(4), 0, 0))
    if depth < 2 and random.random() < 0.6:
        return head + _ipv6(random, side.other, depth + 1)
    return head + random.randbytes(random.choice((0, 4, 8, 24)))


def _arp(random: Random, side: Side) -> bytes:
    ends = _pair(random, HOSTS, side)
    asked = ends[:4] if random.random() < 0.2 else ends[4:]
    head = random.choice((b"\0\1\x08\0\6\4", b"\0\1\x08\0\6\4", b"\0\1\x08\0\6\4", random.randbytes(6)))
    operation = bytes((0, random.choice((1, 1, 1, 2, 2, 3, 8))))
    sender = random.choice((MACS[side], random.randbytes(6)))
    return head + operation + sender + ends[:4] + bytes(6) + asked + bytes(random.choice((0, 18)))


# --- changes ----------------------------------------------------------------------------------------------------------


def _flip(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    if frame:
        frame[random.randrange(len(frame))] ^= 1 << random.randrange(8)


def _poke(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    if frame:
        frame[random.randrange(len(frame))] = random.choice(BYTES)


def _header_poke(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    at = random.randrange(12, 64)
    if at < len(frame):
        frame[at] = random.choice((*BYTES, *PROTOCOLS, *EXTENSIONS))


def _type(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    frame[12:14] = random.choice(ETHERTYPES)


def _cut(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    del frame[random.randrange(len(frame) + 1) :]


def _grow(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    frame += random.randbytes(random.choice((1, 4, 40, 400)))


def _splice(random: Random, frame: bytearray, seeds: Sequence[bytes]) -> None:
    at = random.choice((12, 14, 18, 34, 54))
    frame[at:] = random.choice(seeds)[random.choice((12, 14, 18, 34, 54)) :]


def _tag(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    frame[12:12] = _tag_of(random)


def _repeat(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    start = random.choice((14, 34, 54))
    piece = frame[start : start + random.choice((4, 8, 20, 40))]
    frame[start:start] = piece * random.choice((1, 2, 8))


Change = Callable[[Random, bytearray, Sequence[bytes]], None]
CHANGES: tuple[Change, ...] = (
    *(_flip, _flip, _poke, _poke, _header_poke, _header_poke),
    *(_type, _cut, _grow, _splice, _tag, _repeat),
)

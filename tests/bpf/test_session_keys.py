"""What belongs to one session, by the key of its cross-connection: it stays with one replica, both ways."""

from __future__ import annotations

import itertools
import random
import struct
import time
from collections.abc import Callable

import pytest
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE, PPPoED
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from controller.node.plane.model import LinkState
from sfc.chain import Patience, SessionKey, Side
from tests.bpf import frames
from tests.bpf.frames import MAC
from tests.bpf.node import CONNECTION, Node

BEHIND = CONNECTION + 1
"""The cross-connection on the other side of the downstream stage: that is its upstream side."""
UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
SENDERS, STAGE, FAR = (1, 2, 3), (11, 12, 13), (31, 32, 33)
INNER, OUTER = STAGE, (21, 22, 23)
"""The links of the stage's replicas in either cross-connection."""
Ends = tuple[str, str]
"""The addresses at the upstream and at the downstream side."""
KEYS = (SessionKey.ADDRESSES, SessionKey.UPSTREAM_ADDRESS)


@pytest.fixture
def chain(node: Node) -> Node:
    """Three replicas at each of two cross-connections."""
    node.serve(UP, SENDERS)
    node.serve(DOWN, INNER)
    node.serve(UP, OUTER, connection=BEHIND)
    node.serve(DOWN, FAR, connection=BEHIND)
    return node


def by(node: Node, key: SessionKey) -> Node:
    for connection in (CONNECTION, BEHIND):
        node.datapath.set_session_key(connection, key)
    return node


def packet(ends: Ends, sender: Side, payload: Packet) -> Packet:
    network = IPv6 if ":" in ends[0] else IP
    return frames.ether(sender) / network(src=ends[sender], dst=ends[sender.other]) / payload


def payloads(sender: Side, number: int) -> list[Packet]:
    """Packets of several protocols and ports, one conversation for each number."""
    ports = frames.ports(sender, 20000 + number, 80 + number)
    return [
        TCP(**ports, flags="A") / b"data",
        UDP(**ports) / b"data",
        SCTP(**ports) / Raw(bytes(16)),
        ICMP(type="echo-request" if sender == UP else "echo-reply", id=number) / b"data",
        Raw(b"whatever comes behind"),
    ]


def subscribers(count: int, version: int) -> list[str]:
    return [f"100.64.{n >> 8}.{n & 255}" if version == 4 else f"2001:db8::{n:x}" for n in range(1, count + 1)]


@pytest.mark.parametrize("version", (4, 6))
@pytest.mark.parametrize("key", KEYS)
def test_all_that_belongs_together_goes_to_one_replica_in_both_directions(
    chain: Node, key: SessionKey, version: int
) -> None:
    by(chain, key)
    used, server = set(), "192.0.2.1" if version == 4 else "2001:db8:1::1"

    for number, address in enumerate(subscribers(30, version)):
        servers = [server] if key == SessionKey.ADDRESSES else [f"{server}{n}" for n in range(3)]
        ends: list[Ends] = [(address, each) for each in servers]
        there = [packet(each, UP, payload) for each in ends for payload in payloads(UP, number)]
        back = [packet(each, DOWN, payload) for each in ends for payload in payloads(DOWN, number)]
        random.Random(number).shuffle(back)

        at_first = {INNER.index(chain.receiver(1, frame)) for frame in there}
        from_behind = {OUTER.index(chain.receiver(FAR[0], frame)) for frame in back}

        assert len(at_first) == 1
        assert from_behind == at_first, "the cross-connection behind the stage chose another replica"
        assert {chain.receiver(INNER[next(iter(at_first))], frame) for frame in back} == {1}
        used |= at_first
    assert used == {0, 1, 2}


@pytest.mark.parametrize("key", KEYS)
def test_a_stage_that_grows_keeps_its_sessions(chain: Node, key: SessionKey) -> None:
    by(chain, key)
    ends: list[Ends] = [(address, "192.0.2.1") for address in subscribers(100, 4)]
    before = [chain.receiver(1, packet(each, UP, payloads(UP, 1)[0])) for each in ends]

    chain.serve(DOWN, (*INNER, 14, 15, 16, 17, 18))

    assert [chain.receiver(2, packet(each, UP, payloads(UP, 2)[1])) for each in ends] == before


@pytest.mark.parametrize("key", KEYS)
def test_a_tagged_frame_and_an_untagged_one_choose_alike(chain: Node, key: SessionKey) -> None:
    """A function may add or remove the tag, between two cross-connections that must choose the same replica."""
    by(chain, key)

    for address in subscribers(20, 4):
        plain = packet((address, "192.0.2.1"), UP, payloads(UP, 1)[1])
        tagged = Ether(bytes(plain))
        tagged = Ether(src=plain.src, dst=plain.dst) / Dot1Q(vlan=5) / Dot1Q(vlan=6) / plain[IP]

        assert chain.receiver(1, tagged) == chain.receiver(1, plain)


@pytest.mark.parametrize("key", KEYS)
def test_fragments_need_no_ports_and_errors_follow_the_packet_that_they_quote(chain: Node, key: SessionKey) -> None:
    by(chain, key)

    for number in range(10):
        parts = frames.fragments(UP, number)
        random.Random(number).shuffle(parts)
        [there] = {chain.receiver(1, part) for part in parts}
        error = frames.icmp_error(frames.udp(UP, number), DOWN)

        assert chain.receiver(there, error) == 1
    assert not chain.tally().verdicts, "fragments are not remarkable where no session needs their ports"


@pytest.mark.parametrize("key", KEYS)
def test_neighbours_are_asked_for_by_their_own_addresses(chain: Node, key: SessionKey) -> None:
    by(chain, key)
    chosen = {chain.receiver(1, frames.arp(UP, number)) for number in range(50)}

    assert chosen == set(INNER)


@pytest.mark.parametrize("key", KEYS)
def test_the_end_of_one_connection_is_not_the_end_of_its_session(chain: Node, key: SessionKey) -> None:
    by(chain, key)
    chain.datapath.set_patience(CONNECTION, Patience(tcp=60, udp=5, other=5))
    there = chain.receiver(1, frames.tcp(UP, 1, flags="S"))
    assert _active(chain, there) == 1
    chain.age_of_sessions(10)
    assert _active(chain, there) == 0, "nobody has answered: no longer than other protocols"
    for sender, flags in ((UP, "S"), (DOWN, "SA"), (UP, "A"), (UP, "FA"), (DOWN, "FA"), (UP, "A"), (DOWN, "R")):
        chain.deliver(1 if sender == UP else there, frames.tcp(sender, 1, flags=flags))
    chain.age_of_sessions(10)

    chain.link(there, DOWN, LinkState.DRAINING)
    chain.serve(DOWN, tuple(slot for slot in INNER if slot != there))

    assert _active(chain, there) == 1, "another connection of the session may live"
    assert chain.receiver(1, frames.tcp(UP, 2, flags="S")) == there
    chain.age_of_sessions(61)
    assert _active(chain, there) == 0
    assert chain.receiver(1, frames.tcp(UP, 2)) != there


@pytest.mark.parametrize("key", (*KEYS, SessionKey.FLOW))
def test_sessions_begin_anew_when_the_key_changes(chain: Node, key: SessionKey) -> None:
    """A drain would wait for sessions that no frame finds."""
    before = SessionKey.FLOW if key != SessionKey.FLOW else SessionKey.ADDRESSES
    by(chain, before)
    for number, sender in itertools.product(range(20), (UP, DOWN)):
        chain.deliver(1 if sender == UP else 11, frames.udp(sender, number))
    assert list(chain.datapath.sessions())

    by(chain, key)
    chain.datapath.sweep()

    assert not list(chain.datapath.sessions())
    assert chain.datapath.observe().session_keys == ({} if key == SessionKey.FLOW else {CONNECTION: key, BEHIND: key})


def test_a_key_is_that_of_one_cross_connection(chain: Node) -> None:
    """Inside a translation by subscriber, outside by flow."""
    chain.datapath.set_session_key(CONNECTION, SessionKey.UPSTREAM_ADDRESS)
    flows = [frames.udp(UP, number) for number in range(50)]

    assert len({chain.receiver(1, frame) for frame in flows}) == 1
    assert len({chain.receiver(OUTER[0], frame) for frame in flows}) == 3


ACCESS, CORE = "198.51.100.1", "198.51.100.2"
"""The two ends of a tunnel."""


def gtpu(sender: Side, inner: Packet, options: str = "", kind: int = 255, port: int = 2152) -> Packet:
    """`port`: the source port, which either end may choose. `options`: in hexadecimal, as they follow the header."""
    flags = 0x30 | (0x04 if len(options) > 8 else 0x02 if options else 0)
    payload = bytes.fromhex(options) + bytes(inner)
    header = struct.pack(">BBHI", flags, kind, len(payload), 0x1000 + sender)
    return UDP(sport=port, dport=2152) / Raw(header + payload)


def _vxlan(sender: Side, inner: Packet) -> Packet:
    return UDP(sport=40000 + sender, dport=4789) / Raw(b"\x08" + bytes(7)) / Ether() / inner


TUNNELS: dict[str, Callable[[Side, Packet], Packet]] = {
    "GTP-U": gtpu,
    "GTP-U, ports chosen locally": lambda sender, inner: gtpu(sender, inner, port=3000 + sender),
    "GTP-U with sequence numbers": lambda sender, inner: gtpu(sender, inner, "00070000"),
    "GTP-U with a PDU session container": lambda sender, inner: gtpu(sender, inner, "0000008501100900"),
    "GTP-U with two extension headers": lambda sender, inner: gtpu(sender, inner, "00000085011009850200000000000000"),
    "VXLAN": _vxlan,
    "GRE": lambda sender, inner: GRE() / inner,
    "GRE with a key and a checksum": lambda sender, inner: GRE(key_present=1, key=7, chksum_present=1) / inner,
    "Ethernet in GRE": lambda sender, inner: GRE(proto=0x6558) / Ether() / inner,
    "IP in IP": lambda sender, inner: inner,
}


def in_tunnel(sender: Side, payload: Packet, version: int = 4) -> Packet:
    ends = (ACCESS, CORE) if version == 4 else ("2001:db8:2::1", "2001:db8:2::2")
    return packet(ends, sender, payload)


def user_packet(sender: Side, number: int, version: int) -> Packet:
    subscriber, server = ("10.45.0.1", "192.0.2.1") if version == 4 else ("2001:db8:45::1", "2001:db8:1::1")
    ends = {UP: subscriber, DOWN: server}
    network = IP if version == 4 else IPv6
    return network(src=ends[sender], dst=ends[sender.other]) / TCP(
        **frames.ports(sender, 20000 + number, 443), flags="A"
    )


@pytest.mark.parametrize("outer", (4, 6))
@pytest.mark.parametrize("tunnel", TUNNELS)
def test_packets_in_a_tunnel_have_sessions_of_their_own(chain: Node, tunnel: str, outer: int) -> None:
    """The stage may take the tunnel off: behind it, the same packets without one choose the same replica."""
    by(chain, SessionKey.INNER)
    used = set()
    for version, number in itertools.product((4, 6), range(12)):
        there, back = (in_tunnel(s, TUNNELS[tunnel](s, user_packet(s, number, version)), outer) for s in Side)

        chosen = INNER.index(chain.receiver(1, there))
        assert chain.receiver(INNER[chosen], back) == 1
        assert OUTER.index(chain.receiver(FAR[0], back)) == chosen
        assert OUTER.index(chain.receiver(FAR[0], frames.ether(DOWN) / user_packet(DOWN, 50 + number, version))) == (
            INNER.index(
                chain.receiver(1, in_tunnel(UP, TUNNELS[tunnel](UP, user_packet(UP, 50 + number, version)), outer))
            )
        )
        used.add(chosen)
    assert used == {0, 1, 2}


def test_subscribers_in_one_tunnel_keep_their_replicas_while_the_stage_grows(chain: Node) -> None:
    by(chain, SessionKey.INNER)
    uplink = [in_tunnel(UP, gtpu(UP, user_packet(UP, number, 4))) for number in range(200)]
    before = [chain.receiver(1, frame) for frame in uplink]
    assert set(before) == set(INNER)

    chain.serve(DOWN, (*INNER, 14, 15, 16, 17, 18))

    assert [chain.receiver(2, frame) for frame in uplink] == before


def test_what_is_about_the_tunnel_draws_no_packet_in_it_along(chain: Node) -> None:
    """An echo has the addresses and ports of the tunnel. A known session of those would be found first."""
    by(chain, SessionKey.INNER)
    echo = {sender: in_tunnel(sender, gtpu(sender, Raw(b"\0\0"), "00010000", kind=1 + sender)) for sender in Side}
    there = chain.receiver(1, echo[UP])
    for _ in range(3):
        assert chain.receiver(there, echo[DOWN]) == 1
        assert chain.receiver(1, echo[UP]) == there

    assert {chain.receiver(1, in_tunnel(UP, gtpu(UP, user_packet(UP, n, 4)))) for n in range(50)} == set(INNER)
    error = frames.icmp_error(echo[UP], DOWN)
    assert chain.receiver(there, error) == 1


def test_fragments_of_a_tunnels_packet_follow_the_first(chain: Node) -> None:
    by(chain, SessionKey.INNER)
    for number in range(20):
        whole = IP(bytes(in_tunnel(UP, gtpu(UP, user_packet(UP, number, 4) / Raw(bytes(2000))))[IP]))
        whole.id = 100 + number
        parts = [frames.ether(UP) / part for part in whole.fragment(1400)]
        small = in_tunnel(UP, gtpu(UP, user_packet(UP, number, 4)))

        assert len({chain.receiver(1, frame) for frame in (*parts, small)}) == 1


def test_fragments_in_a_tunnel_follow_the_first(chain: Node) -> None:
    by(chain, SessionKey.INNER)
    for number in range(20):
        inner = [part[IP] for part in frames.fragments(UP, number)]

        assert len({chain.receiver(1, in_tunnel(UP, gtpu(UP, part))) for part in inner}) == 1


@pytest.mark.parametrize("payload", (b"", b"\x30", b"\x34\xff\0\0\0\0\0\0\0\0\0\x85\xff", b"\x30\xff" + bytes(26)))
def test_a_tunnels_packet_that_cannot_be_read_goes_by_the_tunnels_addresses(chain: Node, payload: bytes) -> None:
    by(chain, SessionKey.INNER)
    broken = {sender: in_tunnel(sender, UDP(sport=2152, dport=2152) / Raw(payload)) for sender in Side}

    there = chain.receiver(1, broken[UP])

    assert chain.receiver(there, broken[DOWN]) == 1
    assert chain.receiver(1, in_tunnel(UP, gtpu(UP, Raw(b"")))) == there
    whole = IP(bytes(in_tunnel(UP, UDP(sport=2152, dport=2152) / Raw(payload + bytes(3000)))[IP]))
    assert {chain.receiver(1, frames.ether(UP) / part) for part in whole.fragment(1400)} == {there}


def _active(node: Node, slot: int) -> int:
    return node.datapath.activity({slot}, time.clock_gettime_ns(time.CLOCK_MONOTONIC))[slot]


def _pppoe(sender: Side, number: int) -> Packet:
    return frames.ether(sender) / PPPoE(sessionid=number) / PPP() / b"data"


def _mpls(sender: Side, number: int) -> Packet:
    return frames.ether(sender) / MPLS(label=number, s=1, ttl=63 - sender) / IP(src="192.0.2.1", dst="192.0.2.2")


def _mac(number: int, sender: Side) -> dict[str, str]:
    ends = {UP: f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}", DOWN: MAC[DOWN]}
    return {"src": ends[sender], "dst": ends[sender.other]}


def _unknown(sender: Side, number: int) -> Packet:
    return Ether(**_mac(number, sender), type=0x88B5) / b"an experiment"


def _three_tags(sender: Side, number: int) -> Packet:
    tags = Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3)
    return Ether(**_mac(number, sender)) / tags / IP(src="192.0.2.1", dst="192.0.2.2") / UDP()


WITHOUT_IP = {"PPPoE": _pppoe, "MPLS": _mpls, "another EtherType": _unknown, "three tags": _three_tags}
frames_without_ip = pytest.mark.parametrize("frame", WITHOUT_IP.values(), ids=WITHOUT_IP.keys())


@frames_without_ip
def test_frames_without_ip_have_sessions_that_stay_while_a_stage_grows(
    chain: Node, frame: Callable[[Side, int], Packet]
) -> None:
    """Whatever the key: it is about addresses of IP."""
    by(chain, SessionKey.UPSTREAM_ADDRESS)
    before = [chain.receiver(1, frame(UP, number)) for number in range(1, 201)]
    assert set(before) == set(INNER)

    chain.serve(DOWN, (*INNER, 14, 15, 16, 17, 18))

    assert [chain.receiver(1, frame(UP, number)) for number in range(1, 201)] == before
    assert [chain.receiver(slot, frame(DOWN, n)) for n, slot in enumerate(before, 1)] == [1] * 200


@frames_without_ip
def test_a_drain_waits_for_frames_without_ip(chain: Node, frame: Callable[[Side, int], Packet]) -> None:
    there = chain.receiver(1, frame(UP, 1))
    chain.link(there, DOWN, LinkState.DRAINING)
    chain.serve(DOWN, tuple(slot for slot in INNER if slot != there))

    assert _active(chain, there) == 1
    assert chain.receiver(1, frame(UP, 1)) == there
    chain.age_of_sessions(10)
    assert _active(chain, there) == 0
    assert chain.receiver(1, frame(UP, 1)) != there


def test_a_pppoe_session_stays_with_the_replica_that_assigned_its_number(chain: Node) -> None:
    """Discovery is about the MACs, until the answer that has the number."""
    for number in range(1, 31):
        concentrator = INNER[number % 3]
        assigned = frames.ether(DOWN) / PPPoED(code=0x65, sessionid=number)
        assert chain.receiver(concentrator, assigned) in SENDERS

        assert chain.receiver(1, _pppoe(UP, number)) == concentrator
        assert chain.receiver(1, frames.ether(UP) / PPPoED(code=0xA7, sessionid=number)) == concentrator


def test_kinds_of_frames_without_ip_share_no_session(chain: Node) -> None:
    for frame in (_pppoe(UP, 7), _mpls(UP, 7), frames.ether(UP, type=0x88B5) / b"an experiment"):
        chain.receiver(1, frame)

    assert len(list(chain.datapath.sessions())) == 3

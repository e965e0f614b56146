"""Tables that strangers share: one cross-connection fills all that it can, and another one works on as if it was alone.

What a frame writes has places of its own cross-connection, or of its own link. So it can push out only its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from bcc import BPF
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from controller.node.kernel.maps import FRAGMENT_PLACES, LEARNED_PLACES, map_info
from controller.node.plane.model import SLOTS, Contest, LinkState
from controller.node.plane.neighbours import NEIGHBOURS_PER_LINK
from controller.node.plane.numbers import Numbered
from controller.node.reconcile.reconciler import Reconciler
from sfc.chain import Side
from tests.bpf.frames import ADDRESS, BROADCAST, MAC, ether, fragments, tcp, udp
from tests.bpf.node import CONNECTION, SLOT_FROM_MARK, Node
from tests.unit.test_numbers import node as one_replica_each
from tests.unit.test_numbers import two_stages
from tests.unit.test_reconciler import Node as FakeLinks
from tests.unit.test_refusals import with_addresses

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
ATTACKER = CONNECTION + 1
SLOTS_OF = {CONNECTION: {UP: (1, 2), DOWN: (11, 12, 13)}, ATTACKER: {UP: (21, 22), DOWN: (31,)}}
MANY = 600
HOST, HOST_MAC = "10.1.0.99", "02:00:00:00:00:99"


@pytest.fixture
def shared(node: Node) -> Node:
    for connection, sides in SLOTS_OF.items():
        for side, slots in sides.items():
            node.serve(side, slots, connection=connection)
    return node


AT_A_TIME = 40
"""Datagrams that are under way at one link."""


def first_fragment(number: int) -> Packet:
    header = IP(src=str(ip_address(0x0B000000 + number)), dst="10.1.0.1", id=number & 0xFFFF, flags="MF")
    return ether(UP) / header / UDP(sport=1000 + number, dport=53)


def whole_datagram(source: str) -> list[Packet]:
    """Its two fragments, the first one first."""
    whole = IP(src=source, dst="10.1.0.1", id=7) / UDP(sport=1000, dport=53) / Raw(bytes(2000))
    return [ether(UP) / part for part in whole.fragment(fragsize=1400)]  # type: ignore[no-untyped-call]


def announcement(number: int) -> Packet:
    address = str(ip_address(0x0B000000 + number))
    return Ether(src=HOST_MAC, dst=BROADCAST) / ARP(op="is-at", hwsrc=HOST_MAC, psrc=address, pdst=address)


def size(node: Node, name: str, **where: int) -> int:
    """Elements of a map; with `owner`, those of a cross-connection or a link."""
    return sum(key[0] == where.get("owner", key[0]) for key, _ in node.datapath._maps[name].items())


def test_datagrams_of_a_stranger_push_out_no_fragment(shared: Node) -> None:
    first, *rest = fragments(UP, 0)
    chosen = shared.receiver(1, first)

    for number in range(MANY):
        shared.deliver(21, first_fragment(number))

    assert [shared.receiver(1, part) for part in rest] == [chosen] * len(rest)
    assert shared.datapath.counters.remarks() == {}
    assert FRAGMENT_PLACES // 2 < size(shared, "fragments", owner=21) <= FRAGMENT_PLACES


def test_fragments_of_many_datagrams_at_a_time_all_follow_their_first(node: Node) -> None:
    """As when several functions send large datagrams at the same moment: all first fragments, then all others."""
    node.serve(UP, (1,))
    node.serve(DOWN, (11, 12, 13))
    datagrams = [whole_datagram(str(ip_address(0x0B000000 + 1021 * number))) for number in range(AT_A_TIME)]

    chosen = [node.receiver(1, first) for first, _ in datagrams]
    followed = [node.receiver(1, rest) for _, rest in datagrams]

    assert followed == chosen
    assert node.tally().verdicts["lone_fragment"] == 0


def test_datagrams_of_one_link_push_out_no_fragment_of_another_link_of_its_chain(shared: Node) -> None:
    first, *rest = fragments(UP, 0)
    chosen = shared.receiver(1, first)

    for number in range(MANY):
        shared.deliver(2, first_fragment(number))

    assert [shared.receiver(1, part) for part in rest] == [chosen] * len(rest)


def test_the_fragments_of_a_link_that_left_leave_room(shared: Node) -> None:
    shared.deliver(21, first_fragment(1))

    shared.datapath.clear_link(21)

    assert size(shared, "fragments") == 0


def test_a_datagram_whose_rest_has_passed_makes_room_for_others_at_once(node: Node) -> None:
    """Each of many datagrams from other addresses finds a place, one after the other, though places are few."""
    node.serve(UP, (1,))
    node.serve(DOWN, (11, 12, 13))
    for number in range(300):
        source = str(ip_address(0x0B000000 + number * 7919))
        first, last = whole_datagram(source)
        chosen = node.receiver(1, first)
        assert node.receiver(1, last) == chosen
    assert node.datapath.counters.remarks() == {}


def test_addresses_that_a_stranger_announces_push_out_none(shared: Node) -> None:
    shared.send(11, Ether(src=HOST_MAC, dst=MAC[UP]) / ARP(op="is-at", hwsrc=HOST_MAC, psrc=HOST, pdst=ADDRESS[UP]))

    for number in range(MANY):
        shared.deliver(31, announcement(number))
    question = Ether(src=MAC[UP], dst=BROADCAST) / ARP(op="who-has", hwsrc=MAC[UP], psrc=ADDRESS[UP], pdst=HOST)
    outcome = shared.send(1, question)

    assert outcome.sent_to == 1
    assert Ether(outcome.frame)[ARP].hwsrc == HOST_MAC
    assert LEARNED_PLACES // 2 < size(shared, "learned", owner=ATTACKER) <= LEARNED_PLACES


def test_of_two_addresses_with_one_place_the_later_is_known_and_neither_gets_the_others_mac(shared: Node) -> None:
    for number in range(MANY):
        shared.deliver(31, announcement(number))

    answered = 0
    for number in range(MANY):
        asked = str(ip_address(0x0B000000 + number))
        question = Ether(src=MAC[UP], dst=BROADCAST) / ARP(op="who-has", hwsrc=MAC[UP], psrc=ADDRESS[UP], pdst=asked)
        _, frame = shared.deliver(21, question)
        if Ether(frame)[ARP].op == 2:
            answered += 1
            assert Ether(frame)[ARP].psrc == asked

    assert answered <= LEARNED_PLACES


def test_contests_of_a_stranger_hide_none(shared: Node) -> None:
    for slot in (1, 2):
        shared.send(slot, udp(UP))

    for number in range(MANY):
        shared.deliver(21, udp(UP, number % 30000))
        shared.deliver(22, udp(UP, number % 30000))

    contests = shared.datapath.counters.contests()
    assert contests[Contest(CONNECTION, UP, 1, 2)] == 1
    assert contests[Contest(ATTACKER, UP, 21, 22)] > MANY // 2


def test_a_slot_that_another_link_has_now_is_in_no_contest(shared: Node) -> None:
    for slot in (1, 2):
        shared.send(slot, udp(UP))

    shared.datapath.clear_link(1)
    shared.link(1, UP, connection=ATTACKER, ifindex=99)

    assert shared.datapath.counters.contests() == {}


def test_there_is_room_for_every_verdict_of_every_cross_connection_and_for_every_links_neighbours(node: Node) -> None:
    room = {name: map_info(node.datapath._maps[name].fd).max_entries for name in ("drops", "neighbours", "targets")}

    assert room == {"drops": 16 * SLOTS, "neighbours": NEIGHBOURS_PER_LINK * SLOTS, "targets": 2 * SLOTS}


def test_sessions_of_a_stranger_share_no_key(shared: Node) -> None:
    chosen = [shared.receiver(1, tcp(UP, number)) for number in range(20)]

    taken = {shared.receiver(21, tcp(UP, number)) for number in range(20)}

    assert taken == {31}
    assert [shared.receiver(1, tcp(UP, number)) for number in range(20)] == chosen


def test_numbers_are_observed_as_they_were_set_and_readable_in_the_map(node: Node) -> None:
    name = Numbered("5e0f5c44-3a1e-4a53-9a35-1c3d1a0b7e30", "telco", "edge.client.lan.firewall.left")
    longest = Numbered("u" * 36, "n" * 63, ".".join(["c" * 63, "s" * 63, "i" * 15, "t" * 63, "j" * 15]))

    node.datapath.set_number(7, name)
    node.datapath.set_number(0xFFFFFFFF, longest)

    assert node.datapath.observe().numbers == {7: name, 0xFFFFFFFF: longest}
    node.datapath.forget(7)
    node.datapath.sweep()
    assert node.datapath.observe().numbers == {0xFFFFFFFF: longest}


def test_a_name_that_no_chain_can_have_is_refused(node: Node) -> None:
    with pytest.raises(ValueError, match="has 300 bytes, and a map holds 223"):
        node.datapath.set_number(7, Numbered("uid", "telco", "x" * 300))


EARLIER = """
struct learned_key { u32 connection; u32 side; u32 address[4]; };
struct learned { u64 mac; u64 at; };
struct fragment_key { u32 connection; u32 side; u32 ends[8]; u64 datagram; };
struct contest { u32 fields[4]; };
struct drop_key { u32 connection; u32 verdict; };
BPF_TABLE_PINNED("hash", struct learned_key, u64, neighbours, 16384, PIN_ROOT "/neighbours", BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("lru_hash", struct learned_key, struct learned, learned, 16384, PIN_ROOT "/learned");
BPF_TABLE_PINNED("lru_hash", struct fragment_key, u64, fragments, 16384, PIN_ROOT "/fragments");
BPF_TABLE_PINNED("percpu_hash", struct drop_key, u64, drops, 16384, PIN_ROOT "/drops", BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("lru_hash", struct contest, u64, contests, 1024, PIN_ROOT "/contests");
"""
"""The maps that the version before had in another layout. The others were as they are."""
HASHED = 0xBAD5EED


@pytest.fixture
def earlier(bpffs: Path) -> Iterator[Node]:
    """A node as the version before left it: a session of a cross-connection whose number is a hash."""
    pins = bpffs / "earlier"
    former = Node(pins)
    former.serve(UP, (1,), connection=HASHED)
    former.serve(DOWN, (11, 12, 13), connection=HASHED)
    for name in ("neighbours", "learned", "fragments", "drops", "contests", "numbers"):
        (pins / name).unlink()
    BPF(text=EARLIER.encode(), cflags=[f'-DPIN_ROOT="{pins}"']).cleanup()
    yield former
    former.close()
    for pin in pins.glob("*"):
        pin.unlink()


def test_over_the_maps_of_the_version_before_sessions_go_on_and_its_number_is_adopted(
    earlier: Node, bpffs: Path
) -> None:
    chosen = [earlier.receiver(1, tcp(UP, number)) for number in range(20)]

    later = Node(bpffs / "earlier")
    name = Numbered("uid", "telco", "edge.client.lan.firewall.left")
    later.datapath.set_number(HASHED, name)
    later.datapath.set_neighbour(HASHED, UP, ADDRESS[DOWN], MAC[DOWN])
    later.serve(DOWN, (14,), connection=HASHED)

    assert {entry.connection for entry in later.datapath.observe().links.values()} == {HASHED}
    assert later.datapath.observe().numbers == {HASHED: name}
    assert [later.receiver(1, tcp(UP, number)) for number in range(20)] == chosen
    assert later.receiver(1, tcp(UP, 50)) == 14
    later.datapath.close()


def test_a_map_that_is_full_holds_up_the_chain_that_needs_it_and_no_other(bpffs: Path) -> None:
    """The real kernel refuses. Elements of nobody fill the map of neighbours, and the pass clears them at its end."""
    room = ["-UNEIGHBOURS_PER_LINK", "-DNEIGHBOURS_PER_LINK=1"]
    node = Node(bpffs / "full", cflags=[SLOT_FROM_MARK, *room])
    cluster, links = one_replica_each(with_addresses("bad"), two_stages("good"))
    reconciler = Reconciler(FakeLinks(*links), node.datapath, lambda: cluster)
    for number in range(SLOTS):
        node.datapath._neighbours.put((99, 0, number.to_bytes(16)), (b"",))

    reconciler.reconcile()
    states = {slot: entry.state for slot, entry in node.datapath.observe().links.items()}
    targets = len(node.datapath.observe().targets)
    refused = dict(reconciler.state.refused)
    reconciler.reconcile(verify=False)

    assert (states[3], states[4], targets) == (LinkState.SERVING, LinkState.SERVING, 2)
    assert list(refused) == [("telco", "bad")]
    assert refused["telco", "bad"].message.startswith("BPF map neighbours can not be written: Argument list too long")
    assert reconciler.state.refused == {}
    assert len(node.datapath.observe().targets) == 4
    node.close()

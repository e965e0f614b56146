"""Whatever a replica sends arrives on the other side, unchanged, or is dropped with a reason."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from controller.model import LinkState
from sfc.chain import Side
from tests.bpf.frames import BROADCAST, MAC, WITH_SESSION, WITHOUT_SESSION, Conversation, tcp, udp
from tests.bpf.node import CONNECTION, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, Node, shortest, test_run

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
SLOTS = {UP: (1, 2, 3), DOWN: (11, 12, 13)}
KINDS = WITH_SESSION | WITHOUT_SESSION


@pytest.fixture
def wired(node: Node) -> Node:
    for side in Side:
        node.serve(side, SLOTS[side])
    return node


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sender", Side)
def test_every_kind_of_frame_arrives_unchanged_on_the_other_side(wired: Node, kind: str, sender: Side) -> None:
    frame = KINDS[kind](sender, 0)

    outcome = wired.send(SLOTS[sender][0], frame)

    assert outcome.action == TC_ACT_REDIRECT
    assert outcome.sent_to in SLOTS[sender.other]
    assert outcome.frame == bytes(frame)


@pytest.mark.parametrize("kind", WITHOUT_SESSION)
@pytest.mark.parametrize("sender", Side)
def test_what_has_no_session_goes_by_its_addresses(wired: Node, kind: str, sender: Side) -> None:
    def receivers(number: int) -> set[int]:
        return {wired.receiver(slot, WITHOUT_SESSION[kind](sender, number)) for slot in SLOTS[sender]}

    by_pair = [receivers(number) for number in range(60)]

    assert {len(each) for each in by_pair} == {1}
    assert set().union(*by_pair) == set(SLOTS[sender.other])
    assert not list(wired.datapath.sessions())


@pytest.mark.parametrize("destination", [BROADCAST, "01:00:5e:00:00:fb", "33:33:00:00:00:01"])
def test_broadcast_and_multicast_go_to_one_link_of_the_other_side(wired: Node, destination: str) -> None:
    frame = Ether(src=MAC[UP], dst=destination) / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)

    receivers = {wired.receiver(slot, frame) for slot in SLOTS[UP] for _ in range(3)}

    assert len(receivers) == 1
    assert receivers < set(SLOTS[DOWN])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sender", Side)
def test_a_frame_cut_off_anywhere_is_still_carried(wired: Node, kind: str, sender: Side) -> None:
    frame = bytes(KINDS[kind](sender, 0))

    actions = {
        length: test_run(wired.datapath.program_fd, SLOTS[sender][0], frame[:length])[:2]
        for length in range(shortest(frame), len(frame) + 1)
    }

    assert actions == {length: (TC_ACT_REDIRECT, frame[:length]) for length in actions}


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ethertype=st.sampled_from([b"\x08\x00", b"\x08\x06", b"\x86\xdd", b"\x81\x00"]),
    start=st.sampled_from(
        [
            b"",
            b"\x45",
            b"\x4f",
            b"\x44",
            b"\x65",
            b"\x60\0\0\0\0\x20\x3a\xff",
            b"\x60\0\0\0\0\x20\0\1",
            b"\0\1\x08\0\6\4\0\1",
        ]
    ),
    rest=st.binary(max_size=120),
    slot=st.sampled_from([1, 11]),
)
def test_random_bytes_are_carried(wired: Node, ethertype: bytes, start: bytes, rest: bytes, slot: int) -> None:
    frame = bytes.fromhex("020000000002020000000001") + ethertype + start + rest
    frame = frame.ljust(shortest(frame), b"\0")

    action, out, _ = test_run(wired.datapath.program_fd, slot, frame)

    assert (action, out) == (TC_ACT_REDIRECT, frame)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_target_a_frame_is_dropped_and_counted_so(wired: Node, kind: str) -> None:
    wired.datapath.clear_targets(CONNECTION, DOWN)

    outcome = wired.send(1, KINDS[kind](UP, 0))

    assert outcome.action == TC_ACT_SHOT
    assert wired.datapath.drops() == {(CONNECTION, "no_target"): 1}


def test_with_every_target_gone_a_frame_is_dropped_and_counted_so(wired: Node) -> None:
    for slot in SLOTS[DOWN]:
        wired.link(slot, DOWN, LinkState.GONE)

    actions = [wired.send(1, udp(UP, number)).action for number in range(3)]

    assert actions == [TC_ACT_SHOT] * 3
    assert wired.datapath.drops() == {(CONNECTION, "no_target"): 3}


def test_a_link_that_is_not_wired_is_dropped_and_counted_so(wired: Node) -> None:
    outcome = wired.send(20, tcp(UP))

    assert outcome.action == TC_ACT_SHOT
    assert wired.datapath.drops() == {(0, "unwired"): 1}


@pytest.mark.parametrize("slot", [0, 4096, 65535], ids=["no slot", "beyond the last slot", "highest class id"])
def test_a_frame_without_a_slot_is_left_to_the_host(wired: Node, slot: int) -> None:
    assert wired.send(slot, tcp(UP)).action == TC_ACT_UNSPEC


def test_a_frame_from_another_interface_than_its_slot_says_is_left_to_the_host(wired: Node) -> None:
    wired.link(20, UP, ifindex=4711)

    assert wired.send(20, tcp(UP)).action == TC_ACT_UNSPEC


@pytest.mark.parametrize("state", [LinkState.WIRED, LinkState.SERVING, LinkState.DRAINING, LinkState.GONE])
def test_what_a_link_sends_is_carried_in_every_state(wired: Node, state: LinkState) -> None:
    wired.link(1, UP, state)

    assert wired.receiver(1, tcp(UP)) in SLOTS[DOWN]


@pytest.mark.parametrize("sender", Side)
def test_no_frame_goes_to_a_replica_of_its_own_side(wired: Node, sender: Side) -> None:
    """Not even one that pretends to come from the other side, once there is a session."""
    frames: list[Packet] = [conversation(side, 1) for conversation in KINDS.values() for side in Side]

    receivers = {wired.receiver(slot, frame) for slot in SLOTS[sender] for frame in frames}

    assert receivers <= set(SLOTS[sender.other])


def test_a_table_that_names_links_of_elsewhere_reaches_none_of_them(wired: Node) -> None:
    """What a reader may hold for a moment when a table's memory is taken for another side's."""
    foreign: Conversation = udp
    wired.serve(DOWN, (21, 22), connection=CONNECTION + 1)
    wired.datapath.set_targets(CONNECTION, DOWN, wired.datapath.observe().targets[CONNECTION + 1, DOWN])

    outcome = wired.send(1, foreign(UP, 0))

    assert outcome.sent_to is None
    assert wired.datapath.drops() == {(CONNECTION, "no_target"): 1}

"""Every frame of a replica arrives unchanged on the other side, or is dropped for a named reason."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.node.kernel.counters import verdicts
from controller.node.plane.model import LinkState
from sfc.chain import Side
from tests.bpf.frames import tcp, udp
from tests.bpf.kinds import KINDS, Fate
from tests.bpf.node import CONNECTION, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, Node, Tally, shortest
from tests.bpf.observation import wire

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
SLOTS = {UP: (1, 2, 3), DOWN: (11, 12, 13)}
FRAMES = {name: {side: bytes(kind.frame(side, 0)) for side in Side} for name, kind in KINDS.items()}
PROPERTY = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def wired(node: Node) -> Node:
    wire(node, SLOTS)
    return node


def assert_each_has_one_fate(node: Node, slot: int, frames: Sequence[bytes]) -> Tally:
    """Each frame is sent to one link of the other side or answered to its sender's, or dropped for one named reason,
    and counted once; only an answer is another frame."""
    other_side = SLOTS[DOWN] if slot in SLOTS[UP] else SLOTS[UP]
    before = node.tally()

    outcomes = [node.deliver(slot, frame) for frame in frames]

    tally = node.tally().since(before)
    actions = [action for action, _ in outcomes]
    answered = [(frame, after) for frame, (_, after) in zip(frames, outcomes, strict=True) if after != frame]
    assert set(actions) <= {TC_ACT_REDIRECT, TC_ACT_SHOT}
    assert sum(tally.sent[each] for each in other_side) == actions.count(TC_ACT_REDIRECT) - len(answered)
    assert tally.sent[slot] == len(answered)
    assert [after[:6] for _, after in answered] == [frame[6:12] for frame, _ in answered]
    assert tally.sent.total() == actions.count(TC_ACT_REDIRECT)
    assert dropped(tally) == actions.count(TC_ACT_SHOT)
    return tally


def dropped(tally: Tally) -> int:
    return sum(tally.verdicts[name] for name in verdicts(dropped=True).values())


@pytest.mark.parametrize("sender", Side)
def test_every_kind_of_frame_arrives_unchanged_on_the_other_side(wired: Node, sender: Side) -> None:
    for name, kind in KINDS.items():
        for side, earlier in kind.before(sender, 0):
            wired.deliver(SLOTS[side][0], earlier)

        tally = assert_each_has_one_fate(wired, SLOTS[sender][0], [FRAMES[name][sender]])

        arrived = sum(tally.sent[slot] for slot in SLOTS[sender.other])
        assert arrived == (0 if kind.fate == Fate.ANSWERED else 1), name


@pytest.mark.parametrize("sender", Side)
def test_a_frame_cut_off_anywhere_is_still_carried(wired: Node, sender: Side) -> None:
    for kind, frames in FRAMES.items():
        frame = frames[sender]
        cut = [frame[:length] for length in range(shortest(frame), len(frame) + 1)]

        tally = assert_each_has_one_fate(wired, SLOTS[sender][0], cut)

        assert dropped(tally) == 0, kind


@PROPERTY
@given(
    ethertype=st.sampled_from([b"\x08\x00", b"\x08\x06", b"\x86\xdd", b"\x81\x00", b"\x88\xa8"]),
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
            b"\0\7\x08\0\x45",
            b"\0\7\x81\0\0\x08\x86\xdd\x60",
        ]
    ),
    rest=st.binary(max_size=120),
    sender=st.sampled_from(Side),
)
def test_random_bytes_are_carried(wired: Node, ethertype: bytes, start: bytes, rest: bytes, sender: Side) -> None:
    frame = bytes.fromhex("020000000002020000000001") + ethertype + start + rest

    tally = assert_each_has_one_fate(wired, SLOTS[sender][0], [frame.ljust(20, b"\0")])

    assert dropped(tally) == 0


@PROPERTY
@given(
    kind=st.sampled_from(list(KINDS)),
    sender=st.sampled_from(Side),
    flips=st.lists(st.integers(0, 150 * 8 - 1), min_size=1, max_size=30),
)
def test_a_frame_with_some_bits_wrong_is_carried(wired: Node, kind: str, sender: Side, flips: list[int]) -> None:
    """Each example flips one more bit at each step."""
    frame, walk = bytearray(FRAMES[kind][sender]), []
    for bit in flips:
        frame[bit // 8 % len(frame)] ^= 1 << bit % 8
        walk.append(bytes(frame).ljust(20, b"\0"))

    tally = assert_each_has_one_fate(wired, SLOTS[sender][0], walk)

    assert dropped(tally) == 0


@settings(PROPERTY, max_examples=40)
@given(
    states=st.tuples(*[st.sampled_from([None, *LinkState])] * 3),
    sender=st.sampled_from(Side),
)
def test_whatever_the_links_are_a_frame_has_one_fate(
    wired: Node, states: tuple[LinkState | None, ...], sender: Side
) -> None:
    """The targets stay as they were, as half-way through a change, and sessions of all frames before exist."""
    for slot, state in zip(SLOTS[sender.other], states, strict=True):
        if state:
            wired.link(slot, sender.other, state)
        else:
            wired.datapath.clear_link(slot)
    absent = [slot for slot, state in zip(SLOTS[sender.other], states, strict=True) if state in (None, LinkState.GONE)]

    for slot in SLOTS[sender]:
        wired.link(slot, sender)
        tally = assert_each_has_one_fate(wired, slot, [frames[sender] for frames in FRAMES.values()])

        assert [tally.sent[each] for each in absent] == [0] * len(absent)
        assert (dropped(tally) > 0) == (len(absent) == 3)


@pytest.mark.parametrize("sender", Side)
def test_no_frame_goes_to_a_replica_of_its_own_side(wired: Node, sender: Side) -> None:
    """Not even a frame with the other side's addresses, for which there is a session."""
    frames = [each[side] for each in FRAMES.values() for side in Side]

    for slot in SLOTS[sender]:
        assert_each_has_one_fate(wired, slot, frames)


@pytest.mark.parametrize("sender", Side)
def test_what_has_no_session_goes_to_one_link_whoever_sends_it(wired: Node, sender: Side) -> None:
    chosen = [name for name, kind in KINDS.items() if kind.fate == Fate.CHOSEN]

    receivers = {name: {wired.receiver(slot, FRAMES[name][sender]) for slot in SLOTS[sender]} for name in chosen}

    assert [name for name in chosen if len(receivers[name]) > 1] == []
    assert set().union(*receivers.values()) == set(SLOTS[sender.other])
    assert not list(wired.datapath.sessions())


def test_without_a_target_every_frame_is_dropped_and_counted_so(wired: Node) -> None:
    wired.datapath.clear_targets(CONNECTION, DOWN)
    asked = [name for name, kind in KINDS.items() if kind.fate != Fate.ANSWERED]

    tally = assert_each_has_one_fate(wired, 1, [FRAMES[name][UP] for name in asked])

    assert tally.verdicts["no_target"] == len(asked)


def test_with_every_target_gone_a_frame_is_dropped_and_counted_so(wired: Node) -> None:
    for slot in SLOTS[DOWN]:
        wired.link(slot, DOWN, LinkState.GONE)

    actions = [wired.send(1, udp(UP, number)).action for number in range(3)]

    assert actions == [TC_ACT_SHOT] * 3
    assert wired.datapath.counters.drops() == {(CONNECTION, "no_target"): 3}


def test_a_link_that_is_not_wired_is_dropped_and_counted_so(wired: Node) -> None:
    outcome = wired.send(20, tcp(UP))

    assert outcome.action == TC_ACT_SHOT
    assert wired.datapath.counters.drops() == {(0, "unwired"): 1}


def test_a_link_that_is_half_written_counts_as_one_that_is_not_wired(wired: Node) -> None:
    """The agent writes the connection first and the state last, and clears the state first."""
    ifindex, connection, side, _, plain, stamp = wired.datapath._links.get((1,))
    wired.datapath._links.put((1,), (ifindex, connection, side, 0, plain, stamp))

    outcome = wired.send(1, tcp(UP))

    assert outcome.action == TC_ACT_SHOT
    assert wired.datapath.counters.drops() == {(0, "unwired"): 1}


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


def test_a_table_that_names_links_of_elsewhere_reaches_none_of_them(wired: Node) -> None:
    """A reader may see such a table for a moment, when the kernel reuses a table's memory for another side."""
    wired.serve(DOWN, (21, 22), connection=CONNECTION + 1)
    wired.datapath.set_targets(CONNECTION, DOWN, wired.datapath.observe().targets[CONNECTION + 1, DOWN])

    outcome = wired.send(1, udp(UP))

    assert outcome.sent_to is None
    assert wired.datapath.counters.drops() == {(CONNECTION, "no_target"): 1}

"""Sessions: one entry for both directions keeps its replica while the link exists; the table chooses for new ones."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable

import pytest

from controller.node.plane import maglev
from controller.node.plane.model import LinkState, Traffic
from sfc.chain import Side
from tests.bpf.frames import Conversation, ping, tcp, udp
from tests.bpf.kinds import CONVERSATIONS, KINDS
from tests.bpf.node import CONNECTION, Node

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
UPSTREAM_SLOTS = (1, 2, 3, 4)
DOWNSTREAM_SLOTS = (11, 12, 13, 14)
NUMBERS = range(40)
FEW = range(8)


@pytest.fixture
def wired(node: Node) -> Node:
    node.serve(UP, UPSTREAM_SLOTS)
    node.serve(DOWN, DOWNSTREAM_SLOTS)
    return node


@functools.cache
def built(conversation: Conversation, sender: Side, number: int) -> bytes:
    """A cache, because scapy takes longer than all the rest of the tests."""
    return bytes(conversation(sender, number))


def sent(node: Node, slot: int, conversation: Conversation, sender: Side, numbers: Iterable[int]) -> dict[int, int]:
    return {number: node.receiver(slot, built(conversation, sender, number)) for number in numbers}


@pytest.mark.parametrize("kind", CONVERSATIONS)
@pytest.mark.parametrize("opener", Side)
def test_both_directions_meet_one_session_and_the_same_two_replicas(wired: Node, kind: str, opener: Side) -> None:
    question, answer = CONVERSATIONS[kind]
    openers, others = (UPSTREAM_SLOTS, DOWNSTREAM_SLOTS) if opener == UP else (DOWNSTREAM_SLOTS, UPSTREAM_SLOTS)

    for number in FEW:
        slot = openers[number % 4]
        chosen = wired.receiver(slot, built(question, opener, number))

        assert chosen in others
        assert wired.receiver(chosen, built(answer, opener.other, number)) == slot
        if not KINDS[kind].reacts_to:  # a request that has an answer need not be repeated
            assert wired.receiver(slot, built(question, opener, number)) == chosen
    assert len(list(wired.datapath.sessions())) == len(FEW)


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_new_sessions_spread_over_all_targets(wired: Node, kind: str) -> None:
    receivers = sent(wired, 1, CONVERSATIONS[kind][0], UP, range(24))

    assert set(receivers.values()) == set(DOWNSTREAM_SLOTS)


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_a_session_stays_when_the_targets_change(wired: Node, kind: str) -> None:
    question, _ = CONVERSATIONS[kind]
    before = sent(wired, 1, question, UP, FEW)

    wired.serve(DOWN, (15, 16))

    assert sent(wired, 1, question, UP, FEW) == before
    assert set(sent(wired, 1, question, UP, range(8, 24)).values()) == {15, 16}


@pytest.mark.parametrize(
    "kinds",
    [
        ("TCP", "TCP without payload", "TCP behind IP options"),
        ("UDP", "UDP without payload", "UDP, the frame cut off before the IP length", "first fragment"),
        ("802.1Q with VLAN 0 (priority tag), UDP", "UDP"),
        ("IPv6 TCP", "IPv6 TCP without payload"),
        ("IPv6 UDP", "IPv6 UDP behind all of these", "IPv6 atomic fragment (RFC 6946)", "IPv6 first fragment"),
    ],
    ids=lambda kinds: kinds[0],
)
def test_packets_of_one_conversation_share_its_session_however_they_are_wrapped(
    wired: Node, kinds: tuple[str, ...]
) -> None:
    receivers = {wired.receiver(1, KINDS[kind].frame(UP, 3)) for kind in kinds}

    assert len(receivers) == 1
    assert len(list(wired.datapath.sessions())) == 1


def test_two_hosts_that_ping_each_other_with_one_identifier_have_two_sessions(wired: Node) -> None:
    wired.send(1, ping(UP, number=5, pinger=UP))
    wired.send(11, ping(DOWN, number=5, pinger=DOWN))

    assert len(list(wired.datapath.sessions())) == 2


def test_a_draining_link_keeps_its_sessions_and_gets_no_new_one(wired: Node) -> None:
    before = sent(wired, 1, tcp, UP, NUMBERS)

    wired.serve(DOWN, DOWNSTREAM_SLOTS[1:])
    wired.link(11, DOWN, LinkState.DRAINING)

    assert 11 in before.values()
    assert sent(wired, 1, tcp, UP, NUMBERS) == before
    assert 11 not in sent(wired, 1, tcp, UP, range(100, 140)).values()


@pytest.mark.parametrize("kind", ["UDP", "IPv6 UDP"])
def test_a_port_used_again_after_a_silence_does_not_hold_up_a_drain(wired: Node, kind: str) -> None:
    """A session for which the drain no longer waits must not begin again on the replica that leaves."""
    question, answer = CONVERSATIONS[kind]
    before = sent(wired, 1, question, UP, NUMBERS)
    mine = [number for number in NUMBERS if before[number] == 11]
    wired.serve(DOWN, DOWNSTREAM_SLOTS[1:])
    wired.link(11, DOWN, LinkState.DRAINING)

    soon = sent(wired, 1, question, UP, mine)
    wired.age_of_sessions(seconds=6)
    late = sent(wired, 1, question, UP, mine)

    assert mine
    assert set(soon.values()) == {11}
    assert 11 not in late.values()
    assert sent(wired, 1, question, UP, mine) == late
    assert all(wired.receiver(late[number], answer(DOWN, number)) == 1 for number in mine)


def test_a_silent_tcp_connection_stays_with_a_replica_that_drains(wired: Node) -> None:
    before = sent(wired, 1, tcp, UP, NUMBERS)
    wired.serve(DOWN, DOWNSTREAM_SLOTS[1:])
    wired.link(11, DOWN, LinkState.DRAINING)

    wired.age_of_sessions(seconds=250)

    assert sent(wired, 1, tcp, UP, NUMBERS) == before


@pytest.mark.parametrize("kind", ["TCP", "UDP"])
def test_a_silent_session_stays_with_a_replica_that_serves(wired: Node, kind: str) -> None:
    question, _ = CONVERSATIONS[kind]
    before = sent(wired, 1, question, UP, NUMBERS)

    wired.serve(DOWN, (15, 16))
    wired.age_of_sessions(seconds=250)

    assert sent(wired, 1, question, UP, NUMBERS) == before


def test_sessions_of_a_link_that_is_gone_choose_again_and_the_others_stay(wired: Node) -> None:
    before = sent(wired, 1, tcp, UP, NUMBERS)

    wired.link(11, DOWN, LinkState.GONE)
    after = sent(wired, 1, tcp, UP, NUMBERS)

    assert {number for number in NUMBERS if after[number] != before[number]} == {
        number for number in NUMBERS if before[number] == 11
    }
    assert 11 not in after.values()


def test_a_session_that_chose_again_stays_there(wired: Node) -> None:
    sent(wired, 1, tcp, UP, NUMBERS)
    wired.link(11, DOWN, LinkState.GONE)
    chosen_again = sent(wired, 1, tcp, UP, NUMBERS)

    wired.serve(DOWN, DOWNSTREAM_SLOTS)

    assert sent(wired, 1, tcp, UP, NUMBERS) == chosen_again


def test_a_new_link_in_the_slot_of_an_old_one_does_not_inherit_its_sessions(wired: Node) -> None:
    before = sent(wired, 1, tcp, UP, NUMBERS)

    wired.serve(DOWN, DOWNSTREAM_SLOTS[1:])
    wired.link(11, DOWN, ifindex=4711)

    assert 11 in before.values()
    assert 11 not in sent(wired, 1, tcp, UP, NUMBERS).values()


def test_a_new_link_in_the_slot_of_an_old_one_counts_from_zero(wired: Node) -> None:
    wired.send(1, tcp(UP))

    wired.link(1, UP, ifindex=4711)

    assert wired.datapath.counters.traffic([1])[1] == Traffic(0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("closing", [[(UP, "FA"), (DOWN, "FA")], [(DOWN, "FA"), (UP, "FA")]])
def test_a_syn_over_a_closed_session_opens_a_new_one(wired: Node, closing: list[tuple[Side, str]]) -> None:
    first = wired.receiver(1, tcp(UP, flags="S"))
    for sender, flags in closing:
        wired.send(1 if sender == UP else first, tcp(sender, flags=flags))
    wired.serve(DOWN, (15,))

    last_acknowledgement = wired.receiver(1, tcp(UP, flags="A"))
    second = wired.receiver(1, tcp(UP, flags="S"))

    assert (last_acknowledgement, second) == (first, 15)


@pytest.mark.parametrize("flags", ["A", "FA"])
def test_a_syn_over_a_session_that_is_not_closed_keeps_it(wired: Node, flags: str) -> None:
    first = wired.receiver(1, tcp(UP, flags="S"))
    wired.send(1, tcp(UP, flags=flags))
    wired.serve(DOWN, (15,))

    assert wired.receiver(1, tcp(UP, flags="S")) == first


def test_the_latest_sender_gets_the_answers(wired: Node) -> None:
    chosen = wired.receiver(1, udp(UP))

    wired.send(2, udp(UP))

    assert wired.receiver(chosen, udp(DOWN)) == 2


def test_a_link_that_is_gone_is_carried_but_gets_no_answers(wired: Node) -> None:
    chosen = wired.receiver(1, udp(UP))
    wired.send(2, udp(UP))
    wired.link(1, UP, LinkState.GONE)

    carried = wired.receiver(1, udp(UP))

    assert carried == chosen
    assert wired.receiver(chosen, udp(DOWN)) == 2


def test_a_wired_link_opens_sessions_and_gets_their_answers(wired: Node) -> None:
    wired.link(5, UP, LinkState.WIRED)

    chosen = wired.receiver(5, udp(UP))

    assert wired.receiver(chosen, udp(DOWN)) == 5


def stop_serving(node: Node, slot: int) -> None:
    """A replica that is not ready any more, and is not being deleted: another one takes its place in the targets."""
    node.serve(DOWN, tuple(other for other in DOWNSTREAM_SLOTS if other != slot))
    node.link(slot, DOWN, LinkState.WIRED)


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_a_replica_that_is_not_ready_any_more_loses_the_sessions_that_others_opened_at_their_next_packet(
    wired: Node, kind: str
) -> None:
    question, answer = (built(each, side, 7) for each, side in zip(CONVERSATIONS[kind], (UP, DOWN), strict=True))
    hanging = wired.receiver(1, question)
    wired.send(hanging, answer)
    wired.receiver(1, question)

    stop_serving(wired, hanging)
    again = wired.receiver(1, question)
    wired.send(hanging, answer)  # under way since before
    settled = [wired.receiver(1, question) for _ in range(2)]

    assert again != hanging
    assert settled == [again, again]


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_a_replica_that_is_not_ready_any_more_keeps_the_sessions_that_it_opened(wired: Node, kind: str) -> None:
    """Its readiness may depend on them."""
    question, answer = (built(each, side, 7) for each, side in zip(CONVERSATIONS[kind], (DOWN, UP), strict=True))
    asked = wired.receiver(11, question)
    wired.send(asked, answer)

    stop_serving(wired, 11)
    before = wired.receiver(asked, answer)
    wired.send(11, question)
    after = [wired.receiver(asked, answer) for _ in range(2)]

    assert (before, after) == (11, [11, 11])


def test_a_target_whose_link_is_gone_is_passed_over(wired: Node) -> None:
    for slot in DOWNSTREAM_SLOTS[1:]:
        wired.link(slot, DOWN, LinkState.GONE)
    table = maglev.table([("alive", 11), ("gone", 12)])
    wired.datapath.set_targets(CONNECTION, DOWN, table)

    receivers = Counter(sent(wired, 1, udp, UP, range(20)).values())

    assert receivers == {11: 20}


def test_the_two_cross_connections_of_a_stage_choose_the_same_replica(wired: Node) -> None:
    """Without the help of a session. The stage's replicas are slots 11 … 14 before it and 21 … 24 behind it."""
    beyond = CONNECTION + 1
    wired.serve(UP, (21, 22, 23, 24), connection=beyond)
    wired.serve(DOWN, (31,), connection=beyond)

    before = sent(wired, 1, tcp, UP, NUMBERS)
    behind = sent(wired, 31, tcp, DOWN, NUMBERS)

    assert behind == {number: slot + 10 for number, slot in before.items()}


def test_cross_connections_do_not_share_sessions(wired: Node) -> None:
    other = CONNECTION + 1
    wired.serve(UP, (21, 22), connection=other)
    wired.serve(DOWN, (31, 32), connection=other)

    wired.send(1, tcp(UP))

    assert wired.receiver(31, tcp(DOWN)) in (21, 22)


def test_traffic_and_sessions_are_counted_per_link(wired: Node) -> None:
    frame = udp(UP)
    chosen = wired.receiver(1, frame)
    wired.send(1, frame)
    wired.send(chosen, udp(DOWN))

    traffic = wired.datapath.counters.traffic([1, chosen])

    size = len(frame)
    assert traffic[1] == Traffic(2, 2 * size, 1, size, sessions_opened=1, sessions_chosen=0)
    assert traffic[chosen] == Traffic(1, size, 2, 2 * size, sessions_opened=0, sessions_chosen=1)


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_a_session_of_the_version_before_goes_on_and_is_then_like_any_other(wired: Node, kind: str) -> None:
    question, answer = CONVERSATIONS[kind]
    before = sent(wired, 1, question, UP, FEW)
    active = wired.datapath.activity(DOWNSTREAM_SLOTS)
    ends = wired.ends_without_owner()
    active_without = wired.datapath.activity(DOWNSTREAM_SLOTS)
    wired.serve(DOWN, (*DOWNSTREAM_SLOTS, 15, 16, 17, 18))

    after = sent(wired, 1, question, UP, FEW)
    answered = {number: wired.receiver(before[number], built(answer, DOWN, number)) for number in FEW}

    assert after == before
    assert set(answered.values()) == {1}
    assert ends.isdisjoint(wired.ends())
    assert wired.tally().verdicts["contested"] == 0
    assert active == active_without == wired.datapath.activity(DOWNSTREAM_SLOTS)

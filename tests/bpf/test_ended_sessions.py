"""What a drain's deadline ends: whoever sends in such a session is refused, and no other replica gets it."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror
from scapy.layers.inet6 import ICMPv6DestUnreach, IPerror6, IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from controller.node.plane.model import LinkState
from sfc.chain import Side
from tests.bpf.frames import ADDRESS, ADDRESS6, MAC, Conversation, ip, ip6, ping, sctp, tcp, tcp6, udp, udp6
from tests.bpf.node import TC_ACT_REDIRECT, TC_ACT_SHOT, Node, Outcome

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
CLIENT, LEAVING, OTHER = 1, 11, 12
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def wired(node: Node) -> Node:
    """A client, and a replica that has got all sessions until now; the targets have another one."""
    node.serve(UP, (CLIENT,))
    node.serve(DOWN, (LEAVING,))
    return node


def end(node: Node) -> None:
    """The deadline of the replica's drain passes."""
    node.serve(DOWN, (OTHER,))
    node.link(LEAVING, DOWN, LinkState.DRAINING)
    node.datapath.end_sessions([LEAVING])
    node.link(LEAVING, DOWN, LinkState.GONE)


def established(node: Node, conversation: Conversation) -> None:
    assert node.receiver(CLIENT, conversation(UP, 0)) == LEAVING
    for sender in (DOWN, UP, DOWN):
        node.send(LEAVING if sender else CLIENT, conversation(sender, 0))


def refusal(outcome: Outcome) -> Packet:
    """The frame, which must have come back to its sender with sound checksums and lengths."""
    assert (outcome.action, outcome.sent_to) == (TC_ACT_REDIRECT, CLIENT)
    found = Ether(outcome.frame)
    assert (found.src, found.dst) == (MAC[DOWN], MAC[UP])
    again = found.copy()
    for layer in (IP, IPv6, TCP, ICMP, ICMPv6DestUnreach):
        if again.haslayer(layer):
            for field in ("chksum", "cksum", "len", "plen"):
                if field in again[layer].fields:
                    delattr(again[layer], field)
    assert bytes(again) == outcome.frame
    return found


def segment(family: int, **fields: object) -> Packet:
    header = ip(UP) if family == 4 else ip6(UP)
    return header / TCP(sport=20000, dport=80, seq=1000, ack=77_000, **fields) / b"some data that a reset does not have"


@FAMILIES
def test_a_segment_is_answered_by_a_reset_that_its_sender_believes(wired: Node, family: int) -> None:
    established(wired, tcp if family == 4 else tcp6)

    end(wired)
    answers = [refusal(wired.send(CLIENT, segment(family, flags="PA"))) for _ in range(2)]

    for answer in answers:
        addresses = ADDRESS if family == 4 else ADDRESS6
        layer = answer[IP] if family == 4 else answer[IPv6]
        reset = answer[TCP]
        assert (layer.src, layer.dst) == (addresses[DOWN], addresses[UP])
        assert (reset.sport, reset.dport, reset.seq, str(reset.flags), bytes(reset.payload)) == (
            80, 20000, 77_000, "R", b"",
        )  # fmt: skip


@FAMILIES
def test_a_datagram_is_answered_by_an_error_once_and_then_another_replica_gets_the_session(
    wired: Node, family: int
) -> None:
    question = udp if family == 4 else udp6
    established(wired, question)

    end(wired)
    answer = refusal(wired.send(CLIENT, question(UP)))

    quoted = answer[IPerror] if family == 4 else answer[IPerror6]
    assert (answer[ICMP].type, answer[ICMP].code) == (3, 3) if family == 4 else answer[ICMPv6DestUnreach].code == 4
    assert (quoted.src, quoted[UDPerror].sport) == ((ADDRESS if family == 4 else ADDRESS6)[UP], question(UP)[UDP].sport)
    assert [wired.receiver(CLIENT, question(UP)) for _ in range(2)] == [OTHER, OTHER]


def test_a_ping_is_answered_by_an_error_too(wired: Node) -> None:
    established(wired, ping)

    end(wired)

    assert refusal(wired.send(CLIENT, ping(UP)))[ICMP].type == 3


def test_an_sctp_association_is_refused_again_and_again(wired: Node) -> None:
    established(wired, sctp)

    end(wired)

    assert [refusal(wired.send(CLIENT, sctp(UP)))[ICMP].code for _ in range(2)] == [2, 2]


def test_a_silent_session_is_refused_also_when_its_link_has_gone_long_ago(wired: Node) -> None:
    established(wired, tcp)
    wired.age_of_sessions(4000)

    end(wired)
    wired.datapath.clear_link(LEAVING)

    assert refusal(wired.send(CLIENT, segment(4, flags="A")))[TCP].flags == "R"


def test_a_new_connection_with_the_same_ports_finds_another_replica(wired: Node) -> None:
    established(wired, tcp)

    end(wired)

    assert wired.receiver(CLIENT, tcp(UP, flags="S")) == OTHER
    assert wired.receiver(OTHER, tcp(DOWN, flags="SA")) == CLIENT
    assert wired.receiver(CLIENT, tcp(UP)) == OTHER


def test_what_is_answered_and_what_is_not_is_counted(wired: Node) -> None:
    established(wired, tcp)
    end(wired)
    before = wired.tally()

    wired.send(CLIENT, segment(4, flags="A"))
    aborted = wired.send(CLIENT, segment(4, flags="R"))

    assert aborted.action == TC_ACT_SHOT
    assert wired.tally().since(before).verdicts == {"reset": 2}


def test_what_the_leaving_replica_still_sends_arrives_and_changes_nothing(wired: Node) -> None:
    established(wired, tcp)
    wired.serve(DOWN, (OTHER,))
    wired.link(LEAVING, DOWN, LinkState.DRAINING)
    wired.datapath.end_sessions([LEAVING])

    last = wired.receiver(LEAVING, tcp(DOWN, flags="FA"))

    assert last == CLIENT
    assert refusal(wired.send(CLIENT, segment(4, flags="A")))[TCP].flags == "R"


def test_a_replica_that_goes_on_with_a_session_gets_its_answers(wired: Node) -> None:
    """It has the session by other means than ours."""
    established(wired, tcp)
    end(wired)

    wired.send(OTHER, tcp(DOWN))

    assert wired.receiver(CLIENT, tcp(UP)) == OTHER


def test_sessions_of_other_replicas_go_on(wired: Node) -> None:
    established(wired, tcp)
    wired.serve(DOWN, (OTHER,))
    other = wired.receiver(CLIENT, tcp(UP, 1))

    end(wired)

    assert (other, wired.receiver(CLIENT, tcp(UP, 1))) == (OTHER, OTHER)


def test_no_drain_waits_for_a_session_that_is_over(wired: Node) -> None:
    established(wired, tcp)
    end(wired)
    wired.send(CLIENT, segment(4, flags="A"))
    wired.age_of_sessions(2)

    assert wired.datapath.activity([CLIENT]) == {CLIENT: 0}


def test_a_tag_beside_the_frame_stays_there(wired: Node) -> None:
    def tagged(sender: Side, number: int = 0) -> Packet:
        inner = tcp(sender, number)
        return Ether(src=inner.src, dst=inner.dst) / Dot1Q(vlan=9) / inner[IP]

    established(wired, tagged)
    end(wired)

    answer = Ether(wired.send(CLIENT, tagged(UP)).frame)

    assert (answer[Dot1Q].vlan, str(answer[TCP].flags), answer.haslayer(Raw)) == (9, "R", 0)

from __future__ import annotations

from typing import Any

import pytest

from sfc.chain import Chain, InterfaceRef, Patience, Side, derived_mac
from sfc.reading import chain_of
from tests.unit import objects

LAN, LEFT, RIGHT = InterfaceRef("client", "lan"), InterfaceRef("firewall", "left"), InterfaceRef("firewall", "right")
INSIDE, OUTSIDE, WAN = InterfaceRef("nat", "inside"), InterfaceRef("nat", "outside"), InterfaceRef("server", "wan")


def chain(**spec: Any) -> Chain:
    obj = objects.chain()
    obj["spec"].update(spec)
    return chain_of(obj)


def test_without_links_consecutive_stages_are_linked_last_interface_to_first() -> None:
    assert chain().links == ((LAN, LEFT), (RIGHT, INSIDE), (OUTSIDE, WAN))


def test_a_link_is_a_cross_connection_and_each_end_knows_its_side() -> None:
    of = chain(links=[["client.lan", "nat.inside"]])

    (connection,) = of.cross_connections
    assert connection.name == "edge.client.lan.nat.inside"
    assert of.attachments == {
        ("client", "lan"): (connection, Side.UPSTREAM),
        ("nat", "inside"): (connection, Side.DOWNSTREAM),
    }


@pytest.mark.parametrize(
    ("drain", "patience"),
    [
        ({}, Patience()),
        ({"idle": {}}, Patience()),
        ({"idle": {"udp": 60, "sctp": 900}}, Patience(udp=60, sctp=900)),
        ({"idle": {"tcp": 1, "sctp": 2, "udp": 3, "other": 4}}, Patience(1, 2, 3, 4)),
    ],
)
def test_a_chain_leaves_to_the_node_how_long_sessions_may_be_silent_unless_it_says_so(
    drain: dict[str, Any], patience: Patience
) -> None:
    assert chain(drain=drain).patience == patience
    assert patience.completed(Patience(10, 20, 30, 40)).udp == (patience.udp or 30)


def test_a_stage_may_choose_for_itself_what_its_deadline_does() -> None:
    obj = objects.chain()
    obj["spec"]["drain"]["atDeadline"] = "reset"
    obj["spec"]["stages"][1]["drain"] = {"atDeadline": "move"}

    chosen = [stage.at_deadline for stage in chain_of(obj).stages]

    assert chosen == ["reset", "move", "reset", "reset"]


def test_what_a_chain_does_not_have_is_none() -> None:
    assert chain().stage("router") is None
    assert chain().interface(InterfaceRef("router", "in")) is None
    assert chain().interface(InterfaceRef("nat", "in")) is None


def test_a_segment_reaches_through_transparent_stages_and_ends_at_others() -> None:
    of = chain()

    assert of.segment(LAN) == of.segment(RIGHT) == {LAN, LEFT, RIGHT, INSIDE}
    assert of.segment(WAN) == {OUTSIDE, WAN}


def test_an_unlinked_interface_is_a_segment_of_its_own_without_neighbours() -> None:
    of = chain(links=[["client.lan", "nat.inside"]])

    assert of.segment(WAN) == {WAN}
    assert of.neighbours(WAN, 9) == {}


def test_neighbours_are_what_an_interface_reaches_through_its_link_only() -> None:
    of = chain()
    client, nat = derived_mac("telco", "edge", "client", "lan"), derived_mac("telco", "edge", "nat", "inside")

    assert of.neighbours(LAN, 9) == {"10.1.0.1": nat}
    assert of.neighbours(INSIDE, 9) == {"10.1.0.2": client}
    assert of.neighbours(LEFT, 9) == {"10.1.0.2": client}
    assert of.neighbours(RIGHT, 9) == {"10.1.0.1": nat}

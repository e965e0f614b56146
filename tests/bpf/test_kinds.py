"""Compares the catalogue with the program, and docs/packets.md with both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.l2 import Dot1Q

from controller.node.kernel.counters import verdicts
from sfc.chain import Side
from tests.bpf.kinds import FAMILIES, KINDS, Fate
from tests.bpf.node import Node
from tests.bpf.observation import Observation
from tests.bpf.packets_table import DOCUMENT, observed, page

UP = Side.UPSTREAM
Observations = dict[str, tuple[Observation, Observation]]
UNTOLD = {"forwarded", "answered", "not_ours"}
"""Verdicts without a counter of their own: the page has them as packets, answers and frames left to the host."""


@pytest.fixture(scope="module")
def observations(loaded: Node) -> Iterator[Observations]:
    try:
        yield observed(loaded)
    finally:
        loaded.reset()


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_frame_has_the_fate_that_is_meant_for_it(observations: Observations, kind: str) -> None:
    assert [seen.fate for seen in observations[kind]] == [KINDS[kind].fate] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_side_is_like_the_other(observations: Observations, kind: str) -> None:
    upstream, downstream = observations[kind]

    assert upstream == downstream


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_is_counted_as_one_packet(observations: Observations, kind: str) -> None:
    assert [seen.counted_as.count("packet") for seen in observations[kind]] == [1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_is_known_by_some_of_its_fields(observations: Observations, kind: str) -> None:
    """No kind always goes to one replica, and none goes to random ones."""
    assert all(seen.known_by for seen in observations[kind])


@pytest.mark.parametrize("kind", [kind.name for kind in FAMILIES["VLAN tags"] if kind.fate != Fate.CHOSEN])
def test_a_tagged_frame_with_a_session_is_known_by_each_of_its_vlans(observations: Observations, kind: str) -> None:
    tags = sum(issubclass(layer, Dot1Q) for layer in KINDS[kind].frame(UP, 0).layers())

    for seen in observations[kind]:
        assert [name for name in seen.known_by if name.startswith("VLAN")] == ["VLAN", "VLAN 2"][:tags]


def test_the_page_about_packets_says_what_the_program_does(node: Node, observations: Observations) -> None:
    written = DOCUMENT.read_text()

    assert page(node, observations) == written, "docs/packets.md differs from what the program does; run: make packets"


def test_the_page_about_packets_shows_every_verdict() -> None:
    written = DOCUMENT.read_text()

    missing = [name for name in verdicts().values() if name not in UNTOLD and f"`{name}` |" not in written]

    assert missing == []

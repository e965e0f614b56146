"""When a session is active, and so holds a drain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.node.plane.sessions import Session, active
from sfc.chain import Patience

MILLISECOND = 1_000_000
SEEN = 1_000_000 * MILLISECOND
TCP, UDP, ICMP, SCTP, NEIGHBOUR = 6, 17, 1, 132, 255

OPEN = Session(
    connection=7,
    protocol=TCP,
    has_ports=True,
    upstream=1 << 32 | 10,
    downstream=2 << 32 | 11,
    last_seen_ns=SEEN,
    upstream_finished=False,
    downstream_finished=False,
    reset=False,
    answered=True,
)


@pytest.mark.parametrize(
    ("session", "patience_ms"),
    [
        pytest.param(OPEN, 300_000, id="open TCP"),
        pytest.param(replace(OPEN, upstream_finished=True), 300_000, id="half-closed TCP"),
        pytest.param(replace(OPEN, upstream_finished=True, downstream_finished=True), 1000, id="closed TCP"),
        pytest.param(replace(OPEN, reset=True), 1000, id="reset TCP"),
        pytest.param(replace(OPEN, answered=False), 1000, id="TCP that nobody answered"),
        pytest.param(replace(OPEN, protocol=SCTP), 300_000, id="open SCTP"),
        pytest.param(replace(OPEN, protocol=SCTP, reset=True), 1000, id="aborted SCTP"),
        pytest.param(replace(OPEN, protocol=SCTP, answered=False), 1000, id="SCTP that nobody answered"),
        pytest.param(replace(OPEN, protocol=UDP, answered=False), 5000, id="UDP that nobody answered"),
        pytest.param(replace(OPEN, has_ports=False), 5000, id="TCP fragments"),
        pytest.param(replace(OPEN, protocol=UDP), 5000, id="UDP"),
        pytest.param(replace(OPEN, protocol=ICMP), 5000, id="ICMP"),
        pytest.param(replace(OPEN, protocol=UDP, reset=True), 5000, id="other protocols have no end"),
    ],
)
def test_a_session_is_active_until_its_time_is_over(session: Session, patience_ms: int) -> None:
    end = SEEN + patience_ms * MILLISECOND

    assert active(session, end)
    assert not active(session, end + MILLISECOND)


@pytest.mark.parametrize(("protocol", "seconds"), [(TCP, 10), (SCTP, 20), (UDP, 30), (ICMP, 40), (47, 40)])
def test_each_protocol_has_its_own_patience(protocol: int, seconds: int) -> None:
    session, end = replace(OPEN, protocol=protocol), SEEN + seconds * 1000 * MILLISECOND

    assert active(session, end, Patience(10, 20, 30, 40))
    assert not active(session, end + 1, Patience(10, 20, 30, 40))


def test_nobody_waits_for_a_neighbour_that_was_asked_for() -> None:
    assert not active(replace(OPEN, protocol=NEIGHBOUR), SEEN)


def test_a_packet_newer_than_the_question_is_active() -> None:
    assert active(OPEN, SEEN - MILLISECOND)

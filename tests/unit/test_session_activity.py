"""When a session is active, and so holds a drain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.node.plane.sessions import Session, active

MILLISECOND = 1_000_000
SEEN = 1_000_000 * MILLISECOND
TCP, UDP, ICMP, NEIGHBOUR = 6, 17, 1, 255

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
)


@pytest.mark.parametrize(
    ("session", "patience_ms"),
    [
        pytest.param(OPEN, 300_000, id="open TCP"),
        pytest.param(replace(OPEN, upstream_finished=True), 300_000, id="half-closed TCP"),
        pytest.param(replace(OPEN, upstream_finished=True, downstream_finished=True), 1000, id="closed TCP"),
        pytest.param(replace(OPEN, reset=True), 1000, id="reset TCP"),
        pytest.param(replace(OPEN, has_ports=False), 5000, id="TCP fragments"),
        pytest.param(replace(OPEN, protocol=UDP), 5000, id="UDP"),
        pytest.param(replace(OPEN, protocol=ICMP), 5000, id="ICMP"),
        pytest.param(replace(OPEN, protocol=UDP, reset=True), 5000, id="flags mean nothing outside of TCP"),
    ],
)
def test_a_session_is_active_until_its_time_is_over(session: Session, patience_ms: int) -> None:
    end = SEEN + patience_ms * MILLISECOND

    assert active(session, end)
    assert not active(session, end + MILLISECOND)


def test_nobody_waits_for_a_neighbour_that_was_asked_for() -> None:
    assert not active(replace(OPEN, protocol=NEIGHBOUR), SEEN)


def test_a_packet_newer_than_the_question_is_active() -> None:
    assert active(OPEN, SEEN - MILLISECOND)

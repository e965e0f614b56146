"""What the benchmark `events` says of nodes that went without a word."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.account import Window
from benchmarks.outages import CUT_OFF, POWER_CUT, complaints, judged

OUTAGES = [
    {"kind": CUT_OFF, "node": "node3", "pods": ["f-1"], "stamps": ["aaaaaaaa"]},
    {"kind": POWER_CUT, "node": "node3", "pods": ["f-1"], "stamps": ["aaaaaaaa"]},
]
WINDOWS = {
    2: Window("nothing", 1.0, 3.0),
    3: Window(CUT_OFF, 4.0, 15.0),
    4: Window("nothing", 20.0, 3.0),
    5: Window(POWER_CUT, 23.0, 30.0),
}


def lost(phase: int, flow: int, number: int, at_ms: int, replica: str) -> dict[str, Any]:
    return {"phase": phase, "flow": flow, "number": number, "at": at_ms * 1_000_000, "replica": replica}


def moved(phase: int, flow: int, at_ms: int, before: str, after: str) -> dict[str, Any]:
    return {"phase": phase, "flow": flow, "at": at_ms * 1_000_000, "from": before, "to": after}


def test_a_datagram_counts_for_the_replica_that_carried_its_flow_before() -> None:
    """Flow 1 was at the node that went; flow 2 was not; flow 3 began while the node was away."""
    datagrams = {
        "lost": [
            lost(3, 1, 40, 5000, "bbbbbbbb"),
            lost(3, 1, 41, 6200, "bbbbbbbb"),
            lost(3, 3, 0, 5500, "bbbbbbbb"),
            lost(3, 3, 1, 5505, "bbbbbbbb"),
            lost(3, 1, 99, 16000, "aaaaaaaa"),
            lost(5, 2, 9, 30000, "bbbbbbbb"),
        ],
        "moves": [moved(3, 1, 6300, "aaaaaaaa", "bbbbbbbb"), moved(3, 4, 6300, "cccccccc", "bbbbbbbb")],
    }

    cut_off, power_cut = judged(OUTAGES, datagrams, WINDOWS)

    counts = ("lost", "lost_of_new_flows", "lost_of_others", "lost_on_return", "steered_ms")
    moves = [(each["moved"], each["moved_of_others"]) for each in (cut_off, power_cut)]
    assert [cut_off[count] for count in counts] == [5, 2, 0, 1, 1200.0]
    assert [power_cut[count] for count in counts] == [1, 0, 1, 0, 0.0]
    assert moves == [(2, 1), (0, 0)]


GOOD = {
    "unfinished": [],
    "outages": [{"lost": 5}],
    "lost_of_others": 0,
    "lost_on_return": 0,
    "lost_without_outage": 0,
    "steered_p99_ms": 1500.0,
}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, []),
        ({"lost_of_others": 2}, ["2 datagrams: lost_of_others"]),
        ({"lost_on_return": 3}, ["3 datagrams: lost_on_return"]),
        ({"steered_p99_ms": 1700.0}, ["steered away after 1700 ms (99th percentile), not 1500"]),
        ({"outages": [{"lost": 0}]}, ["an outage lost nothing: no traffic went to the node"]),
    ],
)
def test_what_must_hold_and_does_not_is_said(changes: dict[str, Any], complaint: list[str]) -> None:
    assert complaints(GOOD | changes) == complaint

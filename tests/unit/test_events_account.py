"""The account of the events benchmark and of the soak test, from the reports of their generators."""

from __future__ import annotations

from typing import Any

from benchmarks import loads, soak
from benchmarks.account import Window, accounted
from benchmarks.transfers import PATIENCE_SECONDS

SCALE, KILL, END = "scale-in", "agent killed", "sandbox killed"
WINDOWS = (Window(SCALE, 10.0, 4.0), Window(END, 20.0, 6.0), Window(KILL, 60.0, 5.0))
SOUND = {"sent": 100, "received": 100, "duplicated": 0, "reordered": 0, "moved": 0, "overflowed": 0}


def account(*phases: dict[str, int], broken: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """The account of the phase before the first window, and of one phase for each window."""
    began = (5, 10, 20, 60)
    datagrams = {
        "phases": [SOUND | phase | {"began": at * 10**9} for at, phase in zip(began, phases, strict=True)],
        "ended": 105 * 10**9,
        "unstamped": 0,
        "lost": [],
        "moves": [],
    }
    kinds = {"long": [*broken], "short": []}
    transfers = {kind: {"completed": 7, "blocks": 9, "broken": found} for kind, found in kinds.items()}
    return accounted(loads.Loads(datagrams, transfers), WINDOWS)


def broken(began: float, ended: float, why: str = "silent") -> dict[str, Any]:
    return {"kind": "long", "port": 1, "began": began * 1e9, "ended": ended * 1e9, "why": why}


def test_a_datagram_is_lost_in_the_event_during_which_it_was_sent_and_before_the_first_one_too() -> None:
    found = account({"received": 99}, {}, {"received": 97}, {"received": 100})

    assert [each["lost"] for each in found["events"]] == [0, 3, 0]
    assert (found["totals"]["sent"], found["totals"]["lost"]) == (400, 4)
    assert found["totals"]["datagrams_per_second"] == 4


def test_a_transfer_is_broken_in_the_event_during_which_it_was_reset_or_its_silence_began() -> None:
    silent = broken(11, 18 + PATIENCE_SECONDS)

    found = account({}, {}, {}, {}, broken=(silent, broken(12, 61, "reset")))

    assert [each["broken"] for each in found["events"]] == [1, 0, 1]
    assert found["totals"]["broken"] == 2


def test_a_sound_run_breaks_no_rule() -> None:
    assert soak.broken_rules(account({}, {}, {}, {}), WINDOWS) == []


def test_only_an_end_that_nobody_announced_excuses_what_is_lost_or_moves() -> None:
    excused = soak.broken_rules(account({}, {}, {"received": 50, "moved": 3}, {}), WINDOWS)
    blamed = soak.broken_rules(account({}, {"received": 99}, {}, {"moved": 2}), WINDOWS)

    assert excused == []
    assert blamed == ["1 datagrams lost during 'scale-in', event 1", "2 datagrams moved during 'agent killed', event 3"]


def test_nothing_excuses_a_datagram_that_comes_twice() -> None:
    assert soak.broken_rules(account({}, {}, {"duplicated": 1}, {}), WINDOWS)


def test_a_transfer_may_break_only_if_a_replica_ended_while_it_ran() -> None:
    during, before, after = broken(15, 35), broken(11, 19), broken(30, 50)
    until_its_links_went = broken(24, 45)  # the function runs on until the kubelet ends it

    for excused in (during, until_its_links_went):
        assert soak.broken_rules(account({}, {}, {}, {}, broken=(excused,)), WINDOWS) == []
    assert soak.broken_rules(account({}, {}, {}, {}, broken=(before,)), WINDOWS)
    assert soak.broken_rules(account({}, {}, {}, {}, broken=(after,)), WINDOWS)

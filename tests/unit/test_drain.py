"""A drain as a value: when it ends, what confirms it or drops it, and when it has to wait."""

from dataclasses import replace

import pytest

from controller.node.plane.cluster import Cluster
from controller.node.plane.drain import (
    NEVER_ASKED,
    Answer,
    Drain,
    advance,
    begin,
    decided,
    earlier,
    in_progress,
    spared,
)
from controller.node.plane.replica import replica_of
from sfc.reading import chain_of
from tests.unit.objects import chain, pod

SHOWN, NOT_SHOWN, NO_ANSWER = frozenset({"u1"}), frozenset({"u2"}), None


def drain(**changes: object) -> Drain:
    return Drain(**{"pod_uid": "u1", "asked_at": 100.0, "deadline": 130.0} | changes)


def test_an_idle_replica_has_drained_as_soon_as_it_is_out_of_the_targets() -> None:
    after = advance(drain(), active_sessions=0, now=100.01)

    assert (after.out_of_targets_at, after.ended_at) == (100.01, 100.01)


def test_active_sessions_hold_the_drain_until_they_end() -> None:
    busy = advance(drain(), active_sessions=3, now=101.0)
    idle = advance(busy, active_sessions=0, now=105.0)

    assert not busy.ended
    assert (idle.out_of_targets_at, idle.ended_at) == (101.0, 105.0)


def test_the_deadline_ends_the_drain_and_says_how_many_sessions_it_moved() -> None:
    after = advance(drain(), active_sessions=2, now=130.0)

    assert (after.ended, after.active_sessions) == (True, 2)


def test_a_deadline_that_resets_ends_the_drain_once_all_sessions_have_been_ended() -> None:
    passed = advance(drain(), active_sessions=2, now=130.0, resets=True)
    waiting = advance(passed, active_sessions=0, now=130.2, resets=True)
    done = advance(waiting, active_sessions=0, now=130.3, resets=True, all_reset=True)

    assert (passed.ended, passed.resets_at, waiting) == (False, 130.0, passed)
    assert (done.ended_at, done.active_sessions) == (130.3, 2)


def test_a_drain_ends_also_if_its_sessions_can_not_be_ended() -> None:
    passed = advance(drain(), active_sessions=2, now=130.0, resets=True)

    assert advance(passed, active_sessions=2, now=135.0, resets=True).ended


def test_a_deadline_that_resets_changes_nothing_for_a_replica_without_sessions() -> None:
    idle = advance(drain(), active_sessions=0, now=130.0, resets=True)

    assert (idle.ended, idle.resets_at) == (True, None)


def test_a_deadline_that_passes_before_anybody_counted_claims_nothing_about_sessions() -> None:
    after = advance(drain(), active_sessions=None, now=130.0)

    assert (after.ended, after.active_sessions) == (True, None)


def test_an_ended_drain_stays_as_it_is() -> None:
    ended = advance(drain(), active_sessions=0, now=101.0)

    assert advance(ended, active_sessions=5, now=102.0) == ended


@pytest.mark.parametrize(
    ("terminating", "answer", "confirmed"),
    [
        pytest.param(True, NEVER_ASKED, True, id="the watch shows the deletion"),
        pytest.param(True, Answer(101.0, NOT_SHOWN), True, id="the watch is ahead of the answer"),
        pytest.param(False, Answer(101.0, SHOWN), True, id="the answer shows the deletion"),
        pytest.param(False, Answer(101.0, NOT_SHOWN), None, id="the answer shows no deletion"),
        pytest.param(False, Answer(99.0, NOT_SHOWN), False, id="asked before the hook was called"),
        pytest.param(False, Answer(101.0, NO_ANSWER), False, id="the API server is away"),
        pytest.param(False, NEVER_ASKED, False, id="nobody has asked"),
    ],
)
def test_a_deletion_confirms_a_drain_and_an_answer_without_it_drops_it(
    terminating: bool, answer: Answer, confirmed: bool | None
) -> None:
    found = decided(drain(), terminating, answer)

    assert found == (None if confirmed is None else drain(confirmed=confirmed))


def test_nothing_drops_a_drain_that_was_confirmed() -> None:
    known = drain(confirmed=True, ended_at=101.0)

    assert decided(known, False, Answer(200.0, NOT_SHOWN)) == known


def test_a_second_request_brings_a_drain_its_beginning_or_its_confirmation() -> None:
    known = drain(out_of_targets_at=100.1)

    assert earlier(known, drain(asked_at=90.0, deadline=120.0)) == replace(known, asked_at=90.0, deadline=120.0)
    assert earlier(known, drain(asked_at=105.0, confirmed=True)) == replace(known, confirmed=True)
    assert earlier(known, drain(asked_at=105.0)) is known


def test_a_drain_that_begins_before_the_api_server_is_heard_gets_its_deadline_when_it_is() -> None:
    slow = chain()
    slow["spec"]["drain"]["deadlineSeconds"] = 600
    replica = replica_of(pod("firewall-2", "firewall"))
    cluster = Cluster({("telco", "edge"): chain_of(slow)}, {"uid-firewall-2": replica})
    begun = begin(None, "uid-firewall-2", 40.0, confirmed=True)

    unheard = in_progress([begun], None, NEVER_ASKED, {"uid-firewall-2"}, now=100.0)
    heard = in_progress([begun], cluster, NEVER_ASKED, {"uid-firewall-2"}, now=100.0)

    assert not advance(unheard["uid-firewall-2"], active_sessions=3, now=1e9).ended
    assert heard["uid-firewall-2"].deadline == 640.0


def test_an_unconfirmed_drain_never_takes_the_last_target_of_a_side() -> None:
    first, second = drain(asked_at=1.0), drain(pod_uid="u2", asked_at=2.0)

    assert spared([{"u1"}], [first]) == {"u1"}
    assert spared([{"u1", "u2"}, {"u1", "u2"}], [second, first]) == {"u2"}
    assert spared([{"u1", "u2", "u3"}], [first, second]) == frozenset()
    assert spared([{"u1", "u3"}, {"u1"}], [first]) == {"u1"}


def test_a_confirmed_drain_takes_the_last_target_too() -> None:
    assert spared([{"u1"}], [drain(confirmed=True)]) == frozenset()

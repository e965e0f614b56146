"""A drain as a value: when it ends, and when a restart undoes it."""

from controller.node.plane.drain import Drain, advance, undone
from controller.node.plane.replica import Replica


def drain(**changes: object) -> Drain:
    return Drain(**{"pod_uid": "u1", "incarnation": "c1", "asked_at": 100.0, "deadline": 130.0} | changes)


def replica(**changes: object) -> Replica:
    fields = {"namespace": "telco", "name": "nat-1", "uid": "u1", "chain": "edge", "stage": "nat"}
    state = {"ready": True, "stopped": False, "terminating": False, "incarnation": "c1", "condition": None}
    return Replica(**fields | state | changes)


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


def test_a_deadline_that_passes_before_anybody_counted_claims_nothing_about_sessions() -> None:
    after = advance(drain(), active_sessions=None, now=130.0)

    assert (after.ended, after.active_sessions) == (True, None)


def test_an_ended_drain_stays_as_it_is() -> None:
    ended = advance(drain(), active_sessions=0, now=101.0)

    assert advance(ended, active_sessions=5, now=102.0) == ended


def test_a_drain_is_undone_when_new_containers_of_the_same_pod_are_ready() -> None:
    assert undone(drain(), replica(incarnation="c2"))
    assert not undone(drain(), replica(incarnation="c1"))
    assert not undone(drain(), replica(incarnation="c2", ready=False))
    assert not undone(drain(), replica(incarnation="c2", terminating=True))

"""A replica's leaving, as a value that only time and observation move forward.

    asked for → out of targets → ended (idle, or the deadline has passed)

A drain begins when the kubelet calls the PreStop hook or when the pod is seen terminating, whichever comes first. It is
forgotten when the pod's links are gone, or when the hook ran for a mere restart and the new containers are ready.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from controller.node.plane.replica import Replica


class RetiredError(Exception):
    """Another agent of the node leads now, and goes on with the drains."""


@dataclass(frozen=True, slots=True)
class Drain:
    pod_uid: str
    incarnation: str
    """Replica.incarnation at the start: other containers mean that this drain belongs to the past."""
    asked_at: float
    """Seconds on the monotonic clock, as are the other times."""
    deadline: float
    out_of_targets_at: float | None = None
    ended_at: float | None = None
    active_sessions: int | None = None
    """At the last look, None before the first; after the end, those that the deadline moves to other replicas."""

    @property
    def ended(self) -> bool:
        return self.ended_at is not None


def advance(drain: Drain, *, active_sessions: int | None, now: float) -> Drain:
    """The drain of a replica that is in no targets, after one look at the data path. `active_sessions` is None when
    nobody has counted them since the replica left the targets: what was counted before may have grown."""
    if drain.ended:
        return drain
    out_of_targets_at = now if drain.out_of_targets_at is None else drain.out_of_targets_at
    ended = active_sessions == 0 or now >= drain.deadline
    return replace(
        drain,
        out_of_targets_at=out_of_targets_at,
        active_sessions=drain.active_sessions if active_sessions is None else active_sessions,
        ended_at=now if ended else None,
    )


def earlier(known: Drain, asked: Drain) -> Drain:
    """A drain that turns out to have been asked for before it was known: of two beginnings the first one counts."""
    if known.ended or known.asked_at <= asked.asked_at:
        return known
    return replace(known, asked_at=asked.asked_at, deadline=min(known.deadline, asked.deadline))


def undone(drain: Drain, replica: Replica) -> bool:
    """The kubelet restarted the containers (a liveness kill runs PreStop too), and the new ones are ready."""
    return not replica.terminating and replica.ready and replica.incarnation != drain.incarnation

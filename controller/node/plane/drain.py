"""Drains: how a replica leaves without breaking its sessions.

    asked for → out of the targets → ended (no active session is left, or the deadline has passed)

A drain begins when the kubelet calls the PreStop hook or when the pod is seen terminating, whichever comes first. It is
dropped when the pod's links are gone. It is also dropped when the pod only restarted its containers, which calls the
hook too, and the new containers are ready.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from controller.node.plane.cluster import Cluster
from controller.node.plane.replica import Replica
from sfc import names


class RetiredError(Exception):
    """Another agent of the node leads now and continues the drains: ask that one."""


@dataclass(frozen=True, slots=True)
class Drain:
    """One replica's drain. All times are seconds on the monotonic clock."""

    pod_uid: str
    incarnation: str
    """Replica.incarnation at the beginning. When the replica's differs, its containers are newer than the drain."""
    asked_at: float
    deadline: float
    """The drain ends at this time, whatever sessions are left."""
    out_of_targets_at: float | None = None
    ended_at: float | None = None
    active_sessions: int | None = None
    """How many there were when they were last counted; None until then. After the end: how many the deadline moved to
    other replicas."""

    @property
    def ended(self) -> bool:
        """The replica receives nothing more, and its pod may terminate."""
        return self.ended_at is not None


def begin(cluster: Cluster | None, pod_uid: str, asked_at: float) -> Drain:
    """The drain of a pod, with the deadline of its stage; the default deadline when the stage is not known."""
    replica = cluster.replicas.get(pod_uid) if cluster else None
    stage = cluster.stage_of(replica) if cluster and replica else None
    seconds = stage.drain_deadline_seconds if stage else names.DEFAULT_DRAIN_DEADLINE_SECONDS
    return Drain(pod_uid, replica.incarnation if replica else "", asked_at, deadline=asked_at + seconds)


def in_progress(
    known: Mapping[str, Drain],
    requests: Mapping[str, Drain],
    cluster: Cluster | None,
    wired: Collection[str],
    now: float,
) -> dict[str, Drain]:
    """The drains that a pass must respect, by pod UID: known ones, requested ones, and those of terminating pods.

    `wired` are the UIDs of the pods that have links. A drain whose pod has none is dropped, as is one that is undone.
    """
    drains = dict(known)
    for uid, request in requests.items():
        drains[uid] = earlier(drains[uid], request) if uid in drains else request
    for replica in cluster.terminating if cluster else ():
        if replica.uid in wired and replica.uid not in drains:
            drains[replica.uid] = begin(cluster, replica.uid, now)
    replicas = cluster.replicas if cluster else {}
    return {
        uid: drain
        for uid, drain in drains.items()
        if uid in wired and not (uid in replicas and undone(drain, replicas[uid]))
    }


def advance(drain: Drain, *, active_sessions: int | None, now: float) -> Drain:
    """The drain after a pass that took the replica out of all targets, or found it out of them.

    `active_sessions` is None when the sessions have not been counted since then. An earlier count does not help: the
    replica may have received sessions after it.
    """
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
    """The known drain with the beginning of the other one, if that is earlier. An ended drain stays as it is."""
    if known.ended or known.asked_at <= asked.asked_at:
        return known
    return replace(known, asked_at=asked.asked_at, deadline=min(known.deadline, asked.deadline))


def undone(drain: Drain, replica: Replica) -> bool:
    """The drain was for a mere restart: the containers are new ones, and ready. The kubelet calls the PreStop hook for
    a restart after a failed liveness probe, too."""
    return not replica.terminating and replica.ready and replica.incarnation != drain.incarnation

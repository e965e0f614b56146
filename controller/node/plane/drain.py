"""Drains: how a replica leaves without breaking its sessions.

    asked for → out of the targets → ended (no active session is left, or the deadline has passed)

If the deadline of a stage ends sessions, one step comes between: the deadline has passed, and what is left is being
ended. Only when that is done the drain has ended, because then the replica's links leave the node.

A drain begins when the pod is seen terminating, or when the kubelet calls the PreStop hook, whichever comes first. A
hook alone proves nothing: anybody who makes the kubelet send a request can call it, and the kubelet calls it for a mere
restart of a container, too. So a drain is *confirmed* by a deletion of its pod, which the watch or an answer of the API
server shows. Only while the API server cannot be asked is a hook believed. Such a drain is dropped as soon as an answer
shows no deletion.

A drain is dropped when the pod's links are gone, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from math import inf

from controller.node.plane.cluster import Cluster
from sfc import names

RESET_SECONDS = 5.0
"""For the sessions that a deadline ends. The drain has ended by then, even if they could not be ended."""


class RetiredError(Exception):
    """Another agent of the node leads now and continues the drains: ask that one."""


class NotDeletedError(Exception):
    """The API server shows no deletion of the pod whose hook was called: nothing is drained."""

    def __init__(self, pod_uid: str, undone: bool = False) -> None:
        """`undone`: the pod drained for a while, because the API server could not be asked before."""
        super().__init__(pod_uid)
        self.pod_uid = pod_uid
        self.undone = undone


@dataclass(frozen=True, slots=True)
class Drain:
    """One replica's drain. All times are seconds on the monotonic clock."""

    pod_uid: str
    asked_at: float
    deadline: float
    """The drain ends at this time, whatever sessions are left. Infinite until the API server has been heard."""
    confirmed: bool = False
    """A deletion of the pod was seen. Until then only a hook asked for the drain."""
    out_of_targets_at: float | None = None
    ended_at: float | None = None
    active_sessions: int | None = None
    """How many there were when they were last counted; None until then. After the deadline: how many it found."""
    resets_at: float | None = None
    """The deadline passed then, and ends the sessions that it found."""

    @property
    def ended(self) -> bool:
        """The replica receives nothing more, and its pod may terminate."""
        return self.ended_at is not None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server answered when it was asked which replicas are being deleted."""

    asked_at: float
    """In seconds on the monotonic clock. The kubelet sees a deletion before it calls a hook, so the answer decides
    about every hook that was called before this."""
    deleted: frozenset[str] | None
    """UIDs of the node's replicas that are being deleted; None when there was no answer."""


NEVER_ASKED = Answer(float("-inf"), None)


def begin(cluster: Cluster | None, pod_uid: str, asked_at: float, *, confirmed: bool) -> Drain:
    """The drain of a pod, with the deadline of its stage."""
    return Drain(pod_uid, asked_at, _deadline(cluster, pod_uid, asked_at), confirmed)


def _deadline(cluster: Cluster | None, pod_uid: str, asked_at: float) -> float:
    """The default one when the cluster has no such stage."""
    if cluster is None:
        return inf
    replica = cluster.replicas.get(pod_uid)
    stage = cluster.stage_of(replica) if replica else None
    return asked_at + (stage.drain_deadline_seconds if stage else names.DEFAULT_DRAIN_DEADLINE_SECONDS)


def in_progress(
    asked: Iterable[Drain], cluster: Cluster | None, answer: Answer, wired: Collection[str], now: float
) -> dict[str, Drain]:
    """The drains that a pass must respect, by pod UID: those asked for before, and those of terminating pods.

    `wired` are the UIDs of the pods that have links. A drain whose pod has none is dropped, as is one that `answer`,
    the API server's last one, does not confirm.
    """
    terminating = {replica.uid for replica in cluster.terminating} if cluster else set[str]()
    drains: dict[str, Drain] = {}
    for drain in asked:
        uid = drain.pod_uid
        if uid in wired and (settled := decided(drain, uid in terminating, answer)):
            if settled.deadline == inf and cluster:
                settled = replace(settled, deadline=_deadline(cluster, uid, settled.asked_at))
            drains[uid] = earlier(drains[uid], settled) if uid in drains else settled
    for uid in terminating:
        if uid in wired and uid not in drains:
            drains[uid] = begin(cluster, uid, now, confirmed=True)
    return drains


def decided(drain: Drain, terminating: bool, answer: Answer) -> Drain | None:
    """The drain as it stands after the API server's last answer; None when that shows no deletion."""
    if drain.confirmed:
        return drain
    if terminating:
        return replace(drain, confirmed=True)
    if answer.deleted is None or answer.asked_at < drain.asked_at:
        return drain
    return replace(drain, confirmed=True) if drain.pod_uid in answer.deleted else None


def advance(
    drain: Drain, *, active_sessions: int | None, now: float, resets: bool = False, all_reset: bool = False
) -> Drain:
    """The drain after a pass that took the replica out of all targets, or found it out of them.

    `active_sessions` is None when the sessions have not been counted since then. An earlier count does not help: the
    replica may have received sessions after it. `resets`: its stage's deadline ends what is left. `all_reset`: that has
    been done since `resets_at`.
    """
    if drain.ended:
        return drain
    if drain.resets_at is not None:
        return replace(drain, ended_at=now) if all_reset or now >= drain.resets_at + RESET_SECONDS else drain
    out_of_targets_at = now if drain.out_of_targets_at is None else drain.out_of_targets_at
    passed = active_sessions != 0 and now >= drain.deadline
    return replace(
        drain,
        out_of_targets_at=out_of_targets_at,
        active_sessions=drain.active_sessions if active_sessions is None else active_sessions,
        resets_at=now if passed and resets else None,
        ended_at=now if active_sessions == 0 or (passed and not resets) else None,
    )


def earlier(known: Drain, asked: Drain) -> Drain:
    """The known drain with the beginning of the other one, if that is earlier. Either may confirm it. The beginning of
    an ended drain stays as it is."""
    if asked.confirmed and not known.confirmed:
        known = replace(known, confirmed=True)
    if known.ended or known.asked_at <= asked.asked_at:
        return known
    return replace(known, asked_at=asked.asked_at, deadline=min(known.deadline, asked.deadline))


def anew(drain: Drain) -> Drain:
    """The drain as it was when it was asked for."""
    return replace(drain, out_of_targets_at=None, ended_at=None, active_sessions=None, resets_at=None)


def spared(sides: Iterable[Collection[str]], drains: Iterable[Drain]) -> frozenset[str]:
    """The pods whose drains must wait, because they are not confirmed and would leave a side without targets.

    `sides` are the UIDs of the pods that each side has in its targets if no unconfirmed drain takes effect. Of two
    drains the one that was asked for first takes effect.
    """
    left = [set(side) for side in sides]
    waiting = set()
    unconfirmed = (drain for drain in drains if not drain.confirmed)
    for drain in sorted(unconfirmed, key=lambda drain: (drain.asked_at, drain.pod_uid)):
        own = [side for side in left if drain.pod_uid in side]
        if any(len(side) == 1 for side in own):
            waiting.add(drain.pod_uid)
        else:
            for side in own:
                side.discard(drain.pod_uid)
    return frozenset(waiting)

"""The transitions of a replica in the data path, found by comparing what two passes left behind. Pure.

Joined → (Draining → Drained | SteeredAway); a drain for a mere restart ends with Joined again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from controller.node.plane.desired import Links, Part, State, differing, together
from controller.node.plane.drain import Drain
from controller.node.plane.model import DataPlane, LinkState
from controller.node.plane.replica import Replica

JOINED, DRAINING, DRAINED, STEERED_AWAY = "Joined", "Draining", "Drained", "SteeredAway"


@dataclass(frozen=True, slots=True)
class Transition:
    pod_uid: str
    replica: Replica | None
    """None when the API server has not told of it."""
    reason: str
    """One of those above."""
    message: str
    """For a person; constant for a reason and cause."""
    since: float
    """Seconds on the monotonic clock: when the news came; for a drain that ended, when it was asked for."""
    seconds: float
    """From then until the maps were written."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """For the log."""

    @property
    def pod(self) -> str:
        return self.replica.path if self.replica else self.pod_uid


def transitions(before: State, after: State) -> Iterator[Transition]:
    left, made = differing(before.plan, after.plan)
    then, anew = together(left), together(made)
    for uid in sorted(_served(left) | _served(made)):
        states = _states(anew, after.links, uid)
        was, now = _serving(_states(then, before.links, uid)), _serving(states)
        since, took = after.woken_at, after.written_at - after.woken_at
        if now and not was:
            yield Transition(
                uid, _replica(before, after, uid), JOINED, "in all its targets; receives sessions", since, took
            )
        elif was and not now and uid not in after.drains:
            kept = "keeps its sessions" if LinkState.WIRED in states else "its sessions choose again"
            message = f"{_cause(after, uid)}; out of all targets, {kept}"
            yield Transition(uid, _replica(before, after, uid), STEERED_AWAY, message, since, took)
    for uid, drain in after.drains.items():
        yield from _progress(_replica(before, after, uid), before.drains.get(uid), drain)


def _progress(replica: Replica | None, before: Drain | None, drain: Drain) -> Iterator[Transition]:
    if drain.out_of_targets_at and not (before and before.out_of_targets_at):
        message, took = (
            "out of all targets; keeps its sessions until they end",
            drain.out_of_targets_at - drain.asked_at,
        )
        yield Transition(drain.pod_uid, replica, DRAINING, message, drain.asked_at, took)
    if drain.ended_at and not (before and before.ended_at):
        left = drain.active_sessions
        passed = "the deadline has passed; its sessions choose again"
        message = "no session is left; may terminate" if left == 0 else passed
        took = drain.ended_at - drain.asked_at
        yield Transition(drain.pod_uid, replica, DRAINED, message, drain.asked_at, took, {"sessions_left": left})


def _served(parts: Iterable[Part]) -> set[str]:
    """Pods with a link in the targets."""
    return {uid for part in parts for replicas in part.serving.values() for uid, _ in replicas}


def _serving(states: set[LinkState]) -> bool:
    """A link that was replaced, and is gone, does not count."""
    return states - {LinkState.GONE} == {LinkState.SERVING}


def _states(plane: DataPlane, links: Links, uid: str) -> set[LinkState]:
    entries = (plane.links.get(link.slot) for link in links.get(uid, ()))
    return {entry.state for entry in entries if entry}


def _replica(before: State, after: State, uid: str) -> Replica | None:
    clusters = (state.cluster for state in (after, before) if state.cluster)
    return next((cluster.replicas[uid] for cluster in clusters if uid in cluster.replicas), None)


def _cause(state: State, uid: str) -> str:
    replica = state.cluster.replicas.get(uid) if state.cluster else None
    links = state.links.get(uid, ())
    if state.cluster and not replica:
        return "the pod was deleted"
    if replica and replica.stopped:
        return "a container stopped"
    if not links or (replica and not replica.interfaces <= {link.interface for link in links}):
        return "an interface vanished"
    if not all(link.up for link in links):
        return "an interface is down"
    if replica and not replica.ready:
        return "its containers are not ready"
    return "its chain changed"

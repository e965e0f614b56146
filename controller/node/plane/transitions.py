"""A replica's transitions in the data path, found by comparing what two passes left behind.

Joined → (Draining → Drained | SteeredAway). After a drain for a mere restart, Joined comes again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from controller.node.plane.cluster import Cluster
from controller.node.plane.drain import Drain
from controller.node.plane.model import DataPlane, HostLink, LinksByPod, LinkState
from controller.node.plane.plan import Part, State, differing, merge
from controller.node.plane.replica import Replica
from sfc.chain import AtDeadline

JOINED, DRAINING, DRAINED, STEERED_AWAY = "Joined", "Draining", "Drained", "SteeredAway"


@dataclass(frozen=True, slots=True)
class Transition:
    """One transition of one replica."""

    pod_uid: str
    replica: Replica | None
    """None when the API server has not shown the pod."""
    reason: str
    """JOINED, DRAINING, DRAINED or STEERED_AWAY."""
    message: str
    """For a person. Constant for a reason and its cause."""
    since: float
    """When the event came that caused it, in seconds on the monotonic clock; for a drain, when it was asked for."""
    seconds: float
    """From then until the maps were written; until the drain ended, for DRAINED."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """More fields for the log."""

    @property
    def pod(self) -> str:
        """namespace/name, or the UID when the pod is not known."""
        return self.replica.path if self.replica else self.pod_uid


def transitions(before: State, after: State) -> Iterator[Transition]:
    """What happened to which replica between two passes. Only parts of the plan that differ are compared."""
    left, made = differing(before.plan, after.plan)
    then, anew = merge(left), merge(made)
    for uid in sorted(_served(left) | _served(made)):
        states = _states(anew, after.links, uid)
        was, now = _serving(_states(then, before.links, uid)), _serving(states)
        since, took = after.woken_at, after.written_at - after.woken_at
        if now and not was:
            yield Transition(
                uid, _replica(before, after, uid), JOINED, "in all its targets; receives sessions", since, took
            )
        elif was and not now and uid not in after.drains:
            kept = "keeps its sessions" if LinkState.DRAINING in states else "its sessions choose again"
            message = f"{_cause(after, uid)}; out of all targets, {kept}"
            yield Transition(uid, _replica(before, after, uid), STEERED_AWAY, message, since, took)
    for uid, drain in after.drains.items():
        yield from _progress(_replica(before, after, uid), before.drains.get(uid), drain)


def _progress(replica: Replica | None, before: Drain | None, drain: Drain) -> Iterator[Transition]:
    if drain.out_of_targets_at and not (before and before.out_of_targets_at):
        message = "out of all targets; keeps its sessions until they end"
        took = drain.out_of_targets_at - drain.asked_at
        yield Transition(drain.pod_uid, replica, DRAINING, message, drain.asked_at, took)
    if drain.ended_at and not (before and before.ended_at):
        left = drain.active_sessions
        passed = f"the deadline has passed; its sessions {'choose again' if drain.resets_at is None else 'are reset'}"
        message = "all sessions have ended; termination proceeds" if left == 0 else passed
        took = drain.ended_at - drain.asked_at
        fields: dict[str, object] = {"sessions_left": left}
        if drain.resets_at is not None:
            fields["at_deadline"] = AtDeadline.RESET.value
        yield Transition(drain.pod_uid, replica, DRAINED, message, drain.asked_at, took, fields)


def _served(parts: Iterable[Part]) -> set[str]:
    """UIDs of the pods with a link in the targets."""
    return {uid for part in parts for members in part.serving.values() for uid, _ in members}


def _serving(states: set[LinkState]) -> bool:
    """All the links serve. A link that is gone does not count: another may have replaced it."""
    return states - {LinkState.GONE} == {LinkState.SERVING}


def _states(plane: DataPlane, links: LinksByPod, uid: str) -> set[LinkState]:
    entries = (plane.links.get(link.slot) for link in links.get(uid, ()))
    return {entry.state for entry in entries if entry}


def _replica(before: State, after: State, uid: str) -> Replica | None:
    clusters = (state.cluster for state in (after, before) if state.cluster)
    return next((cluster.replicas[uid] for cluster in clusters if uid in cluster.replicas), None)


def _cause(state: State, uid: str) -> str:
    replica = state.cluster.replicas.get(uid) if state.cluster else None
    if state.cluster and not replica:
        return "the pod lost its labels" if uid in state.cluster.others else "the pod was deleted"
    return _fault(replica, state.links.get(uid, ())) or _change(state.cluster, replica)


def _change(cluster: Cluster | None, replica: Replica | None) -> str:
    if cluster and replica and not cluster.chain_of(replica):
        return f"chain {replica.chain} was deleted, or is not valid"
    if cluster and replica and not cluster.stage_of(replica):
        return f"chain {replica.chain} has no stage {replica.stage} any more"
    return "its chain changed"


def _fault(replica: Replica | None, links: Sequence[HostLink]) -> str | None:
    if replica and replica.stopped:
        return "it has done its work and ended without an error" if replica.finished else "a container stopped"
    if not links or (replica and not replica.interfaces <= {link.interface for link in links}):
        return "an interface vanished"
    if not all(link.up for link in links):
        return "an interface is down"
    if replica and not replica.ready:
        return "its containers are not ready"
    if replica and replica.relabelled:
        made_for = f"made for stage {replica.stage} of chain {replica.chain}"
        return f"its labels changed: it was {made_for}, they say {replica.relabelled}"
    return None

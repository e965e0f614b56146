"""What the node agent tells the cluster: the `sfc.dev/wired` condition of its pods, its part of the CrossConnections'
status. Pure: from the state of the data path to objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from controller.node.plane.model import LinkEntry, LinkState
from controller.node.plane.plan import State
from controller.node.plane.replica import Replica
from controller.node.plane.transitions import STEERED_AWAY, Transition
from sfc import names
from sfc.chain import Chain, Side

REPORTER = "sfc-node"


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Condition:
    """`sfc.dev/wired`, less its times. The message holds nothing that changes by itself: it is written seldom."""

    status: bool
    reason: str
    message: str

    def stands_in(self, current: Mapping[str, Any] | None) -> bool:
        return current is not None and (current["status"], current.get("reason"), current.get("message")) == (
            str(self.status),
            self.reason,
            self.message,
        )

    def patch(self, uid: str, current: Mapping[str, Any] | None, now: datetime) -> dict[str, Any]:
        """A strategic merge patch of the pod's status. The UID guards a new pod of the same name (StatefulSets) against
        its predecessor's condition."""
        changed = not current or current["status"] != str(self.status)
        content = {
            "type": names.WIRED_CONDITION,
            "status": str(self.status),
            "reason": self.reason,
            "message": self.message,
            **({"lastTransitionTime": timestamp(now)} if changed else {}),
        }
        return {"metadata": {"uid": uid}, "status": {"conditions": [content]}}


def conditions(state: State) -> Iterator[tuple[Replica, Condition]]:
    """For each replica of this node that has been given at least one link, or waits for one."""
    if state.cluster is None:
        return
    for replica in state.cluster.replicas.values():
        yield replica, _condition(state, replica, state.cluster.chain_of(replica))


def event(transition: Transition, replica: Replica, node: str, at: datetime) -> dict[str, Any]:
    """The transition as an Event of the pod."""
    warning = transition.reason == STEERED_AWAY or transition.fields.get("sessions_left")
    content = {
        "type": "Warning" if warning else "Normal",
        "reason": transition.reason,
        "message": transition.message,
        "count": 1,
    }
    return pod_event(replica, node, f"{replica.name}.{int(at.timestamp() * 1e6):x}", at, content)


def pod_event(replica: Replica, node: str, name: str, at: datetime, content: Mapping[str, Any]) -> dict[str, Any]:
    """`content`: type, reason, message and count."""
    moment = timestamp(at)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": replica.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": replica.namespace,
            "name": replica.name,
            "uid": replica.uid,
        },
        **content,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "source": {"component": REPORTER, "host": node},
        "reportingComponent": REPORTER,
        "reportingInstance": node,
    }


def node_status(state: State, node: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(namespace, name) of a CrossConnection → this node's entry in its `status.nodes`."""
    if state.cluster is None:
        return {}
    replicas: dict[tuple[int, Side], list[dict[str, str]]] = {}
    for replica, state_name, key in _placed(state):
        replicas.setdefault(key, []).append({"pod": replica.name, "state": state_name})
    entries = {}
    for chain in state.cluster.chains.values():
        for connection in chain.cross_connections:
            sides = {side: replicas.get((connection.number, side), []) for side in Side}
            if any(sides.values()):
                entries[chain.namespace, connection.name] = {"name": node} | {
                    side.name.lower(): sorted(found, key=lambda r: r["pod"]) for side, found in sides.items()
                }
    return entries


def _placed(state: State) -> Iterator[tuple[Replica, str, tuple[int, Side]]]:
    for replica in state.cluster.replicas.values() if state.cluster else ():
        for link in state.links.get(replica.uid, ()):
            entry = state.plane.links.get(link.slot)
            if entry and entry.state != LinkState.GONE:
                yield replica, entry.state.name.lower(), (entry.connection, entry.side)


def _condition(state: State, replica: Replica, chain: Chain | None) -> Condition:
    path = f"{replica.namespace}/{replica.chain}"
    if chain is None:
        return Condition(False, "NoChain", f"{names.CHAIN_KIND} {path} does not exist or is invalid")
    stage = chain.stage(replica.stage)
    if stage is None:
        return Condition(False, "NoStage", f"{names.CHAIN_KIND} {path} has no stage {replica.stage}")
    if drain := state.drains.get(replica.uid):
        ended = "Drained", "no session left to wait for, or the deadline has passed"
        going = "Draining", "out of all targets; waiting for its sessions to end"
        return Condition(False, *(ended if drain.ended else going))
    expected = {i.name for i in stage.interfaces if (stage.name, i.name) in chain.attachments}
    links = state.links.get(replica.uid, ())
    return _of_links(replica, expected, {link.interface: state.plane.links.get(link.slot) for link in links})


def _of_links(replica: Replica, expected: set[str], entries: Mapping[str, LinkEntry | None]) -> Condition:
    if missing := sorted(name for name in expected if not entries.get(name)):
        return Condition(False, "NotLinked", f"interface {', '.join(missing)} has no link on the node")
    if all(entry.state == LinkState.SERVING for entry in entries.values() if entry):
        return Condition(True, "Serving", f"in the targets of {len(expected)} cross-connection(s)")
    if replica.ready:
        return Condition(False, "InterfaceDown", "an interface is down; gets no session until it is up again")
    return Condition(False, "ContainersNotReady", "linked; receives sessions once its containers are ready")

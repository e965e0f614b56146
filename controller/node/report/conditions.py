"""The node agent's reports: the `sfc.dev/wired` condition of its pods, its part of the CrossConnections' status.

Pure: from the state of the data plane to values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from controller.node.plane.model import LinkEntry, LinkState
from controller.node.plane.plan import State
from controller.node.plane.replica import Replica
from controller.node.report.troubles import troubles
from kube.conditions import Condition
from sfc import missing, names
from sfc.chain import Chain, Side


def conditions(state: State) -> Iterator[tuple[Replica, Condition]]:
    """One for each replica of this node; none before the cluster was seen."""
    if state.cluster is None:
        return
    amiss = troubles(state)
    for replica in state.cluster.replicas.values():
        condition = _condition(state, replica, state.cluster.chain_of(replica))
        of_chain = [each for each in amiss.get((replica.namespace, replica.chain), ()) if each.connection is None]
        if of_chain and replica.ready and condition.reason not in ("Serving", "Draining", "Drained"):
            condition = _not_wired(of_chain[0].reason, of_chain[0].message)
        yield replica, condition


def node_status(state: State, node: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(namespace, name) of a CrossConnection → this node's element of its `status.nodes`.

    A CrossConnection without a replica on this node is left out, and so is a replica that is gone.
    """
    if state.cluster is None:
        return {}
    replicas: dict[tuple[int, Side], list[dict[str, str]]] = {}
    for replica, state_name, key in _placed(state):
        replicas.setdefault(key, []).append({"pod": replica.name, "state": state_name})
    entries = {}
    for connection, number in state.plan.numbers.of.items():
        sides = {side: replicas.get((number, side), []) for side in Side}
        if any(sides.values()):
            entries[connection.namespace, connection.connection] = {"name": node} | {
                side.name.lower(): sorted(found, key=lambda r: r["pod"]) for side, found in sides.items()
            }
    for (namespace, name), of_chain in troubles(state).items():
        chain = state.cluster.chains.get((namespace, name))
        for connection_name in (c.name for c in chain.cross_connections) if chain else ():
            messages = [each.message for each in of_chain if each.connection in (None, connection_name)]
            if messages and (namespace, connection_name) in entries:
                entries[namespace, connection_name]["trouble"] = "; ".join(messages)
    return entries


def _placed(state: State) -> Iterator[tuple[Replica, str, tuple[int, Side]]]:
    for replica in state.cluster.replicas.values() if state.cluster else ():
        for link in state.links.get(replica.uid, ()):
            entry = state.plane.links.get(link.slot)
            if entry and entry.state != LinkState.GONE:
                yield replica, entry.state.name.lower(), (entry.connection, entry.side)


def _condition(state: State, replica: Replica, chain: Chain | None) -> Condition:
    if replica.relabelled and replica.uid not in state.drains:
        return relabelled(replica)
    if chain is None:
        return _not_wired(missing.NO_CHAIN, missing.chain(replica.namespace, replica.chain))
    stage = chain.stage(replica.stage)
    if stage is None:
        return _not_wired(missing.NO_STAGE, missing.stage(chain, replica.stage))
    if drain := state.drains.get(replica.uid):
        if drain.ended:
            return _not_wired("Drained", "all its sessions have ended, or the deadline has passed")
        return _not_wired("Draining", "out of all targets; waiting for its sessions to end")
    expected = {i.name for i in stage.interfaces if (stage.name, i.name) in chain.attachments}
    links = state.links.get(replica.uid, ())
    return _of_links(replica, expected, {link.interface: state.plane.links.get(link.slot) for link in links})


def relabelled(replica: Replica) -> Condition:
    """Of a replica whose labels are not those of what it was made for."""
    return _not_wired(
        "Relabelled",
        f"its interfaces were made for stage {replica.stage} of chain {replica.chain}, its labels say "
        f"{replica.relabelled}: receives no new sessions; set {names.CHAIN_LABEL} and {names.STAGE_LABEL} back, or "
        "delete the pod",
    )


def _of_links(replica: Replica, expected: set[str], entries: Mapping[str, LinkEntry | None]) -> Condition:
    if without := sorted(name for name in expected if not entries.get(name)):
        return _not_wired("NotLinked", f"interface {', '.join(without)} has no link on the node")
    if all(entry.state == LinkState.SERVING for entry in entries.values() if entry):
        message = f"in the targets of {len(expected)} cross-connection(s)"
        return Condition(names.WIRED_CONDITION, True, "Serving", message)
    if replica.ready:
        return _not_wired("InterfaceDown", "an interface is down; receives no new sessions until it is up again")
    return _not_wired("ContainersNotReady", "linked; receives sessions once its containers are ready")


def _not_wired(reason: str, message: str) -> Condition:
    return Condition(names.WIRED_CONDITION, False, reason, message)

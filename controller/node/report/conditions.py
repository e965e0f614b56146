"""The node agent's reports: the `sfc.dev/wired` condition of its pods, its part of the CrossConnections' status.

Pure: from the state of the data plane to values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from controller.node.plane.far import generation
from controller.node.plane.hops import Hop, Hops
from controller.node.plane.model import HostLink, LinkState
from controller.node.plane.plan import State
from controller.node.plane.replica import Replica
from controller.node.plane.standing import Reason, Standing, standing
from controller.node.report.troubles import REFUSED, troubles
from kube.conditions import Condition
from sfc import missing, names
from sfc.chain import Chain, Side

RESTART = "restart its workload (kubectl rollout restart)"
SENTENCES = {
    Reason.CONTAINERS_NOT_READY: "linked; receives sessions once its containers are ready",
    Reason.NOT_LINKED: "interface {} has no link on the node",
    Reason.INTERFACE_DOWN: "interface {} is down; receives no new sessions until it is up again",
    Reason.OUTDATED: f"made with interface {{}}, which its stage does not have any more: {RESTART}",
    Reason.DRAINING: "out of all targets; waiting for its sessions to end",
}
"""With the interfaces that are to blame."""
PUBLISH = "set publishNotReadyAddresses: true"


def conditions(state: State) -> Iterator[tuple[Replica, Condition]]:
    """One for each replica of this node; none before the cluster was seen."""
    if state.cluster is None:
        return
    amiss, hops = troubles(state), Hops(state, state.cluster)
    for replica in state.cluster.replicas.values():
        condition = _condition(state, hops, replica, state.cluster.chain_of(replica))
        of_chain = [each for each in amiss.get((replica.namespace, replica.chain), ()) if each.connection is None]
        if of_chain and replica.ready and condition.reason not in ("Serving", "Draining", "Drained"):
            condition = _not_wired(of_chain[0].reason, of_chain[0].message)
        yield replica, condition


def alike(before: State, after: State) -> bool:
    """Whether the conditions are the same because all that they follow from is. Most passes are for replicas of other
    nodes, and change nothing here."""
    some, others = before.plan.parts, after.plan.parts
    return (
        before.cluster is not None
        and after.cluster is not None
        and before.cluster.replicas is after.cluster.replicas
        and before.plan.links is after.plan.links
        and (before.drains, before.refused) == (after.drains, after.refused)
        and some.keys() == others.keys()
        and all(part is others[key] for key, part in some.items())
    )


def node_status(
    state: State, node: str, address: str | None = None, mtu: int | None = None
) -> dict[tuple[str, str], dict[str, Any]]:
    """(namespace, name) of a CrossConnection → this node's element of its `status.nodes`.

    A CrossConnection without a replica on this node is left out, and so is a replica that is gone. `address`: of the
    node, if it has a tunnel by which others reach it. `mtu`: of interfaces whose frames fit through that.
    """
    if state.cluster is None:
        return {}
    replicas: dict[tuple[int, Side], list[dict[str, Any]]] = {}
    for replica, state_name, key, link in _placed(state):
        said = {"pod": replica.name, "uid": replica.uid, "state": state_name}
        where = {"slot": link.slot, "generation": generation(link.ifindex)} if address else {}
        ports = {"sourcePorts": str(replica.ports)} if address and replica.ports else {}
        replicas.setdefault(key, []).append(said | where | ports)
    entries = {}
    for connection, number in state.plan.numbers.of.items():
        sides = {side: replicas.get((number, side), []) for side in Side}
        if any(sides.values()):
            named = {"name": node} | ({"address": address} | ({"mtu": mtu} if mtu else {}) if address else {})
            entries[connection.namespace, connection.connection] = named | {
                side.name.lower(): sorted(found, key=lambda r: r["pod"]) for side, found in sides.items()
            }
    for (namespace, name), of_chain in troubles(state).items():
        chain = state.cluster.chains.get((namespace, name))
        for connection_name in (c.name for c in chain.cross_connections) if chain else ():
            messages = [each.message for each in of_chain if each.connection in (None, connection_name)]
            if messages and (namespace, connection_name) in entries:
                entries[namespace, connection_name]["trouble"] = "; ".join(messages)
    return entries


def _placed(state: State) -> Iterator[tuple[Replica, str, tuple[int, Side], HostLink]]:
    for replica in state.cluster.replicas.values() if state.cluster else ():
        for link in state.links.get(replica.uid, ()):
            entry = state.plane.links.get(link.slot)
            if entry and entry.state != LinkState.GONE:
                keeps = entry.state == LinkState.DRAINING and replica.uid not in state.drains
                shown = LinkState.WIRED if keeps else entry.state
                yield replica, shown.name.lower(), (entry.connection, entry.side), link


def _condition(state: State, hops: Hops, replica: Replica, chain: Chain | None) -> Condition:
    drain = state.drains.get(replica.uid)
    its = standing(replica, drain, state.links.get(replica.uid, ()), chain)
    if its.reason is Reason.RELABELLED:
        return _relabelled(replica)
    if chain and its.reason is Reason.SERVING:
        return _serving(state, hops.of(replica, chain), replica, its)
    if chain and its.reason is Reason.CONTAINERS_NOT_READY:
        return _not_wired(its.reason, SENTENCES[its.reason] + _deadlock(hops.of(replica, chain), replica))
    if drain and drain.ended:
        idle = drain.active_sessions == 0
        return _not_wired(its.reason, "all its sessions have ended" if idle else "the drain deadline has passed")
    return _not_wired(its.reason, _sentence(replica, chain, its))


def _serving(state: State, hops: Sequence[tuple[HostLink, Hop]], replica: Replica, its: Standing) -> Condition:
    """It serves by the plan; the data path has the last word."""
    entries = [state.plane.links.get(link.slot) for link, _ in hops]
    if not all(entry and entry.state == LinkState.SERVING for entry in entries):
        refusal = state.refused.get((replica.namespace, replica.chain))
        return _not_wired(REFUSED, refusal.message if refusal else "the kernel has not accepted its links yet")
    if without := [hop for _, hop in hops if not hop.closed]:
        return _not_wired(names.HOP_OPEN, "; ".join(map(_openness, without)))
    message = f"in the targets of {len(entries)} cross-connection(s)"
    if its.interfaces:
        message += f"; its stage has got {', '.join(its.interfaces)} since it was made: {RESTART} to have it, too"
    return Condition(names.WIRED_CONDITION, True, Reason.SERVING, message)


def _openness(hop: Hop) -> str:
    said = f"in its targets, but no traffic passes from {hop.near} to {hop.far}: "
    if hop.waiting:
        return (
            f"{said}{', '.join(hop.waiting)} of stage {hop.far.stage} on this node waits for its containers; if they "
            f"wait for stage {hop.near.stage} in turn, {PUBLISH} for stage {hop.far.stage}"
        )
    return (
        f"{said}stage {hop.far.stage} has no serving replica on this node or on one that its tunnel reaches; see "
        f"kubectl describe pods -l {names.STAGE_LABEL}={hop.far.stage}"
    )


def _deadlock(hops: Sequence[tuple[HostLink, Hop]], replica: Replica) -> str:
    """The end of the message of a replica that waits for its containers, if others may wait for it."""
    others = sorted({hop.far.stage for _, hop in hops if hop.waiting})
    if not others:
        return ""
    return (
        f"; stage {', '.join(others)} on this node waits for its containers, too: if one waits for traffic through the "
        f"other, {PUBLISH} for stage {replica.stage}"
    )


def _sentence(replica: Replica, chain: Chain | None, its: Standing) -> str:
    if its.reason is Reason.NO_CHAIN:
        return missing.chain(replica.namespace, replica.chain)
    if its.reason is Reason.NO_STAGE and chain:
        return missing.stage(chain, replica.stage)
    return SENTENCES[its.reason].format(", ".join(its.interfaces))


def _relabelled(replica: Replica) -> Condition:
    """Of a replica whose labels are not those of what it was made for."""
    return _not_wired(
        "Relabelled",
        f"its interfaces were made for stage {replica.stage} of chain {replica.chain}, its labels say "
        f"{replica.relabelled}: receives no new sessions; set {names.CHAIN_LABEL} and {names.STAGE_LABEL} back, or "
        "delete the pod",
    )


def _not_wired(reason: str, message: str) -> Condition:
    return Condition(names.WIRED_CONDITION, False, reason, message)

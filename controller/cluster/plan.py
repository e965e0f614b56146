"""The writes that bring the cluster's objects to what they should be. Pure; no writes when all is as it should be.

A chain has one CrossConnection per link, and its namespace has the NetworkAttachmentDefinition by which Multus calls
our CNI plugin. Objects of a deleted chain are left to Kubernetes' garbage collector, which finds them by their owners.

A pass over a chain has two steps: what it `needed`, then what is `told` about it, from what became of the first.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeGuard

from controller.cluster import events, source_ports, status
from controller.cluster.snapshot import ChainObject, Pod, by_stage
from controller.cluster.workloads import Workload
from controller.cluster.writes import Apply, Create, Delete, Outcome, Withdraw, Write
from kube import objects
from kube.objects import CHAINS, CONNECTIONS, NETWORKS, Key, Object
from sfc import names
from sfc.chain import Chain, CrossConnection, InterfaceRef

MANAGER = "sfc-cluster-controller"
"""Field manager of everything that we apply, and the value of MANAGED_BY."""
MANAGED_BY = "app.kubernetes.io/managed-by"
"""Label of the networks that are ours."""

NETWORK_CONFIG = {
    "cniVersion": "1.0.0",
    "name": names.NETWORK_NAME,
    "type": names.CNI_TYPE,
    "capabilities": {"ips": True, "mac": True},
    "ipam": {"type": "static"},
}


@dataclass(frozen=True, slots=True)
class Part:
    """All that the writes of one chain follow from."""

    key: Key
    found: ChainObject | None
    """None for a chain that does not exist, or is being deleted."""
    present: Mapping[str, Object | None] = field(default_factory=dict)
    """The objects that have the names of its cross-connections."""
    owned: Sequence[Object] = ()
    """The CrossConnections that it made."""
    pods: Sequence[Pod] = ()
    workloads: Sequence[Workload] = ()
    """Those with its label."""
    network: Object | None = None
    """`sfc` of its namespace."""
    network_refused: str | None = None
    """Why the API server refuses that."""
    nodes: Collection[Key] = frozenset()
    """The nodes that exist."""


@dataclass(frozen=True, slots=True)
class Place:
    """All that the writes of one namespace's network follow from."""

    namespace: str
    chains: Sequence[Object]
    """Those that stay."""
    network: Object | None


def needed(part: Part, now: datetime) -> Iterator[Write]:
    """What a chain needs: its CrossConnections, and source ports for its pods. In the order in which it is done."""
    chain = part.found.chain if part.found else None
    if part.found and chain:
        yield from _connections(part.found.obj, chain, part)
    # Objects of an earlier, valid version of a chain stay as they are: a bad edit must not cut traffic that flows.
    yield from source_ports.writes(*part.key, chain, part.pods, now)


def told(part: Part, outcome: Outcome, now: datetime) -> Iterator[Write]:
    """The events and statuses of a chain. `outcome`: of what it needed."""
    found, pods = part.found, part.pods
    if found is None:
        return
    chain = found.chain
    if chain is None:
        yield from _chain_status(found, status.chain_status(found.obj, [status.invalid(found.problems)], (), now), now)
        return
    yield from (events.record(e, found.reference, now) for e in events.of_creation(outcome.created))
    alive = {pod.uid for pod in pods} | {pod.name for pod in pods}
    made = [(c, o) for c in chain.cross_connections if _is_made(o := part.present[c.name], chain, c)]
    hops = {c.name: status.hop(c, present, alive) for c, present in made}
    for connection, present in made:
        yield from (_withdrawn(present, node) for node in status.left_behind(present, alive, part.nodes))
        wanted = status.connection_status(present, hops[connection.name], alive, now)
        yield from _status(CONNECTIONS, present, wanted)
    known = {c.name for c, _ in made} | {*outcome.created, *outcome.found}
    missing = [c.name for c in chain.cross_connections if c.name not in known]
    counts = status.stage_counts(chain, pods, part.workloads)
    ready = status.objects_refused(_refusals(part, missing, outcome)) or status.chain_ready(
        chain, counts, [*hops.values()], missing, conflict(part.network)
    )
    ports = status.ports_refused(_ports_refused(chain, outcome)) or status.ports_assigned(
        chain, source_ports.shortage(chain, pods)
    )
    bounds = status.bounds_exceeded(found.excesses)
    conditions = [condition for condition in (ready, ports, bounds) if condition]
    said = status.chain_status(found.obj, conditions, counts, now)
    yield from _chain_status(found, said, now, _finished(pods), {count.name for count in counts if count.hop_open})


def network(place: Place) -> Iterator[Write]:
    """The network `sfc` of a namespace that has chains, unless somebody else's is there."""
    if place.chains and not conflict(place.network):
        yield from _network(place.namespace, place.chains, place.network)


def _refusals(part: Part, missing: Iterable[str], outcome: Outcome) -> dict[str, str]:
    """Why the chain lacks objects, by what it lacks."""
    lacking = {f"{CONNECTIONS.kind} {name}": CONNECTIONS.path(part.key[0], name) for name in missing}
    words = {what: outcome.refused[path] for what, path in lacking.items() if path in outcome.refused}
    if part.network is None and part.network_refused:
        words[f"{NETWORKS.kind} {names.NETWORK_NAME}"] = part.network_refused
    return words


def _ports_refused(chain: Chain, outcome: Outcome) -> dict[str, str]:
    """Why pods get no source ports, by stage."""
    paths = {stage.name: source_ports.path(chain.namespace, chain.name, stage.name) for stage in chain.stages}
    return {stage: outcome.refused[path] for stage, path in paths.items() if path in outcome.refused}


def _connections(obj: Object, chain: Chain, part: Part) -> Iterator[Write]:
    wanted = {c.name for c in chain.cross_connections}
    for found in sorted(part.owned, key=objects.name):
        if objects.name(found) not in wanted and objects.namespace(found) == chain.namespace:
            yield _delete(found)
    for connection in chain.cross_connections:
        present = part.present[connection.name]
        if _is_made(present, chain, connection) or (present is not None and objects.leaving(present)):
            continue
        # One that exists is of an earlier chain of this name, or somebody else's: its spec and status do not fit.
        if present is not None:
            yield _delete(present)
        made = _connection(obj, connection)
        yield Create(_path(made), made)


def _is_made(found: Object | None, chain: Chain, connection: CrossConnection) -> TypeGuard[Object]:
    return (
        found is not None
        and not objects.leaving(found)
        and objects.controller_uid(found) == chain.uid
        and found.get("spec") == _connection_spec(chain.name, connection)
    )


def _connection(obj: Object, connection: CrossConnection) -> dict[str, Any]:
    chain = objects.name(obj)
    metadata = {
        "name": connection.name,
        "namespace": objects.namespace(obj),
        "labels": {names.CHAIN_LABEL: chain},
        "ownerReferences": [objects.owned_by(obj, controller=True)],
    }
    return CONNECTIONS.object(metadata, spec=_connection_spec(chain, connection))


def _connection_spec(chain: str, connection: CrossConnection) -> dict[str, Any]:
    return {"chain": chain, "upstream": _end(connection.upstream), "downstream": _end(connection.downstream)}


def _end(ref: InterfaceRef) -> dict[str, str]:
    return {"stage": ref.stage, "interface": ref.interface}


def _network(namespace: str, chains: Sequence[Object], found: Object | None) -> Iterator[Write]:
    owners = [objects.owned_by(chain, controller=False) for chain in chains]
    metadata = {
        "name": names.NETWORK_NAME,
        "namespace": namespace,
        "labels": {MANAGED_BY: MANAGER},
        "ownerReferences": owners,
    }
    wanted = NETWORKS.object(metadata, spec={"config": json.dumps(NETWORK_CONFIG)})
    if found and not objects.leaving(found) and found.get("spec") == wanted["spec"]:
        present = found["metadata"].get("ownerReferences") or ()
        if sorted(o["uid"] for o in present) == sorted(o["uid"] for o in owners):
            return
    yield Apply(NETWORKS.path(namespace, names.NETWORK_NAME), wanted)


def conflict(found: Object | None) -> str | None:
    """Why the network that a namespace has is not ours, and what to do; None when all is well."""
    if found is None or objects.label(found, MANAGED_BY) == MANAGER:
        return None
    return (
        f"NetworkAttachmentDefinition {names.NETWORK_NAME} of namespace {objects.namespace(found)} is not from the "
        f"cluster controller, and the chain's pods need one of this name: delete it, or hand it over by the label "
        f"{MANAGED_BY}={MANAGER}"
    )


def _withdrawn(found: Object, node: str) -> Write:
    metadata = {"name": objects.name(found), "namespace": objects.namespace(found), "uid": found["metadata"]["uid"]}
    path = CONNECTIONS.path(*objects.key(found), "status")
    return Withdraw(path, CONNECTIONS.object(metadata, status={"nodes": []}), node)


def _finished(pods: Iterable[Pod]) -> set[str]:
    """The stages all of whose pods have ended without an error."""
    return {stage for stage, members in by_stage(pods).items() if all(pod.finished for pod in members)}


def _chain_status(
    found: ChainObject, wanted: Object, now: datetime, finished: Collection[str] = (), waiting: Collection[str] = ()
) -> Iterator[Write]:
    """Events go first: recorded twice is better than never. `finished`, `waiting`: as for `events.of_change`."""
    for event in events.of_change(found.obj.get("status"), wanted, finished, waiting):
        yield events.record(event, found.reference, now)
    yield from _status(CHAINS, found.obj, wanted)


def _status(resource: objects.Resource, found: Object, wanted: Object) -> Iterator[Write]:
    present = found.get("status") or {}
    if any(present.get(field) != value for field, value in wanted.items()):
        metadata = {"name": objects.name(found), "namespace": objects.namespace(found)}
        yield Apply(resource.path(*objects.key(found), "status"), resource.object(metadata, status=wanted))


def _delete(connection: Object) -> Delete:
    return Delete(_path(connection), connection["metadata"].get("uid", ""))


def _path(connection: Object) -> str:
    return CONNECTIONS.path(*objects.key(connection))

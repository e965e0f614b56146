"""The writes that bring the cluster's objects to what they should be. Pure; no writes when all is as it should be.

A chain has one CrossConnection per link, and its namespace has the NetworkAttachmentDefinition by which Multus calls
our CNI plugin. Objects of a deleted chain are left to Kubernetes' garbage collector, which finds them by their owners.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import is_
from typing import Any

from controller.cluster import events, source_ports, status
from controller.cluster.snapshot import ChainObject, Pod, Snapshot
from controller.cluster.writes import Apply, Delete, Withdraw, Write
from kube import objects
from kube.objects import CHAINS, CONNECTIONS, NETWORKS, Key, Object
from sfc import names
from sfc.chain import Chain, CrossConnection, InterfaceRef, Side

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


Settled = dict[Key, tuple[object, ...]]
"""By chain: what a plan without writes was made from. It only saves work: the same objects again need no writes."""


def plan(snapshot: Snapshot, now: datetime, settled: Settled | None = None) -> dict[str, list[Write]]:
    """By namespace, each in the order in which they should be done. Writes of one chain do not depend on another's.

    `settled` is of the plan before, and becomes that of this one.
    """
    chains = sorted((c for c in snapshot.chains.values() if not objects.leaving(c.obj)), key=lambda c: c.key)
    owned = _by_owner(snapshot.connections)
    pods = _by_chain(snapshot.pods.values())
    before = dict(settled or {})
    after: Settled = {}
    writes: dict[str, list[Write]] = {}
    for namespace, of_namespace in groupby(chains, lambda c: c.key[0]):
        members = list(of_namespace)
        network = snapshot.networks.get((namespace, names.NETWORK_NAME))
        conflict = _conflict(network)
        found = [] if conflict else list(_network(namespace, [member.obj for member in members], network))
        for member in members:
            part = _Part(
                member,
                _present(member.chain, snapshot.connections),
                owned.get(member.obj["metadata"]["uid"], ()),
                tuple(pods.pop(member.key, ())),
                conflict,
                snapshot.nodes,
            )
            if not part.same_as(before.get(member.key)):
                needed = list(_chain(part, now))
                found += needed
                if needed:
                    continue
            after[member.key] = part.inputs
        if found:
            writes[namespace] = found
    for (namespace, chain), orphans in pods.items():
        if needed := list(source_ports.writes(namespace, chain, None, orphans, now)):
            writes.setdefault(namespace, []).extend(needed)
    if settled is not None:
        settled.clear()
        settled.update(after)
    return writes


@dataclass(frozen=True, slots=True)
class _Part:
    """All that the writes of one chain follow from."""

    found: ChainObject
    present: tuple[Object | None, ...]
    """The objects that have the names of its cross-connections, in their order."""
    owned: Sequence[Object]
    """The CrossConnections that it made."""
    pods: tuple[Pod, ...]
    conflict: str | None
    nodes: Mapping[Key, object]

    @property
    def inputs(self) -> tuple[object, ...]:
        return (self.found, *self.present, *self.owned, *self.pods, self.conflict, self.nodes)

    def same_as(self, inputs: tuple[object, ...] | None) -> bool:
        """Whether they are the very objects; a watch gives a new one for each version."""
        mine = self.inputs
        return inputs is not None and len(inputs) == len(mine) and all(map(is_, mine, inputs))


def _present(chain: Chain | None, connections: Mapping[Key, Object]) -> tuple[Object | None, ...]:
    return tuple(connections.get((chain.namespace, c.name)) for c in chain.cross_connections) if chain else ()


def _chain(part: _Part, now: datetime) -> Iterator[Write]:
    found, chain, pods = part.found, part.found.chain, part.pods
    if chain is None:
        # Objects of an earlier, valid version stay as they are: a bad edit must not cut traffic that flows.
        yield from _chain_status(found, status.chain_status(found.obj, [status.invalid(found.problems)], (), now), now)
        yield from source_ports.writes(*found.key, None, pods, now)
        return
    pairs = list(zip(chain.cross_connections, part.present, strict=True))
    missing = [(c, present) for c, present in pairs if not _is_made(present, chain, c)]
    yield from _connections(found.obj, chain, missing, part.owned)
    yield from (events.record(e, found.reference, now) for e in events.of_creation(c.name for c, _ in missing))
    alive = {pod.uid for pod in pods} | {pod.name for pod in pods}
    for connection, present in pairs:
        if present is not None and _is_made(present, chain, connection):
            yield from (_withdrawn(present, node) for node in status.left_behind(present, alive, part.nodes))
            yield from _connection_status(present, connection, alive, now)
    yield from source_ports.writes(*found.key, chain, pods, now)
    counts = status.stage_counts(chain, pods)
    ready = status.chain_ready(chain, counts, [c.name for c, _ in missing], part.conflict)
    ports = status.ports_assigned(chain, source_ports.shortage(chain, pods))
    bounds = status.bounds_exceeded(found.excesses)
    conditions = [condition for condition in (ready, ports, bounds) if condition]
    yield from _chain_status(found, status.chain_status(found.obj, conditions, counts, now), now)


def _connections(
    obj: Object, chain: Chain, missing: Iterable[tuple[CrossConnection, Object | None]], owned: Iterable[Object]
) -> Iterator[Write]:
    wanted = {c.name for c in chain.cross_connections}
    for found in sorted(owned, key=objects.name):
        if objects.name(found) not in wanted and objects.namespace(found) == chain.namespace:
            yield Delete(_path(found))
    for connection, present in missing:
        # One that exists is of an earlier chain of this name, or somebody else's: its spec and status do not fit.
        if present is not None:
            yield Delete(_path(present))
        made = _connection(obj, connection)
        yield Apply(_path(made), made)


def _is_made(found: Object | None, chain: Chain, connection: CrossConnection) -> bool:
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


def _conflict(found: Object | None) -> str | None:
    if found is None or objects.label(found, MANAGED_BY) == MANAGER:
        return None
    return (
        f"NetworkAttachmentDefinition {names.NETWORK_NAME} of namespace {objects.namespace(found)} is not from the "
        f"cluster controller, and the chain's pods need one of this name: delete it, or hand it over by the label "
        f"{MANAGED_BY}={MANAGER}"
    )


def _connection_status(
    found: Object, connection: CrossConnection, alive: Collection[str], now: datetime
) -> Iterator[Write]:
    ends = {side: connection.end(side) for side in Side}
    yield from _status(CONNECTIONS, found, status.connection_status(found, ends, alive, now))


def _withdrawn(found: Object, node: str) -> Write:
    metadata = {"name": objects.name(found), "namespace": objects.namespace(found), "uid": found["metadata"]["uid"]}
    path = CONNECTIONS.path(*objects.key(found), "status")
    return Withdraw(path, CONNECTIONS.object(metadata, status={"nodes": []}), node)


def _chain_status(found: ChainObject, wanted: Object, now: datetime) -> Iterator[Write]:
    """Events go first: recorded twice is better than never."""
    for event in events.of_change(found.obj.get("status"), wanted):
        yield events.record(event, found.reference, now)
    yield from _status(CHAINS, found.obj, wanted)


def _status(resource: objects.Resource, found: Object, wanted: Object) -> Iterator[Write]:
    present = found.get("status") or {}
    if any(present.get(field) != value for field, value in wanted.items()):
        metadata = {"name": objects.name(found), "namespace": objects.namespace(found)}
        yield Apply(resource.path(*objects.key(found), "status"), resource.object(metadata, status=wanted))


def _by_owner(connections: Mapping[Key, Object]) -> dict[str, list[Object]]:
    """By the UID of the chain that made them."""
    found: dict[str, list[Object]] = {}
    for connection in connections.values():
        if uid := objects.controller_uid(connection):
            found.setdefault(uid, []).append(connection)
    return found


def _by_chain(pods: Iterable[Pod]) -> dict[Key, list[Pod]]:
    found: dict[Key, list[Pod]] = {}
    for pod in pods:
        if pod.chain:
            found.setdefault((pod.namespace, pod.chain), []).append(pod)
    return found


def _path(connection: Object) -> str:
    return CONNECTIONS.path(*objects.key(connection))

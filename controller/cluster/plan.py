"""The writes that bring the cluster's objects to what they should be. Pure; no writes when all is as it should be.

A chain has one CrossConnection per link, and its namespace has the NetworkAttachmentDefinition by which Multus calls
our CNI plugin. Objects of a deleted chain are left to Kubernetes' garbage collector, which finds them by their owners.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from controller.cluster import events, source_ports, status
from controller.cluster.snapshot import ChainObject, Pod, Snapshot
from controller.cluster.writes import Apply, Delete, Write
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


def plan(snapshot: Snapshot, now: datetime) -> list[Write]:
    """In the order in which they should be done. Writes of one chain do not depend on those of another."""
    chains = sorted((c for c in snapshot.chains.values() if not objects.leaving(c.obj)), key=lambda c: c.key)
    connections = _by_namespace(snapshot.connections)
    pods = _by_chain(snapshot.pods.values())
    writes: list[Write] = []
    for namespace, of_namespace in groupby(chains, lambda c: c.key[0]):
        members = list(of_namespace)
        network = snapshot.networks.get((namespace, names.NETWORK_NAME))
        conflict = _conflict(network)
        if not conflict:
            writes += _network(namespace, [member.obj for member in members], network)
        for member in members:
            present = connections.get(namespace, {})
            writes += _chain(member, present, pods.pop(member.key, ()), conflict, now)
    for (namespace, chain), orphans in pods.items():
        writes += source_ports.writes(namespace, chain, None, orphans, now)
    return writes


def _chain(
    found: ChainObject, present: Mapping[str, Object], pods: Sequence[Pod], conflict: str | None, now: datetime
) -> Iterator[Write]:
    """`present`: CrossConnections of the chain's namespace, by name."""
    chain = found.chain
    if chain is None:
        # Objects of an earlier, valid version stay as they are: a bad edit must not cut traffic that flows.
        yield from _chain_status(found, status.chain_status(found.obj, [status.invalid(found.problems)], (), now), now)
        yield from source_ports.writes(*found.key, None, pods, now)
        return
    missing = [c for c in chain.cross_connections if not _is_made(present.get(c.name), chain, c)]
    yield from _connections(found.obj, chain, missing, present)
    yield from (events.record(e, found.reference, now) for e in events.of_creation(c.name for c in missing))
    for connection in chain.cross_connections:
        if connection not in missing:
            yield from _connection_status(present[connection.name], connection, pods, now)
    yield from source_ports.writes(*found.key, chain, pods, now)
    counts = status.stage_counts(chain, pods)
    ready = status.chain_ready(chain, counts, [c.name for c in missing], conflict)
    ports = status.ports_assigned(chain, source_ports.shortage(chain, pods))
    conditions = [ready, ports] if ports else [ready]
    yield from _chain_status(found, status.chain_status(found.obj, conditions, counts, now), now)


def _connections(
    obj: Object, chain: Chain, missing: Iterable[CrossConnection], present: Mapping[str, Object]
) -> Iterator[Write]:
    wanted = {c.name for c in chain.cross_connections}
    for name, found in sorted(present.items()):
        if objects.controller_uid(found) == chain.uid and name not in wanted:
            yield Delete(_path(found))
    for connection in missing:
        # One that exists is of an earlier chain of this name, or somebody else's: its spec and status do not fit.
        if connection.name in present:
            yield Delete(_path(present[connection.name]))
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
    found: Object, connection: CrossConnection, pods: Sequence[Pod], now: datetime
) -> Iterator[Write]:
    ends = {side: connection.end(side) for side in Side}
    yield from _status(CONNECTIONS, found, status.connection_status(found, ends, pods, now))


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


def _by_namespace(connections: Mapping[Key, Object]) -> dict[str, dict[str, Object]]:
    found: dict[str, dict[str, Object]] = {}
    for (namespace, name), connection in connections.items():
        found.setdefault(namespace, {})[name] = connection
    return found


def _by_chain(pods: Iterable[Pod]) -> dict[Key, list[Pod]]:
    found: dict[Key, list[Pod]] = {}
    for pod in pods:
        if pod.chain:
            found.setdefault((pod.namespace, pod.chain), []).append(pod)
    return found


def _path(connection: Object) -> str:
    return CONNECTIONS.path(*objects.key(connection))

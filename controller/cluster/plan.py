"""What is to be done, from the objects as they are: pure, and empty when all is as it should be.

A chain has one CrossConnection per link, and its namespace has the NetworkAttachmentDefinition by which Multus calls
our CNI plugin. Objects of a chain that is gone are left to Kubernetes' garbage collector, which knows by their owners.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from controller.cluster import events, source_ports, status
from controller.cluster.changes import Apply, Change, Delete, Record
from kube import objects
from kube.objects import CHAINS, CONNECTIONS, NETWORKS, Object
from sfc import names
from sfc.chain import Chain, CrossConnection, InterfaceRef, Side
from sfc.validation.checks import InvalidChain, parse

MANAGER = "sfc-cluster-controller"
"""Field manager of everything we apply, and the mark of the networks that are ours."""
MANAGED_BY = "app.kubernetes.io/managed-by"

NETWORK_CONFIG = {
    "cniVersion": "1.0.0",
    "name": names.NETWORK_NAME,
    "type": names.CNI_TYPE,
    "capabilities": {"ips": True, "mac": True},
    "ipam": {"type": "static"},
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """The objects that matter, as last seen."""

    chains: Sequence[Object] = ()
    connections: Sequence[Object] = ()
    networks: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    """Those with the chain label."""


def plan(cluster: Cluster, now: datetime) -> list[Change]:
    """In the order in which it should be done. Changes of one chain do not depend on those of another."""
    chains = sorted((c for c in cluster.chains if not objects.leaving(c)), key=_key)
    connections = {_key(c): c for c in cluster.connections}
    networks = {objects.namespace(n): n for n in cluster.networks if objects.name(n) == names.NETWORK_NAME}
    pods = _by_chain(cluster.pods)
    changes: list[Change] = []
    for namespace, of_namespace in groupby(chains, objects.namespace):
        members = list(of_namespace)
        conflict = _conflict(networks.get(namespace))
        if not conflict:
            changes += _network(namespace, members, networks.get(namespace))
        for obj in members:
            changes += _chain(obj, connections, pods.pop(_key(obj), ()), conflict, now)
    for (namespace, chain), orphans in pods.items():
        changes += source_ports.changes(namespace, chain, None, orphans, now)
    return changes


def _chain(
    obj: Object,
    connections: Mapping[tuple[str, str], Object],
    pods: Sequence[Object],
    conflict: str | None,
    now: datetime,
) -> Iterator[Change]:
    try:
        chain = parse(obj)
    except InvalidChain as error:
        # Whatever an earlier, valid version led to stays as it is: traffic that flows is not cut by a bad edit.
        verdict = status.Verdict(False, status.INVALID, str(error))
        yield from _chain_status(obj, status.chain_status(obj, verdict, (), now), now)
        yield from source_ports.changes(*_key(obj), None, pods, now)
        return
    present = {key[1]: c for key, c in connections.items() if key[0] == chain.namespace}
    missing = [c for c in chain.cross_connections if not _is_made(present.get(c.name), chain, c)]
    yield from _connections(obj, chain, missing, present)
    yield from (Record(events.to_object(e, obj, now)) for e in events.of_creation(c.name for c in missing))
    for connection in chain.cross_connections:
        if connection not in missing:
            yield from _connection_status(present[connection.name], connection, pods, now)
    yield from source_ports.changes(*_key(obj), chain, pods, now)
    counts = status.stage_counts(chain, pods)
    verdict = status.chain_verdict(chain, counts, [c.name for c in missing], conflict)
    ports = status.ports_verdict(chain, source_ports.shortage(chain, pods))
    yield from _chain_status(obj, status.chain_status(obj, verdict, counts, now, ports), now)


def _connections(
    obj: Object, chain: Chain, missing: Iterable[CrossConnection], present: Mapping[str, Object]
) -> Iterator[Change]:
    wanted = {c.name for c in chain.cross_connections}
    for name, found in sorted(present.items()):
        if objects.controller_uid(found) == chain.uid and name not in wanted:
            yield Delete(_path(found))
    for connection in missing:
        # Of an earlier chain of this name, or somebody's own: its spec and status are not this chain's.
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


def _network(namespace: str, chains: Sequence[Object], found: Object | None) -> Iterator[Change]:
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
        f"NetworkAttachmentDefinition {names.NETWORK_NAME} of namespace {objects.namespace(found)} is not ours, and "
        f"the chain's pods need one of this name: delete it, or give it up by the label {MANAGED_BY}={MANAGER}"
    )


def _connection_status(
    found: Object, connection: CrossConnection, pods: Sequence[Object], now: datetime
) -> Iterator[Change]:
    ends = {side: connection.end(side) for side in Side}
    yield from _status(CONNECTIONS, found, status.connection_status(found, ends, pods, now))


def _chain_status(obj: Object, wanted: Object, now: datetime) -> Iterator[Change]:
    """Events go first: told twice is better than never."""
    for event in events.of_change(obj.get("status"), wanted):
        yield Record(events.to_object(event, obj, now))
    yield from _status(CHAINS, obj, wanted)


def _status(resource: objects.Resource, found: Object, wanted: Object) -> Iterator[Change]:
    present = found.get("status") or {}
    if any(present.get(field) != value for field, value in wanted.items()):
        metadata = {"name": objects.name(found), "namespace": objects.namespace(found)}
        yield Apply(resource.path(*_key(found), "status"), resource.object(metadata, status=wanted))


def _by_chain(pods: Iterable[Object]) -> dict[tuple[str, str], list[Object]]:
    found: dict[tuple[str, str], list[Object]] = {}
    for pod in pods:
        chain = objects.label(pod, names.CHAIN_LABEL)
        if chain:
            found.setdefault((objects.namespace(pod), chain), []).append(pod)
    return found


def _path(connection: Object) -> str:
    return CONNECTIONS.path(*_key(connection))


def _key(obj: Object) -> tuple[str, str]:
    return objects.namespace(obj), objects.name(obj)

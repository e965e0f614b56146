"""What the node agent sees of the cluster: chains, its node's replicas, CrossConnections, as the watches last told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from controller.node.plane.desired import Cluster
from controller.node.plane.replica import Replica, replica_of
from kube.api import ApiServer
from kube.watch import Key, Watch
from sfc import names
from sfc.chain import Chain
from sfc.validation import checks

log = logging.getLogger(__name__)

Object = Mapping[str, Any]
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read from the last snapshots, each value beside the object that it was read from."""

    told: tuple[Mapping[Key, Object], Mapping[Key, Object]]
    """Snapshots of chains and pods."""
    chains: Mapping[Key, tuple[Object, Chain | None]]
    replicas: Mapping[Key, tuple[Object, Replica | None]]
    cluster: Cluster


def seen(chains: Mapping[Key, Object], pods: Mapping[Key, Object], before: Seen | None) -> Seen:
    """Only objects that are other ones than `before` are read."""
    if before and before.told[0] is chains and before.told[1] is pods:
        return before
    parsed = read(chains, before.chains if before else {}, chain)
    found = read(pods, before.replicas if before else {}, lambda pod, _: replica_of(pod))
    cluster = Cluster(
        chains={key: one for key, (_, one) in parsed.items() if one},
        replicas={replica.uid: replica for _, replica in found.values() if replica},
    )
    return Seen((chains, pods), parsed, found, cluster)


def read(
    objects: Mapping[Key, Object], known: Mapping[Key, tuple[Object, V]], value: Callable[[Object, V | None], V]
) -> dict[Key, tuple[Object, V]]:
    """`value` is given an object and what was read from its predecessor."""
    return {
        key: known[key]
        if key in known and known[key][0] is obj
        else (obj, value(obj, known[key][1] if key in known else None))
        for key, obj in objects.items()
    }


def chain(obj: Object, before: Chain | None) -> Chain | None:
    """A chain that got past admission and is not valid stays as it was, so that a bad edit does not cut traffic that
    flows."""
    try:
        return checks.parse(obj)
    except checks.InvalidChain as error:
        metadata = obj["metadata"]
        path = f"{metadata['namespace']}/{metadata['name']}"
        log.warning("invalid chain not followed", extra={"chain": path, "error": str(error)})
        return before


class ClusterView:
    """Chains, and this node's replicas, as the API server last told."""

    def __init__(self, api: ApiServer, node: str, on_change: Callable[[], None], on_status: Callable[[], None]) -> None:
        """`on_change` is called when chains or replicas changed, `on_status` when CrossConnections did."""
        self._api = api
        self._node = node
        group = f"/apis/{names.API_VERSION}"
        self._chains = Watch(api, f"{group}/{names.CHAIN_PLURAL}", on_change=on_change)
        self._connections = Watch(api, f"{group}/{names.CROSS_CONNECTION_PLURAL}", on_change=on_status)
        self._pods = Watch(
            api,
            "/api/v1/pods",
            params={"fieldSelector": f"spec.nodeName={node}", "labelSelector": names.CHAIN_LABEL},
            on_change=on_change,
        )
        self._seen: Seen | None = None

    def start(self) -> None:
        for watch in (self._chains, self._pods, self._connections):
            watch.start()

    def stop(self) -> None:
        for watch in (self._chains, self._pods, self._connections):
            watch.stop()

    def get(self) -> Cluster | None:
        """None until both chains and pods have been heard."""
        if not (self._chains.synced and self._pods.synced):
            return None
        self._seen = seen(self._chains.snapshot(), self._pods.snapshot(), self._seen)
        return self._seen.cluster

    def pod_uids(self) -> set[str]:
        """Of all pods of this node, asked for now. Raises ApiError."""
        listed = self._api.get("/api/v1/pods", {"fieldSelector": f"spec.nodeName={self._node}"})
        return {pod["metadata"]["uid"] for pod in listed["items"]}

    def connections(self) -> Mapping[Key, Mapping[str, Any]]:
        return self._connections.snapshot()

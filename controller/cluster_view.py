"""What the node agent sees of the cluster: chains, its node's replicas, CrossConnections, as the watches last told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from controller.plan import Cluster
from controller.replica import Replica, replica_of
from kube.api import ApiServer
from kube.watch import Key, Watch
from sfc import names, validation
from sfc.chain import Chain

log = logging.getLogger(__name__)


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
        self._parsed: tuple[Any, Mapping[Key, Chain]] = (None, {})
        self._replicas: dict[Key, tuple[Any, Replica | None]] = {}
        """What was read from which pod, so that a pass reads only the pods that changed."""

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
        known = self._replicas
        self._replicas = {
            key: known[key] if key in known and known[key][0] is pod else (pod, replica_of(pod))
            for key, pod in self._pods.snapshot().items()
        }
        replicas = (replica for _, replica in self._replicas.values() if replica)
        return Cluster(chains=self._parse(), replicas={replica.uid: replica for replica in replicas})

    def pod_uids(self) -> set[str]:
        """Of all pods of this node, asked for now. Raises ApiError."""
        listed = self._api.get("/api/v1/pods", {"fieldSelector": f"spec.nodeName={self._node}"})
        return {pod["metadata"]["uid"] for pod in listed["items"]}

    def connections(self) -> Mapping[Key, Mapping[str, Any]]:
        return self._connections.snapshot()

    def _parse(self) -> Mapping[Key, Chain]:
        snapshot = self._chains.snapshot()
        if self._parsed[0] is not snapshot:
            self._parsed = snapshot, parsed(snapshot, self._parsed[1])
        return self._parsed[1]


def parsed(objects: Mapping[Key, Mapping[str, Any]], before: Mapping[Key, Chain]) -> dict[Key, Chain]:
    """The chains that are valid. One that got past admission and is not stays as it was, so that a bad edit does not
    cut traffic that flows."""
    chains = {}
    for key, obj in objects.items():
        try:
            chains[key] = validation.parse(obj)
        except validation.InvalidChain as error:
            log.warning("invalid chain not followed", extra={"chain": "/".join(key), "error": str(error)})
            if key in before:
                chains[key] = before[key]
    return chains

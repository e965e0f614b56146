"""The cluster as the node agent sees it: chains, the replicas of its node, CrossConnections, as last seen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from controller.node.plane.cluster import Cluster
from controller.node.plane.replica import Replica, replica_of
from kube.api import ApiError, ApiServer
from kube.objects import CHAINS, CONNECTIONS, PODS, Key, Object, leaving
from kube.parsed import ParsedObjects
from kube.watch import Watch
from sfc import names
from sfc.chain import Chain
from sfc.validation.checks import InvalidChain, parse

log = logging.getLogger(__name__)

ASK_TIMEOUT_SECONDS = 3.0
"""For the answer to a question that a drain waits for."""


def chain(obj: Object, before: Chain | None) -> Chain | None:
    """A chain that passed admission but is not valid stays as it was `before`: a bad edit must not cut traffic that
    flows. None if it was never valid."""
    try:
        return parse(obj)
    except InvalidChain as error:
        metadata = obj["metadata"]
        path = f"{metadata['namespace']}/{metadata['name']}"
        log.warning("invalid chain not followed", extra={"chain": path, "error": str(error)})
        return before


class ClusterReader:
    """Reads snapshots of chains and pods. An object is read once per version. Any thread may call it."""

    def __init__(self) -> None:
        self._chains = ParsedObjects(chain)
        self._replicas = ParsedObjects[Replica | None](lambda pod, _: replica_of(pod))
        self._latest: tuple[Mapping[Key, Chain | None], Mapping[Key, Replica | None], Cluster] | None = None

    def cluster(self, chains: Mapping[Key, Object], pods: Mapping[Key, Object]) -> Cluster:
        """The same value again while both snapshots are the same mappings."""
        read, found = self._chains.all(chains), self._replicas.all(pods)
        latest = self._latest
        if latest is None or latest[0] is not read or latest[1] is not found:
            cluster = Cluster(
                chains={key: one for key, one in read.items() if one},
                replicas={replica.uid: replica for replica in found.values() if replica},
            )
            latest = self._latest = read, found, cluster
        return latest[2]


class ClusterView:
    """The watches of chains, of this node's replicas and of CrossConnections. Any thread may call its methods."""

    def __init__(self, api: ApiServer, node: str, on_change: Callable[[], None], on_status: Callable[[], None]) -> None:
        """`on_change` is called when chains or replicas changed, `on_status` when CrossConnections did."""
        self._api = api
        self._node = node
        self._of_node = {"fieldSelector": f"spec.nodeName={node}", "labelSelector": names.CHAIN_LABEL}
        self._chains = Watch(api, CHAINS.path(), on_change=on_change)
        self._connections = Watch(api, CONNECTIONS.path(), on_change=on_status)
        self._pods = Watch(api, PODS.path(), params=self._of_node, on_change=on_change)
        self._reader = ClusterReader()

    def start(self) -> None:
        """Starts the watches; to be called once."""
        for watch in (self._chains, self._pods, self._connections):
            watch.start()

    def stop(self) -> None:
        """Returns at once; the watches end with their current requests."""
        for watch in (self._chains, self._pods, self._connections):
            watch.stop()

    def get(self) -> Cluster | None:
        """None until both chains and pods were listed. The same value again while neither has changed."""
        if not (self._chains.synced and self._pods.synced):
            return None
        return self._reader.cluster(self._chains.snapshot(), self._pods.snapshot())

    def pod_uids(self) -> set[str]:
        """Of all pods of this node, by a request to the API server. Raises ApiError."""
        listed = self._api.get(PODS.path(), {"fieldSelector": f"spec.nodeName={self._node}"})
        return {pod["metadata"]["uid"] for pod in listed["items"]}

    def deleted(self) -> frozenset[str]:
        """UIDs of the replicas of this node that are being deleted, by a request to the API server. Raises ApiError.

        The list is not older than the request, because it names no resource version.
        """
        listed = self._api.get(PODS.path(), self._of_node, read_timeout=ASK_TIMEOUT_SECONDS)
        try:
            return frozenset(pod["metadata"]["uid"] for pod in listed["items"] if leaving(pod))
        except (KeyError, TypeError) as error:
            raise ApiError(0, "Unreadable", f"list of {PODS.path()} lacks {error}") from error

    def connections(self) -> Mapping[Key, Mapping[str, Any]]:
        """The CrossConnections that exist, by (namespace, name)."""
        return self._connections.snapshot()

"""The cluster as the node agent sees it: the replicas of its node, their chains, CrossConnections, as last seen."""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass

from controller.node.plane.cluster import Cluster
from controller.node.plane.hearing import Entry
from controller.node.plane.replica import Replica, replica_of
from controller.node.reconcile.far_links import Published, published
from kube import lean
from kube.api import ApiServer, Collection
from kube.objects import CHAINS, CONNECTIONS, PODS, Key, Object, key, leaving
from kube.parsed import ParsedObjects
from kube.stored import StoredChain, stored_chain
from kube.watch import Watch
from sfc.chain import Chain
from sfc.validation.checks import InvalidChain, parse

log = logging.getLogger(__name__)

ASK_TIMEOUT_SECONDS = 3.0
"""For the answer to a question that a drain waits for."""


def chain(stored: StoredChain, before: Chain | None) -> Chain | None:
    """A chain that passed admission but is not valid stays as it was `before`: a bad edit must not cut traffic that
    flows. None if it was never valid."""
    try:
        return parse(stored.obj())
    except InvalidChain as error:
        log.warning("invalid chain not followed", extra={"chain": stored.path, "error": str(error)})
        return before
    except Exception:  # one object that nobody foresaw must not hide all others
        log.exception("chain can not be read; it stays as it was", extra={"chain": stored.path})
        return before


def replica(pod: Object, before: Replica | None) -> Replica | None:
    """A pod that can not be read stays as it was `before`. None if it never could."""
    try:
        return replica_of(pod)
    except Exception:
        path = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        log.exception("pod can not be read; it stays as it was", extra={"pod": path})
        return before


@dataclass(frozen=True, slots=True)
class Reported:
    """What the node agents have reported about a CrossConnection."""

    chain: Key
    name: str
    uid: str
    own: Object | None
    """This node's element of `status.nodes`."""
    status: bytes
    """All elements, as compressed JSON: in a large cluster most are of chains without replicas on this node."""


def reported(connection: Object, node: str) -> Reported:
    """Of a CrossConnection with the shape `kube.lean.CONNECTION`; `node`: this one."""
    namespace, name = key(connection)
    status = lean.written(connection.get("status") or {})
    named = node.encode() in status  # in most it is not, and they need no decoding
    nodes = lean.decoded(status).get("nodes") or () if named else ()
    own = next((each for each in nodes if each["name"] == node), None)
    chain = namespace, (connection.get("spec") or {}).get("chain", "")
    return Reported(chain, name, connection["metadata"].get("uid", ""), own, zlib.compress(status, 1))


class ClusterReader:
    """Reads snapshots of chains and replicas. Only chains with a replica on this node are parsed, once per version."""

    def __init__(self) -> None:
        self._parsed = ParsedObjects[StoredChain, Chain | None](chain)
        self._latest = Cluster({}, {})
        self._replicas: Mapping[Key, Replica | None] | None = None

    def refresh(self, chains: Mapping[Key, StoredChain]) -> None:
        """Parse what has changed. For the thread that watches chains: nobody else waits for it."""
        self._parsed.refresh(chains)

    def cluster(self, chains: Mapping[Key, StoredChain], replicas: Mapping[Key, Replica | None]) -> Cluster:
        """The same value again while nothing has changed for this node. For one thread at a time."""
        same = replicas is self._replicas
        found, others = (self._latest.replicas, self._latest.others) if same else _sorted(replicas.values())
        wanted = {(replica.namespace, replica.chain) for replica in found.values()}
        read = {key: one for key in sorted(wanted) if (one := self._parsed.one(chains, key))}
        if not same or not _same(read, self._latest.chains):
            self._parsed.keep(wanted)
            self._replicas, self._latest = replicas, Cluster(read, found, others)
        return self._latest


def _sorted(replicas: Iterable[Replica | None]) -> tuple[dict[str, Replica], dict[str, Replica]]:
    """Those with the labels of a chain and a stage, and the others, by UID."""
    known = [replica for replica in replicas if replica]
    return {r.uid: r for r in known if r.labelled}, {r.uid: r for r in known if not r.labelled}


def _same(some: Mapping[Key, Chain], others: Mapping[Key, Chain]) -> bool:
    return some.keys() == others.keys() and all(others[key] is chain for key, chain in some.items())


class ClusterView:
    """The watches of chains, of this node's pods and of CrossConnections. Any thread may call its methods.

    All pods are watched, not only those with our labels: a watch with a selector shows a pod that loses its labels like
    one that was deleted.

    The threads of the watches read what has changed; who asks for the cluster gets what they have read.
    """

    def __init__(self, api: ApiServer, node: str, on_change: Callable[[], None], on_status: Callable[[], None]) -> None:
        """`on_change` is called when replicas, or chains that have some here, changed, or their links on other nodes;
        `on_status` when a CrossConnection with this node's entry in its status did, or one came or went."""
        self._api = api
        self._node = node
        self._on_change = on_change
        here = {"fieldSelector": f"spec.nodeName={node}"}
        pods = Collection(PODS.path(), lean.POD, here)
        self._names_of_pods = Collection(PODS.path(), lean.NAME, here)
        chains, connections = Collection(CHAINS.path(), lean.CHAIN), Collection(CONNECTIONS.path(), lean.CONNECTION)
        self._chains = Watch(api, chains, stored_chain, on_change=self._chains_changed)
        self._connections = Watch[Reported](
            api,
            connections,
            lambda obj, _: reported(obj, node),
            on_object=self._report_changed,
            on_change=self._reports_changed,
        )
        self._links = ParsedObjects[Reported, tuple[Published, ...]](self._links_of)
        self._concerned = True
        """Whether a report has changed that concerns this node. Most do not, in a large cluster."""
        self._on_status = on_status
        self._published: Mapping[Key, tuple[Published, ...]] = {}
        self._pods = Watch[Replica | None](api, pods, replica, on_change=self._look)
        self._reader = ClusterReader()
        self._looking = threading.Lock()
        """Held from the moment that the snapshots are taken: what is older never replaces what is newer."""
        self._cluster: Cluster | None = None

    def start(self) -> None:
        """Starts the watches; to be called once."""
        for watch in (self._chains, self._pods, self._connections):
            watch.start()

    def stop(self) -> None:
        """Returns at once; the watches end with their current requests."""
        for watch in (self._chains, self._pods, self._connections):
            watch.stop()

    def get(self) -> Cluster | None:
        """None until chains, pods and CrossConnections were listed: without the last, all replicas of other nodes
        would seem to have left. The same value again while nothing has changed for this node."""
        return self._cluster

    def existing(self) -> frozenset[str]:
        """UIDs of the pods of this node, by a request to the API server. Raises ApiError."""
        return frozenset(
            pod["metadata"]["uid"] for page in self._api.pages(self._names_of_pods) for pod in page["items"]
        )

    def deleted(self) -> frozenset[str]:
        """UIDs of the pods of this node that are being deleted, by a request to the API server. Raises ApiError."""
        pages = self._api.pages(self._names_of_pods, ASK_TIMEOUT_SECONDS)
        return frozenset(pod["metadata"]["uid"] for page in pages for pod in page["items"] if leaving(pod))

    def connections(self) -> Mapping[Key, tuple[str, Object | None]]:
        """The CrossConnections that exist, by (namespace, name): UID, and this node's element of `status.nodes`."""
        return {key: (reported.uid, reported.own) for key, reported in self._connections.snapshot().items()}

    def others(self, connection: Key) -> tuple[Entry, ...]:
        """What other nodes say in the status of a CrossConnection. Decoded anew at each call: to be asked seldom."""
        report = self._connections.snapshot().get(connection)
        nodes = lean.decoded(zlib.decompress(report.status)).get("nodes") or () if report else ()
        return tuple(
            Entry(node["name"], node.get("address"), frozenset(node.get("unreachable") or ()))
            for node in nodes
            if node["name"] != self._node
        )

    def names(self) -> Mapping[str, str]:
        """Names of the other nodes with links in the chains of this one, by address. As `others`."""
        chains = self._cluster.chains if self._cluster else {}
        here = [key for key, report in self._connections.snapshot().items() if report.chain in chains]
        return {other.address: other.node for key in here for other in self.others(key) if other.address}

    def published(self) -> Mapping[Key, tuple[Published, ...]]:
        """The links of other nodes in the chains of this one, by the CrossConnection. The same value again while
        nothing has changed."""
        return self._published

    def _report_changed(self, before: Reported | None, after: Reported | None) -> None:
        if not (before and after and before.uid == after.uid) or self._concerns(before) or self._concerns(after):
            self._concerned = True

    def _concerns(self, report: Reported) -> bool:
        """Whether this node has reported, too, or has replicas in the chain."""
        return report.own is not None or (self._cluster is not None and report.chain in self._cluster.chains)

    def _reports_changed(self) -> None:
        concerned, self._concerned = self._concerned, False
        if concerned:
            with self._looking:
                chains = self._cluster.chains if self._cluster else {}
                before, self._published = self._published, self._published_in(chains)
            if self._published is not before:
                self._on_change()
            if self._cluster is None:
                self._look()
            self._on_status()

    def _published_in(self, chains: Container[Key]) -> Mapping[Key, tuple[Published, ...]]:
        """The value that is known, if it is equal."""
        snapshot = self._connections.snapshot()
        here = {key: None for key, report in snapshot.items() if report.chain in chains}
        self._links.keep(here)
        self._links.refresh(snapshot)
        found = {key: links for key in here if (links := self._links.one(snapshot, key))}
        return self._published if found == self._published else found

    def _links_of(self, report: Reported, before: tuple[Published, ...] | None) -> tuple[Published, ...]:
        metadata = {"namespace": report.chain[0], "name": report.name}
        status = lean.decoded(zlib.decompress(report.status))
        try:
            obj = CONNECTIONS.object(metadata, spec={"chain": report.chain[1]}, status=status)
            links = tuple(published(obj, self._node))
        except Exception:  # one object that nobody foresaw must not hide all others
            path = f"{report.chain[0]}/{report.name}"
            log.exception("other nodes' report can not be read; it stays as it was", extra={"path": path})
            return before or ()
        return before if links == before else links

    def _chains_changed(self) -> None:
        self._reader.refresh(self._chains.snapshot())
        self._look()

    def _look(self) -> None:
        if not (self._chains.synced and self._pods.synced and self._connections.synced):
            return
        with self._looking:
            before = self._cluster
            after = self._reader.cluster(self._chains.snapshot(), self._pods.snapshot())
            if not before or before.chains.keys() != after.chains.keys():
                self._published = self._published_in(after.chains)  # first: no chain is seen without its other nodes
            self._cluster = after
        if after is not before:
            self._on_change()

"""The objects of the watches, found by what a pass over one chain needs.

A pass looks nothing else up, so it costs what its chain costs, however large the cluster is. Each change says which
keys it is about: the chain's (namespace, name), or (namespace, "") for the namespace's network.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TypeVar

from controller.cluster.plan import Part, Place, conflict
from controller.cluster.snapshot import ChainObject, Pod
from controller.cluster.workloads import Workload
from kube import objects
from kube.objects import Key, Object

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


class Store:
    """May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chains: dict[str, dict[str, ChainObject]] = {}
        """By namespace and name."""
        self._connections: dict[Key, Object] = {}
        self._owned: dict[str, dict[Key, Object]] = {}
        """CrossConnections by the UID of the chain that made them."""
        self._networks: dict[str, Object] = {}
        """By namespace."""
        self._refusals: dict[str, str] = {}
        """Why the API server refuses a namespace's network."""
        self._pods: dict[Key, dict[str, Pod]] = {}
        """By chain, and by name."""
        self._nodes: frozenset[Key] = frozenset()
        self._workloads: dict[Key, dict[tuple[str, str], Workload]] = {}
        """By chain, and by kind and name."""

    def chain(self, before: ChainObject | None, after: ChainObject | None) -> set[Key]:
        """Takes a change of a chain; None stands for an object that is not there. Returns the keys it is about."""
        with self._lock:
            if before:
                _drop(self._chains, before.key[0], before.key[1])
            if after:
                self._chains.setdefault(after.key[0], {})[after.key[1]] = after
        keys = {each.key for each in (before, after) if each}
        return keys | {(namespace, "") for namespace, _ in keys if _owner(before) != _owner(after)}

    def connection(self, before: Object | None, after: Object | None) -> set[Key]:
        """As `chain`, for a CrossConnection."""
        with self._lock:
            if before:
                del self._connections[objects.key(before)]
                _drop(self._owned, objects.controller_uid(before) or "", objects.key(before))
            if after:
                self._connections[objects.key(after)] = after
                if owner := objects.controller_uid(after):
                    self._owned.setdefault(owner, {})[objects.key(after)] = after
        return {key for each in (before, after) if each for key in _chains_of(each)}

    def network(self, before: Object | None, after: Object | None) -> set[Key]:
        """As `chain`, for a network `sfc`."""
        namespace = objects.namespace(after or before or {})
        with self._lock:
            if after:
                self._networks[namespace] = after
            else:
                self._networks.pop(namespace, None)
            said = conflict(before) != conflict(after) or (before is None) != (after is None)
            return {(namespace, ""), *(self._keys(namespace) if said else ())}

    def pod(self, before: Pod | None, after: Pod | None) -> set[Key]:
        """As `chain`, for a pod."""
        with self._lock:
            if before:
                _drop(self._pods, (before.namespace, before.chain), before.name)
            if after and after.chain:
                self._pods.setdefault((after.namespace, after.chain), {})[after.name] = after
        return {(each.namespace, each.chain) for each in (before, after) if each and each.chain}

    def node(self, before: str | None, after: str | None) -> set[Key]:
        """As `chain`, for a node, by its name. One that vanishes is about the chains that it reported about."""
        gone = {("", before)} if before else set()
        with self._lock:
            self._nodes = self._nodes - gone | ({("", after)} if after else set())
            reported = () if after else self._connections.values()  # nodes seldom vanish: they need no index
            return {
                key
                for found in reported
                if any(("", entry["name"]) in gone for entry in (found.get("status") or {}).get("nodes") or ())
                for key in _chains_of(found)
            }

    def workload(self, before: Workload | None, after: Workload | None) -> set[Key]:
        """As `chain`, for a workload with the chain label."""
        with self._lock:
            if before:
                _drop(self._workloads, before.of, before.key)
            if after:
                self._workloads.setdefault(after.of, {})[after.key] = after
            return {each.of for each in (before, after) if each and each.of[1] in self._chains.get(each.of[0], {})}

    def refuse(self, namespace: str, words: str | None) -> set[Key]:
        """The API server refuses the network of the namespace, in these words; None: it does not."""
        with self._lock:
            if self._refusals.get(namespace) == words:
                return set()
            if words:
                self._refusals[namespace] = words
            else:
                del self._refusals[namespace]
            return set(self._keys(namespace))

    def keys(self) -> set[Key]:
        """All that there is to work on."""
        with self._lock:
            namespaces = self._chains.keys() | self._networks.keys()
            chains = {key for namespace in self._chains for key in self._keys(namespace)}
            return {*chains, *self._pods, *((namespace, "") for namespace in namespaces)}

    def part(self, key: Key) -> Part:
        """All that the writes of one chain follow from. `key`: of the chain, which may not exist."""
        namespace, name = key
        with self._lock:
            found = self._chains.get(namespace, {}).get(name)
            if found and objects.leaving(found.obj):
                found = None
            wanted = found.chain.cross_connections if found and found.chain else ()
            return Part(
                key=key,
                found=found,
                present={c.name: self._connections.get((namespace, c.name)) for c in wanted},
                owned=tuple(self._owned.get(found.obj["metadata"]["uid"], {}).values()) if found else (),
                pods=tuple(self._pods.get(key, {}).values()),
                workloads=tuple(self._workloads.get(key, {}).values()),
                network=self._networks.get(namespace),
                network_refused=self._refusals.get(namespace),
                nodes=self._nodes,
            )

    def place(self, namespace: str) -> Place:
        """All that the writes of one namespace's network follow from."""
        with self._lock:
            chains = sorted(self._chains.get(namespace, {}).items())
            staying = tuple(chain.obj for _, chain in chains if not objects.leaving(chain.obj))
            return Place(namespace, staying, self._networks.get(namespace))

    def _keys(self, namespace: str) -> Iterator[Key]:
        return ((namespace, name) for name in self._chains.get(namespace, ()))


def _drop(index: dict[A, dict[B, C]], first: A, second: B) -> None:
    """Leaves no empty entry behind: the index would grow with all that ever was."""
    entry = index.get(first, {})
    entry.pop(second, None)
    if not entry:
        index.pop(first, None)


def _owner(chain: ChainObject | None) -> str | None:
    """What the network of its namespace says of a chain."""
    return chain.obj["metadata"]["uid"] if chain and not objects.leaving(chain.obj) else None


def _chains_of(connection: Object) -> Iterator[Key]:
    """The chains to which a CrossConnection matters: the one that made it, and the one that wants its name."""
    namespace, name = objects.key(connection)
    for owner in connection["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            yield namespace, owner["name"]
    parts = name.rsplit(".", 4)
    if len(parts) == 5:
        yield namespace, parts[0]

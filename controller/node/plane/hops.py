"""The hops of a node's replicas: whether a replica serves on the other side of each of their cross-connections.

A hop is closed when both of its sides have a target on this node. Only then does traffic pass: chains do not leave a
node yet. Whether a replica is a target does not depend on its hops. So two stages that come up together are both in
their targets first, and then both are Ready: neither waits for the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.node.plane.cluster import ChainKey, Cluster
from controller.node.plane.numbers import numbered
from controller.node.plane.plan import State
from controller.node.plane.replica import Replica
from controller.node.plane.standing import Reason, newest_links, standing
from sfc.chain import Chain, CrossConnection, InterfaceRef, Side


@dataclass(frozen=True, slots=True)
class Hop:
    """One link of a replica, and what is on the other side of its cross-connection."""

    slot: int
    """Of the replica's link."""
    near: InterfaceRef
    far: InterfaceRef
    closed: bool
    """A replica on the other side is in the targets of this node."""
    waiting: tuple[str, ...]
    """Names of the replicas on the other side that wait for their containers; empty when the hop is closed."""


class Hops:
    """Looks up each side of each cross-connection once, for all replicas that need it."""

    def __init__(self, state: State, cluster: Cluster) -> None:
        self._state = state
        self._cluster = cluster
        self._waiting: dict[tuple[ChainKey, str], tuple[str, ...]] = {}
        """By chain and name of a stage."""

    def of(self, replica: Replica, chain: Chain) -> list[Hop]:
        """The hops of the replica, one for each of its links that is in a cross-connection."""
        links = newest_links(self._state.links.get(replica.uid, ()))
        attached = ((link, chain.attachments.get((replica.stage, name))) for name, link in links.items())
        return [self._hop(link.slot, chain, *found) for link, found in attached if found]

    def _hop(self, slot: int, chain: Chain, connection: CrossConnection, side: Side) -> Hop:
        number = self._state.plan.numbers.of.get(numbered(chain, connection), 0)
        closed = (number, side.other) in self._state.plane.targets
        far = connection.far_end(side)
        return Hop(slot, connection.end(side), far, closed, () if closed else self._waiting_of(chain, far.stage))

    def _waiting_of(self, chain: Chain, stage: str) -> tuple[str, ...]:
        key = chain.namespace, chain.name
        if (key, stage) not in self._waiting:
            members = self._cluster.by_chain.get(key, ())
            found = (replica.name for replica in members if replica.stage == stage and self._waits(replica, chain))
            self._waiting[key, stage] = tuple(sorted(found))
        return self._waiting[key, stage]

    def _waits(self, replica: Replica, chain: Chain) -> bool:
        drain, links = self._state.drains.get(replica.uid), self._state.links.get(replica.uid, ())
        return standing(replica, drain, links, chain).reason is Reason.CONTAINERS_NOT_READY

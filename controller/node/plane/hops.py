"""The hops of a node's replicas: whether a replica serves on the other side of each of their cross-connections.

A hop is closed when both of its sides have a target, on this node or on one that its tunnel reaches. Only then does
traffic pass. Whether a replica is a target does not depend on its hops. So two stages that come up together are both in
their targets first, and then both are Ready: neither waits for the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.node.plane.cluster import Cluster
from controller.node.plane.model import HostLink
from controller.node.plane.numbers import numbered
from controller.node.plane.plan import State
from controller.node.plane.replica import Replica
from controller.node.plane.standing import Reason, newest_links, standing
from sfc.chain import Chain, CrossConnection, InterfaceRef, Side


@dataclass(frozen=True, slots=True)
class Hop:
    """One side of a cross-connection, and what is on the other side."""

    near: InterfaceRef
    far: InterfaceRef
    closed: bool
    """The other side has targets."""
    waiting: tuple[str, ...]
    """Names of the replicas on the other side that wait for their containers; empty when the hop is closed."""


class Hops:
    """Looks up each side of each cross-connection once, for all replicas that need it."""

    def __init__(self, state: State, cluster: Cluster) -> None:
        self._state = state
        self._cluster = cluster
        self._known: dict[tuple[str, str, str, str], Hop | None] = {}
        """By namespace and name of the chain, stage, and interface; None for an interface in no link."""

    def of(self, replica: Replica, chain: Chain) -> list[tuple[HostLink, Hop]]:
        """The replica's links that are in a cross-connection, each with its hop."""
        links = newest_links(self._state.links.get(replica.uid, ())).values()
        return [(link, hop) for link in links if (hop := self._hop(chain, replica.stage, link.interface))]

    def _hop(self, chain: Chain, stage: str, interface: str) -> Hop | None:
        key = chain.namespace, chain.name, stage, interface
        if key not in self._known:
            found = chain.attachments.get((stage, interface))
            self._known[key] = self._beyond(chain, *found) if found else None
        return self._known[key]

    def _beyond(self, chain: Chain, connection: CrossConnection, side: Side) -> Hop:
        number = self._state.plan.numbers.of.get(numbered(chain, connection), 0)
        closed = (number, side.other) in self._state.plane.targets
        far = connection.far_end(side)
        return Hop(connection.end(side), far, closed, () if closed else self._waiting(chain, far.stage))

    def _waiting(self, chain: Chain, stage: str) -> tuple[str, ...]:
        members = self._cluster.by_chain.get((chain.namespace, chain.name), ())
        return tuple(sorted(each.name for each in members if each.stage == stage and self._waits(each, chain)))

    def _waits(self, replica: Replica, chain: Chain) -> bool:
        drain, links = self._state.drains.get(replica.uid), self._state.links.get(replica.uid, ())
        return standing(replica, drain, links, chain).reason is Reason.CONTAINERS_NOT_READY

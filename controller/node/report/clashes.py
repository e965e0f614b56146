"""Two replicas that claim the same connections, and the remedy. Pure: from the program's counters to values.

Replicas share their addresses, so two of them can produce one 5-tuple, and the replies reach only one of the two. The
program counts such contests by the two links.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from controller.node.plane.model import Contest
from controller.node.plane.plan import State
from controller.node.plane.replica import Replica
from sfc import names


@dataclass(frozen=True, slots=True)
class Clash:
    """Two replicas of a stage that claimed the same connections on an interface."""

    replica: Replica
    other: Replica
    interface: str
    sliced: bool
    """The interface has slices of source ports, but a function uses others than its own."""
    count: int
    """Contests so far."""

    @property
    def message(self) -> str:
        """Of the event: what is wrong, where, and the remedy."""
        where = f"{self.replica.stage}.{self.interface}"
        chain = f"{names.CHAIN_KIND} {self.replica.namespace}/{self.replica.chain}"
        remedy = (
            f"{where} has sourcePorts: let the function use only the ports in the annotation {names.SOURCE_PORTS} of "
            "its pod, and recreate pods that have none"
            if self.sliced
            else f"give each replica source ports of its own: sourcePorts: {{slices: N}} on interface {self.interface} "
            f"of stage {self.replica.stage}"
        )
        return (
            f"this replica and {self.other.path} use the same addresses and ports at {where} of {chain}, and replies "
            f"reach only one of them: {remedy}"
        )


def clashes(state: State, counts: Mapping[Contest, int]) -> Iterator[Clash]:
    """Two for each pair of replicas with contests, one from the view of each. Replicas that are gone have none.

    `counts`: contests by the two links.
    """
    links = {link.slot: link for of_pod in state.links.values() for link in of_pod}
    totals: dict[tuple[str, str, str], int] = {}
    for contest, count in counts.items():
        ends = [links.get(slot) for slot in (contest.former, contest.latter)]
        for one, other in (ends, ends[::-1]):
            if one and other:
                key = one.pod_uid, other.pod_uid, one.interface
                totals[key] = totals.get(key, 0) + count
    for (uid, other_uid, interface), count in totals.items():
        if clash := _clash(state, uid, other_uid, interface, count):
            yield clash


def _clash(state: State, uid: str, other_uid: str, interface: str, count: int) -> Clash | None:
    cluster = state.cluster
    replica, other = (cluster.replicas.get(each) if cluster else None for each in (uid, other_uid))
    if not (cluster and replica and other):
        return None
    chain = cluster.chain_of(replica)
    stage = chain.stage(replica.stage) if chain else None
    found = stage.interface(interface) if stage else None
    return Clash(replica, other, interface, bool(found and found.slices), count)

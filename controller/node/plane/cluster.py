"""What the API server says, as far as one node needs it: the chains, and the node's own replicas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from controller.node.plane.far import FarSides
from controller.node.plane.model import LinksByPod
from controller.node.plane.replica import Replica
from sfc.chain import Chain, Stage

ChainKey = tuple[str, str]
"""(namespace, name)"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The replicas of this node, whether their chain exists or not, and the valid chains that they belong to."""

    chains: Mapping[ChainKey, Chain]
    replicas: Mapping[str, Replica]
    """By pod UID."""
    others: Mapping[str, Replica] = field(default_factory=dict)
    """The node's pods without the labels of a chain and a stage, by UID. Those that lost them still have links."""
    far: Mapping[ChainKey, FarSides] = field(default_factory=dict)
    """The serving replicas of other nodes."""
    members: Mapping[ChainKey, frozenset[int]] = field(default_factory=dict)
    """The numbers of the other nodes that have links in each chain."""
    mtu: int | None = None
    """The largest MTU of interfaces whose frames fit through the tunnel between the nodes of these chains;
    None if it is not known."""
    by_chain: Mapping[ChainKey, tuple[Replica, ...]] = field(init=False, compare=False, repr=False)
    """The replicas of each chain. A chain without replicas on this node has no entry; the chain need not exist."""
    terminating: tuple[Replica, ...] = field(init=False, compare=False, repr=False)
    """The replicas whose pod is being deleted."""

    def __post_init__(self) -> None:
        """Groups the replicas once, because every pass needs the groups."""
        found: dict[ChainKey, list[Replica]] = defaultdict(list)
        for replica in self.replicas.values():
            found[replica.namespace, replica.chain].append(replica)
        object.__setattr__(self, "by_chain", {key: tuple(replicas) for key, replicas in found.items()})
        object.__setattr__(self, "terminating", tuple(r for r in self.replicas.values() if r.terminating))

    def as_made(self, links: LinksByPod) -> Cluster:
        """Each replica as what its links were made for; itself when all labels say the same.

        A link keeps what it was made for, with the addresses that only this stage has. A pod whose labels change later
        can leave its stage, and never becomes a replica of another one. Nor does one that loses its labels cease to be
        a replica. Links of the version before do not say what they were made for: there the labels count.
        """
        strays = {}
        for uid, of_pod in links.items():  # at every pass, for every pod
            link, replica = of_pod[0], self.replicas.get(uid) or self.others.get(uid)
            if replica and (link.stage != replica.stage or link.chain != replica.chain) and link.chain:
                strays[uid] = replica.made_for(link.chain, link.stage)
        return replace(self, replicas={**self.replicas, **strays}) if strays else self

    def chain_of(self, replica: Replica) -> Chain | None:
        """The replica's chain, or None when no valid chain has that name."""
        return self.chains.get((replica.namespace, replica.chain))

    def stage_of(self, replica: Replica) -> Stage | None:
        """The replica's stage, or None when its chain does not exist or has no such stage."""
        chain = self.chain_of(replica)
        return chain.stage(replica.stage) if chain else None


class AsMade:
    """`Cluster.as_made` for one pass after another. While no label differs, it looks only at the chains whose replicas
    have changed since the pass before: a node may have thousands of pods, and an event is about one."""

    def __init__(self) -> None:
        self._clean: tuple[Cluster, LinksByPod] | None = None
        """What was given last, if all labels said what the links were made for."""

    def __call__(self, cluster: Cluster, links: LinksByPod) -> Cluster:
        """As `cluster.as_made(links)`."""
        clean = self._clean
        known = clean is not None and clean[1] is links
        if clean and known and not any(_strays(each, links) for each in _changed(clean[0], cluster)):
            found = cluster
        else:
            found = cluster.as_made(links)
        self._clean = (cluster, links) if found is cluster else None
        return found


def _changed(before: Cluster, after: Cluster) -> Iterator[Replica]:
    for key, replicas in after.by_chain.items():
        if before.by_chain.get(key) != replicas:
            yield from replicas
    if before.others != after.others:
        yield from after.others.values()


def _strays(replica: Replica, links: LinksByPod) -> bool:
    """Whether its labels are not those of what its links were made for."""
    made = links.get(replica.uid)
    return bool(made and made[0].chain and (made[0].stage, made[0].chain) != (replica.stage, replica.chain))

"""Replicas of other nodes, as values. A link of one of them is a *far link*: a target like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.node.plane.model import CHOSEN_IFINDEX, SLOTS
from sfc.chain import Side
from sfc.source_ports import PortRange

WIRE_VERSION = 1
"""What the bits of a frame in the tunnel mean (bpf/tunnel.h), 1 to 3. Nodes with different ones take nothing from each
other."""
GENERATIONS = 64
"""How many successive links in a slot have different identities (bpf/tunnel.h)."""
PEERS = 4096
"""Numbers of peers; 0 is the node itself."""
FAR_LINKS = 12288
"""Far links that a node's targets may name at the same time."""


@dataclass(frozen=True, slots=True)
class FarReplica:
    """A serving link of another node, as the plan needs it."""

    uid: str
    """Of the pod: it decides which sessions the replica gets, on every node alike."""
    identity: int
    """See `identity`."""
    index: int
    """Its place among the links that targets may name: SLOTS … SLOTS + FAR_LINKS - 1."""
    ports: PortRange | None = None
    """The source ports that it holds."""


FarSides = Mapping[tuple[str, Side], tuple[FarReplica, ...]]
"""The far links of a chain, by (name of the CrossConnection, side)."""


def identity(peer: int, slot: int, generation: int) -> int:
    """What stands for a link of another node in the data path: 32 bits. `peer` is the number that this node gave the
    other one."""
    return peer << 18 | generation % GENERATIONS << 12 | slot


def peer_of(identity: int) -> int:
    """The number of the node that such a link is on."""
    return identity >> 18


def generation(ifindex: int) -> int:
    """What a node publishes of a link beside its slot, so that nobody takes a later link of the slot for it."""
    return ifindex // SLOTS % GENERATIONS if ifindex & CHOSEN_IFINDEX else 0

"""The node's data plane as values.

A DataPlane is both what is there (observed) and what should be there (desired). The kernel is the only store: links,
filters and maps give back everything that is here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from controller.node.plane.numbers import Numbered
from sfc.chain import Patience, SessionKey, Side

PROGRAM = "cross_connect"
"""Name of the BPF program, in its source file and in `tc filter show`."""

FROM_TUNNEL = "from_tunnel"
"""Name of the BPF program at the tunnel's device."""

SLOTS = 4096
"""Data links a node can have (12 bits); slot 0 is never given out."""

CHOSEN_IFINDEX = 1 << 30
"""Set in the interface index of a host end that this version made. Such an index ends in the link's slot, which the
program reads there. The kernel counts its own indexes up from 1."""


class LinkState(IntEnum):
    """A link's place in the data path. The numbers are those of the BPF program."""

    WIRED = 1
    """Attached to its cross-connection, but not in the targets: it receives no new session. The sessions that its own
    side opened flow both ways. It loses the others: they choose another link at their next packet."""
    SERVING = 2
    """In the targets."""
    DRAINING = 3
    """Out of the targets; its sessions are kept."""
    GONE = 4
    """Receives nothing more: its sessions choose another link at their next packet. What it still sends is carried."""


@dataclass(frozen=True, slots=True)
class HostLink:
    """The host end of one data interface of a replica, as the kernel shows it."""

    ifindex: int
    name: str
    slot: int
    """1 … SLOTS-1, from the link's alias."""
    pod_uid: str
    interface: str
    """The interface's name inside the pod."""
    drain_id: str
    filter_slot: int | None
    """The class id of our filter, which is the slot that it counts for; None without our filter."""
    up: bool = True
    """Both ends are up, so that frames can pass; False also when the pod's end was shut."""
    paired: bool = True
    """The other end is in another network namespace, so that the program may put frames straight into it."""
    program: int | None = None
    """The kernel's number of the program in our filter."""
    shortcuts: tuple[int, ...] = ()
    """The kernel's numbers of our programs at the link's tcx hook: this agent's, and what former ones left."""
    chain: str = ""
    """Name of the chain that the link was made for, in the pod's namespace. Empty, as is the stage, for a link of the
    version before, which did not write them down."""
    stage: str = ""

    @property
    def shortens(self) -> bool:
        """It can have the shortcut: it has our filter, and the program can read its slot without one."""
        return (
            self.filter_slot is not None and self.ifindex & (CHOSEN_IFINDEX | SLOTS - 1) == CHOSEN_IFINDEX | self.slot
        )


LinksByPod = Mapping[str, tuple[HostLink, ...]]
"""The links of each pod, by its UID."""
SideKey = tuple[int, Side]
"""(number of the cross-connection, side)"""


def by_pod(links: Iterable[HostLink]) -> LinksByPod:
    """The links, grouped by their pod's UID; the links of one pod keep their order."""
    found: dict[str, list[HostLink]] = defaultdict(list)
    for link in links:
        found[link.pod_uid].append(link)
    return {uid: tuple(of_pod) for uid, of_pod in found.items()}


@dataclass(frozen=True, slots=True)
class LinkEntry:
    """A slot's entry in the `links` map."""

    ifindex: int
    connection: int
    """Number of the cross-connection (plane/numbers.py)."""
    side: Side
    state: LinkState
    paired: bool = True
    """The program puts frames straight into the other end: HostLink.paired, unless the interface wants raw frames."""


@dataclass(frozen=True, slots=True)
class FarLink:
    """What targets name as a link of another node: a serving one."""

    identity: int
    """plane/far.py"""
    connection: int
    """Number of the cross-connection."""
    side: Side


@dataclass(frozen=True, slots=True)
class DataPlane:
    """What one node's data path holds: nine mappings, of which each entry can be set and cleared by itself."""

    filters: Mapping[int, int] = field(default_factory=dict)
    """ifindex → slot, for each link that carries our filter."""
    links: Mapping[int, LinkEntry] = field(default_factory=dict)
    """By slot."""
    targets: Mapping[SideKey, bytes] = field(default_factory=dict)
    """The lookup table of each side, as maglev.table packs it, and behind it who holds which slice of source ports, as
    holders.packed does, if the side has slices. A side without targets has no entry."""
    neighbours: Mapping[tuple[int, Side, str], str] = field(default_factory=dict)
    """(number of the cross-connection, side that asks, address it asks for) → the MAC that is the answer."""
    numbers: Mapping[int, Numbered] = field(default_factory=dict)
    """What the number of each cross-connection stands for."""
    patience: Mapping[int, Patience] = field(default_factory=dict)
    """By number of the cross-connection, for those whose chain does not leave all to the node."""
    session_keys: Mapping[int, SessionKey] = field(default_factory=dict)
    """By number of the cross-connection, for those whose sessions are more than flows."""
    far: Mapping[int, FarLink] = field(default_factory=dict)
    """By index, from SLOTS up: the links of other nodes that targets name."""
    members: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """By number of the cross-connection: the numbers of the other nodes that have links in its chain."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a link has carried since its slot was given out."""

    received_packets: int
    """From the replica. A segmentation-offload frame counts once."""
    received_bytes: int
    sent_packets: int
    """To the replica."""
    sent_bytes: int
    sessions_opened: int
    """Sessions whose first packet came from the replica."""
    sessions_chosen: int
    """Sessions for which the replica was chosen, at their beginning or later."""


@dataclass(frozen=True, slots=True)
class Contest:
    """Two serving links of one side that each claimed the same flow as their own."""

    connection: int
    """Number of the cross-connection."""
    side: Side
    former: int
    """Slot of the link that had the flow."""
    latter: int
    """Slot of the link that claimed it."""

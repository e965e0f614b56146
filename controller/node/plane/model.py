"""The node's data plane as values, the same for what is (observed) and for what should be (desired).

The kernel is the only store: everything here can be read back from links, filters and maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from sfc.chain import Side

PROGRAM = "cross_connect"
"""Name of the BPF program, in its source file and in `tc filter show`."""

SLOTS = 4096
"""Data links a node can have (12 bits); slot 0 is never given out."""


class LinkState(IntEnum):
    """A link's life in the data path. The numbers are those of the BPF program."""

    WIRED = 1
    """Attached to its cross-connection, receives no new session yet; its own sessions flow both ways."""
    SERVING = 2
    """In the targets."""
    DRAINING = 3
    """Out of the targets, sessions kept."""
    GONE = 4
    """Receives nothing more: its sessions choose again at their next packet. What it still sends is carried."""


@dataclass(frozen=True, slots=True)
class HostLink:
    """The host end of one data interface of a replica, as the kernel shows it."""

    ifindex: int
    name: str
    slot: int
    """From the alias; 1 … SLOTS-1."""
    pod_uid: str
    interface: str
    """The interface's name inside the pod."""
    drain_id: str
    filter_slot: int | None
    """The slot our filter carries as its class id; None when our filter is not attached."""
    up: bool = True
    """Both ends are up: frames can pass. False for a pod's interface that was shut, too."""
    paired: bool = True
    """The other end is in another network namespace, so that frames may be put straight into it."""
    program: int | None = None
    """The kernel's number of the program in our filter."""


@dataclass(frozen=True, slots=True)
class LinkEntry:
    """A slot's entry in the `links` map."""

    ifindex: int
    connection: int
    """CrossConnection.number."""
    side: Side
    state: LinkState
    paired: bool = True
    """HostLink.paired."""


@dataclass(frozen=True, slots=True)
class DataPlane:
    filters: Mapping[int, int] = field(default_factory=dict)
    """ifindex → slot, for each link that carries our filter."""
    links: Mapping[int, LinkEntry] = field(default_factory=dict)
    """By slot."""
    targets: Mapping[tuple[int, Side], bytes] = field(default_factory=dict)
    """(connection number, side) → lookup table of that side's targets, as controller.node.plane.maglev.table packs it.
    A side without targets has no entry."""
    neighbours: Mapping[tuple[int, Side, str], str] = field(default_factory=dict)
    """(connection number, the asker's side, address asked for) → MAC answered."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a link has carried since its slot was given out, seen from the link."""

    received_packets: int
    """From the replica. A segmentation-offload frame counts once."""
    received_bytes: int
    sent_packets: int
    """To the replica."""
    sent_bytes: int
    sessions_opened: int
    """Whose first packet came from the replica."""
    sessions_chosen: int
    """For which the replica was chosen, first or again."""


@dataclass(frozen=True, slots=True)
class Contest:
    """Two serving links of one side that claimed the same flow, each as its own."""

    connection: int
    side: Side
    former: int
    """Slot of the link that had the flow."""
    latter: int
    """Slot of the link that claimed it."""

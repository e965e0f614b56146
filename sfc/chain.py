"""The chain as a value: a ServiceFunctionChain object, and everything that follows from it alone.

Cross-connections, MACs, segments and neighbours are derived, never stored: webhook, cluster controller and node
agent each derive the same result from the same object.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum

from sfc import ip, mac
from sfc.source_ports import Shares

DEFAULT_MTU = 1500
"""Bytes: what the kernel gives a link that nobody gave an MTU."""


class Side(IntEnum):
    """The two sides of a cross-connection; upstream is nearer the head of the chain.

    The numbers are the same as in the BPF program (bpf/session.h).
    """

    UPSTREAM = 0
    DOWNSTREAM = 1

    @property
    def other(self) -> Side:
        """The opposite side."""
        return Side.UPSTREAM if self else Side.DOWNSTREAM


class Hook(StrEnum):
    """The kind of PreStop hook that a replica gets, as `drain.hook` in a chain names it."""

    AUTO = "auto"
    """HTTP_GET, or SLEEP where the namespace's Pod Security level forbids it."""
    HTTP_GET = "httpGet"
    """The kubelet asks the node agent, which answers when the replica is drained."""
    SLEEP = "sleep"
    """Termination waits for the deadline; the node agent sees the deletion in its watch."""
    NONE = "none"
    """Termination does not wait; the node agent sees the deletion in its watch."""


class SessionKey(StrEnum):
    """What belongs to one session, and so to one replica of a stage, in both directions: `sessionKey` in a chain."""

    FLOW = "flow"
    """Packets with the same addresses, protocol and ports."""
    ADDRESSES = "addresses"
    """All packets between two addresses."""
    UPSTREAM_ADDRESS = "upstreamAddress"
    """All packets of the address at the upstream side of the link: of one subscriber."""
    INNER = "inner"
    """Of GTP-U, VXLAN, GRE and IP in IP: packets in the tunnel with the same addresses, protocol and ports, whatever
    those of the tunnel are. Other traffic as FLOW."""

    @property
    def joins_flows(self) -> bool:
        """Whether a session has flows that differ in their ports."""
        return self in (SessionKey.ADDRESSES, SessionKey.UPSTREAM_ADDRESS)


class AtDeadline(StrEnum):
    """What becomes of the sessions that a drain's deadline finds, as `drain.atDeadline` in a chain names it."""

    MOVE = "move"
    """They choose another replica at their next packet."""
    RESET = "reset"
    """They are over: each of their ends is told so when it sends again."""


PREFER_SAME_NODE = "PreferSameNode"
"""The one value of `spec.trafficDistribution`, in the words of the field of a Kubernetes Service."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route through one interface, as the CNI specification (1.0.0) has it."""

    dst: str
    """Destination prefix in CIDR notation, compressed and in lower case, as is the gateway."""
    gw: str | None = None
    """Address of the next hop, without prefix length; None for a destination on the link."""


@dataclass(frozen=True, slots=True, order=True)
class InterfaceRef:
    """`stage.interface`: how `spec.links` and CrossConnections name an interface."""

    stage: str
    interface: str

    def __str__(self) -> str:
        return f"{self.stage}.{self.interface}"


@dataclass(frozen=True, slots=True)
class Interface:
    """A data interface of a stage. All replicas of the stage have the same one."""

    name: str
    mac: str
    """Lower case, colon-separated."""
    addresses: tuple[str, ...] = ()
    """IPv4 and IPv6 in CIDR notation, compressed and in lower case; empty for a transparent function. A set: their
    order means nothing, and is kept for the kernel."""
    mtu: int | None = None
    """Bytes; None for the kernel's default (DEFAULT_MTU)."""
    routes: tuple[Route, ...] = ()
    """A set, too."""
    slices: int | None = None
    """Number of slices that the source ports are divided into; each replica gets one (sfc.source_ports). None when
    replicas may use any port."""
    session_key: SessionKey | None = None
    """Of its link; None where the other end or the chain says it."""
    raw_frames: bool = False
    """The function reads frames as a wire would carry them (AF_PACKET): with complete checksums, and no larger than the
    MTU, although the sender's kernel leaves both to a network card."""

    @property
    def meant(self) -> Interface:
        """What a pod has of it, the same for every way to write it: without the order of sets, with defaults written
        out, and without what the node does."""
        return replace(
            self,
            session_key=None,
            addresses=tuple(sorted(self.addresses)),
            mtu=self.mtu or DEFAULT_MTU,
            routes=tuple(sorted(self.routes, key=lambda route: (route.dst, route.gw or ""))),
            raw_frames=False,
        )


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a silent session stays active, in seconds; 0 where a chain leaves it to the node."""

    tcp: int = 0
    sctp: int = 0
    udp: int = 0
    other: int = 0
    """For ICMP and every other protocol."""

    def completed(self, default: Patience) -> Patience:
        """The same, with the default's seconds for each 0."""
        return Patience(
            self.tcp or default.tcp, self.sctp or default.sctp, self.udp or default.udp, self.other or default.other
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """A position in the chain, with the chain's drain settings where the stage has none of its own."""

    name: str
    interfaces: tuple[Interface, ...]
    drain_deadline_seconds: int
    drain_hook: Hook
    at_deadline: AtDeadline = AtDeadline.MOVE
    replica_numbers: int | None = None
    """So many numbers there are for the replicas, each of which is told one; None when the stage asks for none."""
    publish_not_ready: bool = False
    """Replicas get new sessions as soon as their containers run, ready or not; as `publishNotReadyAddresses` of a
    Kubernetes Service."""

    @property
    def transparent(self) -> bool:
        """True for a stage without addresses: a bump in the wire that forwards frames between its interfaces."""
        return not any(interface.addresses for interface in self.interfaces)

    @property
    def slices(self) -> int | None:
        """Number of slices of the source ports; None when replicas may use any port.

        A pod's sockets share one range of ports, so all interfaces that give a number give the same one.
        """
        return next((interface.slices for interface in self.interfaces if interface.slices), None)

    @property
    def shares(self) -> Shares | None:
        """What each replica gets one of; None when there is nothing to get. Slices have numbers, too."""
        count = self.slices or self.replica_numbers
        return Shares(count, of_ports=self.slices is not None) if count else None

    def interface(self, name: str) -> Interface | None:
        """The interface with this name, or None."""
        return next((i for i in self.interfaces if i.name == name), None)


@dataclass(frozen=True, slots=True)
class CrossConnection:
    """The N-to-M switch between two linked interfaces."""

    name: str
    """Name of the CrossConnection object, unique in the namespace."""
    upstream: InterfaceRef
    downstream: InterfaceRef
    session_key: SessionKey = SessionKey.FLOW

    def end(self, side: Side) -> InterfaceRef:
        """The interface on this side."""
        return self.downstream if side else self.upstream

    def far_end(self, side: Side) -> InterfaceRef:
        """The interface on the opposite side."""
        return self.upstream if side else self.downstream


@dataclass(frozen=True, slots=True)
class Chain:
    """Stages that traffic visits in order, and the links between their interfaces."""

    namespace: str
    name: str
    uid: str
    """Empty while the object is being created: the API server has not given it a UID yet."""
    stages: tuple[Stage, ...]
    links: tuple[tuple[InterfaceRef, InterfaceRef], ...]
    """Pairs of (upstream, downstream); between consecutive stages where `spec.links` is missing."""
    patience: Patience = Patience()
    """With its silent sessions."""
    prefers_same_node: bool = False
    """New sessions stay on their node while it has serving replicas of the neighbouring stage. Otherwise they spread
    evenly over the replicas of all nodes."""
    session_key: SessionKey = SessionKey.FLOW
    """Of the links whose ends name no other."""
    created: str = ""
    """When the object was created, as the API server writes it (RFC 3339, UTC); empty like `uid`."""
    cross_connections: tuple[CrossConnection, ...] = field(init=False, compare=False, repr=False)
    """One for each link, in the same order."""
    attachments: Mapping[tuple[str, str], tuple[CrossConnection, Side]] = field(init=False, compare=False, repr=False)
    """(stage, interface) → the cross-connection that the interface belongs to, and its side there."""
    linked: Mapping[str, frozenset[str]] = field(init=False, compare=False, repr=False)
    """By stage: names of its interfaces that are in a link."""
    _stages: Mapping[str, Stage] = field(init=False, compare=False, repr=False)
    """By name."""
    _by_ref: Mapping[InterfaceRef, Interface] = field(init=False, compare=False, repr=False)
    _neighbours: dict[InterfaceRef, tuple[int, Mapping[str, str]]] = field(init=False, compare=False, repr=False)
    """What `neighbours` has answered, and to which `most`: each pass of the node agent asks for it again."""
    _own: dict[InterfaceRef, Mapping[str, str]] = field(init=False, compare=False, repr=False)
    """Address (without prefix length) → MAC of one interface: each is read once, not once for each neighbour."""

    def __post_init__(self) -> None:
        """Derive once what follows from the links, because the node agent needs it at every pass."""
        object.__setattr__(self, "_by_ref", dict(self.interfaces()))
        object.__setattr__(self, "cross_connections", tuple(self._cross_connections()))
        object.__setattr__(self, "attachments", dict(self._attachments()))
        object.__setattr__(self, "linked", {stage.name: self._linked(stage) for stage in self.stages})
        object.__setattr__(self, "_stages", {stage.name: stage for stage in self.stages})
        object.__setattr__(self, "_neighbours", {})
        object.__setattr__(self, "_own", {})

    def stage(self, name: str) -> Stage | None:
        """The stage with this name, or None."""
        return self._stages.get(name)

    def interfaces(self) -> Iterator[tuple[InterfaceRef, Interface]]:
        """All interfaces of all stages, in the order of the stages."""
        return ((InterfaceRef(stage.name, i.name), i) for stage in self.stages for i in stage.interfaces)

    def interface(self, ref: InterfaceRef) -> Interface | None:
        """The interface with this name, or None."""
        return self._by_ref.get(ref)

    def _cross_connections(self) -> Iterator[CrossConnection]:
        for up, down in self.links:
            ends = (self.interface(up), self.interface(down))
            own = next((end.session_key for end in ends if end and end.session_key), self.session_key)
            yield CrossConnection(f"{self.name}.{up}.{down}", upstream=up, downstream=down, session_key=own)

    def _attachments(self) -> Iterator[tuple[tuple[str, str], tuple[CrossConnection, Side]]]:
        for connection in self.cross_connections:
            for side in Side:
                end = connection.end(side)
                yield (end.stage, end.interface), (connection, side)

    def _linked(self, stage: Stage) -> frozenset[str]:
        return frozenset(i.name for i in stage.interfaces if (stage.name, i.name) in self.attachments)

    def segment(self, start: InterfaceRef) -> frozenset[InterfaceRef]:
        """Interfaces in one layer-2 domain with `start`, itself included: across links, through transparent stages."""
        return frozenset(self._reached([start, *self._forwarded_to(start)]))

    def neighbours(self, asker: InterfaceRef, most: int) -> Mapping[str, str]:
        """Address (without prefix length) → MAC of the interfaces that `asker` reaches through its link, nearest first.

        What a transparent asker reaches through its own stage is not among them. The search ends at `most` addresses;
        there may be more of an earlier search.
        """
        searched, found = self._neighbours.get(asker, (0, {}))
        if len(found) == searched < most:  # the search before may have left out some
            found = dict(itertools.islice(self._addresses_beyond(asker), most))
            self._neighbours[asker] = most, found
        return found

    def _addresses_beyond(self, asker: InterfaceRef) -> Iterator[tuple[str, str]]:
        for ref in self._reached([asker]):
            if ref != asker:
                yield from self._addresses(ref).items()

    def _reached(self, start: Sequence[InterfaceRef]) -> Iterator[InterfaceRef]:
        """`start`, and what frames reach that leave by its links, nearest first. Each once: links close no loops."""
        leave_by = deque(start)
        while leave_by:
            yield (ref := leave_by.popleft())
            if attached := self.attachments.get((ref.stage, ref.interface)):
                yield (far := attached[0].far_end(attached[1]))
                leave_by += self._forwarded_to(far)

    def _addresses(self, ref: InterfaceRef) -> Mapping[str, str]:
        if ref not in self._own:
            interface = self.interface(ref)
            found = {str(ip.interface(a).ip): interface.mac for a in interface.addresses} if interface else {}
            self._own[ref] = found
        return self._own[ref]

    def _forwarded_to(self, ref: InterfaceRef) -> list[InterfaceRef]:
        stage = self.stage(ref.stage)
        others = stage.interfaces if stage and stage.transparent else ()
        return [InterfaceRef(ref.stage, i.name) for i in others if i.name != ref.interface]


def derived_mac(namespace: str, chain: str, stage: str, interface: str) -> str:
    """The MAC of an interface that has none in the chain: locally administered and unicast (IEEE 802, 8.2)."""
    path = "/".join((namespace, chain, stage, interface))
    digest = hashlib.sha256(path.encode(errors="surrogatepass")).digest()
    return mac.text(bytes((0x02, *digest[:5])))

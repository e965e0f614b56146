"""The chain as a value: what a ServiceFunctionChain object says, and everything that follows from it alone.

Cross-connections, MACs, segments and neighbours are derived, never stored: webhook, cluster controller and node
agent each derive the same answer from the same object.

`chain_of` expects an object that `sfc.validation.checks` finds nothing wrong with; admission guarantees it, and readers
call `sfc.validation.checks.parse`, which checks first.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

from sfc import mac, names


class Side(IntEnum):
    """A cross-connection's sides; upstream is nearer the head of the chain. The numbers are the BPF program's."""

    UPSTREAM = 0
    DOWNSTREAM = 1

    @property
    def other(self) -> Side:
        return Side(1 - self)


class Hook(StrEnum):
    """What a leaving replica's PreStop hook is."""

    AUTO = "auto"
    """HTTP_GET, or SLEEP where the namespace's Pod Security level forbids it."""
    HTTP_GET = "httpGet"
    """The kubelet asks the node agent, which answers when the replica is drained."""
    SLEEP = "sleep"
    """Termination waits for the deadline; the node agent sees the deletion in its watch."""
    NONE = "none"
    """Termination does not wait; the node agent sees the deletion in its watch."""


@dataclass(frozen=True, slots=True)
class Route:
    dst: str
    """Destination prefix, CIDR notation."""
    gw: str | None = None
    """Next hop, without prefix; None for a destination on the link."""


@dataclass(frozen=True, slots=True, order=True)
class InterfaceRef:
    """`stage.interface`, the way `links` and CrossConnections name an interface."""

    stage: str
    interface: str

    def __str__(self) -> str:
        return f"{self.stage}.{self.interface}"


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    mac: str
    """Lower case, colon-separated; the same for every replica of the stage."""
    addresses: tuple[str, ...] = ()
    """CIDR notation, IPv4 and IPv6; empty for a transparent function."""
    mtu: int | None = None
    """Bytes; None leaves the kernel's default (1500)."""
    routes: tuple[Route, ...] = ()
    slices: int | None = None
    """Into how many slices the source ports are divided, of which each replica gets one (sfc.source_ports); None when
    replicas use what ports they like."""


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    interfaces: tuple[Interface, ...]
    drain_deadline_seconds: int
    """The stage's own deadline, or the chain's."""
    drain_hook: Hook = Hook.AUTO
    """The stage's own, or the chain's."""

    @property
    def transparent(self) -> bool:
        """A bump in the wire: without any address it passes frames from one interface to the others."""
        return not any(interface.addresses for interface in self.interfaces)

    @property
    def slices(self) -> int | None:
        """Of its source ports; the same for all interfaces that have any, as a pod's sockets have one range."""
        return next((interface.slices for interface in self.interfaces if interface.slices), None)

    def interface(self, name: str) -> Interface | None:
        return next((i for i in self.interfaces if i.name == name), None)


@dataclass(frozen=True, slots=True)
class CrossConnection:
    """The N-to-M switch between two linked interfaces."""

    name: str
    """Object name, unique in the namespace."""
    number: int
    """32 bits, never 0: the cross-connection in BPF maps. Made from the chain's UID, so that a chain that is deleted
    and created again shares no session with its predecessor, and every node computes the same."""
    upstream: InterfaceRef
    downstream: InterfaceRef

    def end(self, side: Side) -> InterfaceRef:
        return self.downstream if side else self.upstream


@dataclass(frozen=True, slots=True)
class Chain:
    namespace: str
    name: str
    uid: str
    """Empty at admission of a CREATE."""
    stages: tuple[Stage, ...]
    links: tuple[tuple[InterfaceRef, InterfaceRef], ...]
    """As (upstream, downstream); the default of consecutive stages is already applied."""
    cross_connections: tuple[CrossConnection, ...] = field(init=False, compare=False, repr=False)
    """One for each link."""
    attachments: Mapping[tuple[str, str], tuple[CrossConnection, Side]] = field(init=False, compare=False, repr=False)
    """(stage, interface) → the cross-connection that the interface belongs to, and its side there."""

    def __post_init__(self) -> None:
        """What follows from the links is derived once: the node agent asks for it at every pass."""
        object.__setattr__(self, "cross_connections", tuple(self._cross_connections()))
        object.__setattr__(self, "attachments", dict(self._attachments()))

    def stage(self, name: str) -> Stage | None:
        return next((s for s in self.stages if s.name == name), None)

    def interface(self, ref: InterfaceRef) -> Interface | None:
        stage = self.stage(ref.stage)
        return stage.interface(ref.interface) if stage else None

    def _cross_connections(self) -> Iterator[CrossConnection]:
        for up, down in self.links:
            yield CrossConnection(f"{self.name}.{up}.{down}", _number(self.uid, up, down), upstream=up, downstream=down)

    def _attachments(self) -> Iterator[tuple[tuple[str, str], tuple[CrossConnection, Side]]]:
        for connection in self.cross_connections:
            for side in Side:
                end = connection.end(side)
                yield (end.stage, end.interface), (connection, side)

    def segment(self, start: InterfaceRef) -> frozenset[InterfaceRef]:
        """Interfaces in one layer-2 domain with `start`, itself included: across links, through transparent stages."""
        peer = {a: b for pair in self.links for a, b in (pair, pair[::-1])}
        found: set[InterfaceRef] = set()
        queue = [start]
        while queue:
            ref = queue.pop()
            if ref in found:
                continue
            found.add(ref)
            if ref in peer:
                queue.append(peer[ref])
            queue.extend(self._passed_on(ref))
        return frozenset(found)

    def neighbours(self, asker: InterfaceRef) -> dict[str, str]:
        """Address (without prefix) → MAC of everything that `asker` reaches through its link, not through itself."""
        peer = {a: b for pair in self.links for a, b in (pair, pair[::-1])}
        answers: dict[str, str] = {}
        seen = {asker}
        queue = [peer[asker]] if asker in peer else []
        while queue:
            ref = queue.pop()
            if ref in seen:
                continue
            seen.add(ref)
            interface = self.interface(ref)
            if interface:
                answers |= {str(ipaddress.ip_interface(a).ip): interface.mac for a in interface.addresses}
            for beyond in self._passed_on(ref):
                seen.add(beyond)
                if beyond in peer:
                    queue.append(peer[beyond])
        return answers

    def _passed_on(self, ref: InterfaceRef) -> Iterator[InterfaceRef]:
        stage = self.stage(ref.stage)
        if stage and stage.transparent:
            yield from (InterfaceRef(stage.name, i.name) for i in stage.interfaces if i.name != ref.interface)


def chain_of(obj: Mapping[str, Any]) -> Chain:
    """The chain that a valid ServiceFunctionChain object (as JSON) describes."""
    metadata, spec = obj["metadata"], obj["spec"]
    namespace, name = metadata["namespace"], metadata["name"]
    stages = tuple(_stage(namespace, name, stage, spec.get("drain", {})) for stage in spec["stages"])
    return Chain(
        namespace=namespace,
        name=name,
        uid=metadata.get("uid", ""),
        stages=stages,
        links=_links(spec.get("links"), stages),
    )


def derived_mac(namespace: str, chain: str, stage: str, interface: str) -> str:
    """Locally administered unicast MAC of an interface whose chain gives none."""
    path = "/".join((namespace, chain, stage, interface))
    digest = hashlib.sha256(path.encode(errors="surrogatepass")).digest()
    return mac.text(bytes((0x02, *digest[:5])))


def _stage(namespace: str, chain: str, stage: Mapping[str, Any], chain_drain: Mapping[str, Any]) -> Stage:
    drain = {**chain_drain, **stage.get("drain", {})}
    return Stage(
        name=stage["name"],
        interfaces=tuple(
            Interface(
                name=i["name"],
                mac=i.get("mac", "").lower() or derived_mac(namespace, chain, stage["name"], i["name"]),
                addresses=tuple(i.get("addresses", ())),
                mtu=i.get("mtu"),
                routes=tuple(Route(dst=r["dst"], gw=r.get("gw")) for r in i.get("routes", ())),
                slices=i.get("sourcePorts", {}).get("slices"),
            )
            for i in stage["interfaces"]
        ),
        drain_deadline_seconds=drain.get("deadlineSeconds", names.DEFAULT_DRAIN_DEADLINE_SECONDS),
        drain_hook=Hook(drain.get("hook", Hook.AUTO)),
    )


def _links(links: list[list[str]] | None, stages: tuple[Stage, ...]) -> tuple[tuple[InterfaceRef, InterfaceRef], ...]:
    if links is None:
        return tuple(
            (InterfaceRef(up.name, up.interfaces[-1].name), InterfaceRef(down.name, down.interfaces[0].name))
            for up, down in itertools.pairwise(stages)
        )
    return tuple((_ref(up), _ref(down)) for up, down in links)


def _ref(text: str) -> InterfaceRef:
    stage, _, interface = text.partition(".")
    return InterfaceRef(stage, interface)


def _number(uid: str, up: InterfaceRef, down: InterfaceRef) -> int:
    digest = hashlib.sha256(f"{uid}/{up}/{down}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") or 1

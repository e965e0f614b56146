"""A replica's standing: its state in the data path, and the reason.

The plan puts the replica's links into this state, and the pod's condition gives this reason. Both ask the same
function, so the data path never serves what the condition calls unwired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from controller.node.plane.drain import Drain
from controller.node.plane.model import HostLink, LinkState
from controller.node.plane.replica import Replica
from sfc import missing
from sfc.chain import Chain, Stage


class Reason(StrEnum):
    """Why a replica has its state, as the pod's condition names it."""

    SERVING = "Serving"
    CONTAINERS_NOT_READY = "ContainersNotReady"
    NOT_LINKED = "NotLinked"
    """An interface that it was made with has no link."""
    INTERFACE_DOWN = "InterfaceDown"
    OUTDATED = "Outdated"
    """The stage has lost an interface that it was made with, and has got another one."""
    RELABELLED = "Relabelled"
    NO_CHAIN = missing.NO_CHAIN
    NO_STAGE = missing.NO_STAGE
    DRAINING = "Draining"
    DRAINED = "Drained"


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of all the replica's links that belong to a cross-connection, and the reason."""

    state: LinkState
    reason: Reason
    interfaces: tuple[str, ...] = ()
    """The interfaces that are missing, down, or outdated; of a serving replica, those that its stage has got since it
    was made, which it lacks. Sorted."""


def standing(replica: Replica, drain: Drain | None, links: Sequence[HostLink], chain: Chain | None) -> Standing:
    """The standing of a replica with these `links`, which may be of several sandboxes. `chain`: the replica's."""
    newest, ready = newest_links(links), _ready(replica, chain)
    fault = _fault(replica, newest, chain)
    state = _state(replica, drain, ready, fault is not None)
    if drain:
        return Standing(state, Reason.DRAINED if drain.ended else Reason.DRAINING)
    if replica.relabelled:
        return Standing(state, Reason.RELABELLED)
    if fault and (ready or fault[0] is not Reason.INTERFACE_DOWN):
        return Standing(state, *fault)
    if not ready:  # its function may set the interface up later
        return Standing(state, Reason.CONTAINERS_NOT_READY)
    return Standing(state, Reason.SERVING, _since_added(replica, newest, chain))


def newest_links(links: Sequence[HostLink]) -> dict[str, HostLink]:
    """By interface: of two links for one, the newer. The older one is of a sandbox that was replaced."""
    return {link.interface: link for link in sorted(links, key=lambda link: link.ifindex)}


def _ready(replica: Replica, chain: Chain | None) -> bool:
    """Ready for sessions: as its containers say, or as its stage says of all whose containers run."""
    stage = chain.stage(replica.stage) if chain else None
    return replica.ready or (stage is not None and stage.publish_not_ready and replica.running and not replica.stopped)


def _state(replica: Replica, drain: Drain | None, ready: bool, faulty: bool) -> LinkState:
    """`ready`: for sessions. `faulty`: a frame that comes in on one of its interfaces may not go out on another."""
    if drain:
        return LinkState.GONE if drain.ended or faulty or replica.stopped else LinkState.DRAINING
    if ready:
        kept = LinkState.DRAINING if replica.relabelled else LinkState.SERVING
        return LinkState.GONE if faulty else kept
    return LinkState.GONE if replica.stopped else LinkState.WIRED


def _fault(
    replica: Replica, links: Mapping[str, HostLink], chain: Chain | None
) -> tuple[Reason, tuple[str, ...]] | None:
    """Why frames cannot pass through the replica, and the interfaces to blame."""
    if chain is None:
        return Reason.NO_CHAIN, ()
    stage = chain.stage(replica.stage)
    if stage is None:
        return Reason.NO_STAGE, ()
    expected = replica.interfaces or (set() if links else _linked(stage, chain))
    if not links or expected - links.keys():
        return Reason.NOT_LINKED, tuple(sorted(expected - links.keys()))
    if (lost := _lost(replica, links, stage)) and _since_added(replica, links, chain):
        return Reason.OUTDATED, lost
    if down := sorted(name for name, link in links.items() if not link.up):
        return Reason.INTERFACE_DOWN, tuple(down)
    return None


def _lost(replica: Replica, links: Mapping[str, HostLink], stage: Stage) -> tuple[str, ...]:
    """The interfaces that it was made with and its stage does not have any more."""
    return tuple(sorted(name for name in _made_with(replica, links) if not stage.interface(name)))


def _since_added(replica: Replica, links: Mapping[str, HostLink], chain: Chain | None) -> tuple[str, ...]:
    """The linked interfaces that its stage has got since it was made."""
    stage = chain.stage(replica.stage) if chain else None
    return tuple(sorted(_linked(stage, chain) - {*_made_with(replica, links)})) if chain and stage else ()


def _made_with(replica: Replica, links: Mapping[str, HostLink]) -> frozenset[str]:
    """Its links tell it when its annotation cannot be read."""
    return replica.interfaces or frozenset(links)


def _linked(stage: Stage, chain: Chain) -> set[str]:
    return {i.name for i in stage.interfaces if (stage.name, i.name) in chain.attachments}

"""A replica's standing: its state in the data path, and the reason.

The plan puts the replica's links into this state, and the pod's condition gives this reason. Both ask the same
function, so the data path never serves what the condition calls unwired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
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


Fault = tuple[Reason, tuple[str, ...]]
"""Why frames cannot pass through a replica, and the interfaces to blame."""


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
    stage = chain.stage(replica.stage) if chain else None
    made_with = replica.interfaces or frozenset(link.interface for link in links)  # its annotation may be unreadable
    linked = chain.linked[stage.name] if chain and stage else frozenset[str]()
    added = () if linked <= made_with else tuple(sorted(linked - made_with))
    ready = replica.ready or (stage is not None and _published(replica, stage))
    fault = _fault(made_with, added, newest_links(links), stage) if stage else _nowhere(chain)
    state = _state(replica, drain, ready, fault is not None)
    if drain:
        return Standing(state, Reason.DRAINED if drain.ended else Reason.DRAINING)
    if replica.relabelled:
        return Standing(state, Reason.RELABELLED)
    if fault and (ready or fault[0] is not Reason.INTERFACE_DOWN):
        return Standing(state, *fault)
    if not ready:  # its function may set the interface up later
        return Standing(state, Reason.CONTAINERS_NOT_READY)
    return Standing(state, Reason.SERVING, added)


def newest_links(links: Sequence[HostLink]) -> dict[str, HostLink]:
    """By interface: of two links for one, the newer. The older one is of a sandbox that was replaced."""
    found = {link.interface: link for link in links}
    if len(found) == len(links):
        return found
    return {link.interface: link for link in sorted(links, key=lambda link: link.ifindex)}


def _published(replica: Replica, stage: Stage) -> bool:
    """Ready for sessions, because its stage says so of all replicas whose containers run."""
    return stage.publish_not_ready and replica.running and not replica.stopped


def _state(replica: Replica, drain: Drain | None, ready: bool, faulty: bool) -> LinkState:
    """`ready`: for sessions. `faulty`: a frame that comes in on one of its interfaces may not go out on another."""
    if drain:
        return LinkState.GONE if drain.ended or faulty or replica.stopped else LinkState.DRAINING
    if ready:
        kept = LinkState.DRAINING if replica.relabelled else LinkState.SERVING
        return LinkState.GONE if faulty else kept
    return LinkState.GONE if replica.stopped else LinkState.WIRED


def _nowhere(chain: Chain | None) -> Fault:
    return (Reason.NO_STAGE if chain else Reason.NO_CHAIN), ()


def _fault(made_with: Set[str], added: tuple[str, ...], links: Mapping[str, HostLink], stage: Stage) -> Fault | None:
    """`made_with`: the replica's interfaces. `added`: those that its stage has got since, and linked."""
    if not links or not made_with <= links.keys():
        return Reason.NOT_LINKED, tuple(sorted(made_with - links.keys())) or added
    if added and (lost := [name for name in made_with if not stage.interface(name)]):
        return Reason.OUTDATED, tuple(sorted(lost))
    if down := [name for name, link in links.items() if not link.up]:
        return Reason.INTERFACE_DOWN, tuple(sorted(down))
    return None

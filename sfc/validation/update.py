"""What an update or a deletion means for the replicas that run. The chain's own status says how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sfc import names
from sfc.chain import Chain, Hook, Interface, Stage
from sfc.reading import chain_of
from sfc.validation.checks import problems
from sfc.validation.problem import MISSING, Node, Problem, bare, shown


@dataclass(frozen=True, slots=True)
class Change:
    """A chain as it is stored, and as it shall be."""

    before: Chain | None
    """None when what is stored is not valid, or nothing is stored: then there is nothing to compare with."""
    after: Chain
    running: Mapping[str, int]
    """Pods by stage, draining ones included, as the stored status counts them."""
    reported: bool
    """Whether the stored chain has a status."""

    @classmethod
    def of(cls, old: Mapping[str, Any], new: Mapping[str, Any]) -> Change:
        """From the objects. `new` must be without problems."""
        before = None if problems(old) else chain_of(old)
        return cls(before, chain_of(new), _replicas(old), "status" in old)


def update_problems(change: Change) -> tuple[Problem, ...]:
    """Changes that would harm the replicas of a stage.

    All replicas of a stage need the same addresses and MACs, because their neighbours know one MAC for an address and a
    session may go to any of them. A pod keeps the ones it was created with. After such a change, old and new replicas
    would drop each other's frames.

    A pod also keeps the interfaces it was created with. When one of them leaves its link, nothing reaches the pod there
    any more. So it may leave only together with the stage at the other end.
    """
    before, running = change.before, change.running
    if before is None:
        return ()
    return tuple(
        problem
        for i, stage in enumerate(change.after.stages)
        if (known := before.stage(stage.name)) and (replicas := running.get(stage.name))
        for problem in (
            *_moved(known, stage, f"spec.stages[{i}]", replicas),
            *_unlinked(change, before, known, f"spec.stages[{i}].interfaces", replicas),
        )
    )


def update_warnings(change: Change) -> tuple[str, ...]:
    """For changes that running pods do not follow, and for stages that lose their traffic or have no replica."""
    before, after, running = change.before, change.after, change.running
    if before is None:
        return ()
    unimplemented = _unimplemented(after, running) if change.reported else ()
    return (*_kept(before, after), *_chosen_anew(before, after), *_dropped(before, after, running), *unimplemented)


def deletion_warnings(old: Mapping[str, Any]) -> tuple[str, ...]:
    """A warning for the deletion of a chain that still has replicas."""
    left = ", ".join(f"{shown(name)} ({count})" for name, count in _replicas(old).items() if count)
    if not left:
        return ()
    return (
        f"stages that still have replicas: {left}. They lose their traffic at once, and new pods are refused; remove "
        f"the labels {names.CHAIN_LABEL} and {names.STAGE_LABEL} from their workloads",
    )


def _replicas(obj: Mapping[str, Any]) -> dict[str, int]:
    """Running pods by stage, draining ones included. What cannot be read counts as none."""
    stages = Node("", obj)["status"]["stages"]
    return {name: _count(stage) for stage in stages if isinstance(name := stage["name"].value, str)}


def _count(stage: Node) -> int:
    counts = (stage["replicas"].value, stage["draining"].value)
    return sum(count for count in counts if isinstance(count, int))


def _moved(old: Stage, new: Stage, path: str, replicas: int) -> Iterator[Problem]:
    for i, interface in enumerate(new.interfaces):
        known = old.interface(interface.name)
        for field in ("addresses", "mac"):
            if known and getattr(known.meant, field) != getattr(interface.meant, field):
                was = shown(_written(known, field))
                yield Problem(
                    f"{path}.interfaces[{i}].{field}",
                    _written(interface, field),
                    f"cannot change from {was} while stage {shown(new.name)} has replicas ({replicas}): they "
                    "keep what they were created with, and all replicas of a stage must have the same; scale its "
                    "workload to 0 first, or give the stage another name",
                )


def _unlinked(change: Change, before: Chain, stage: Stage, path: str, replicas: int) -> Iterator[Problem]:
    """`stage`: as it is stored. If it gets another link, its replicas are made for neither of the two chains."""
    after = change.after.attachments
    gets_another = any(at == stage.name and not stage.interface(name) for at, name in after)
    for interface in stage.interfaces:
        end = stage.name, interface.name
        if end not in before.attachments or end in after:
            continue
        connection, side = before.attachments[end]
        far = connection.far_end(side)
        if gets_another or change.after.stage(far.stage):
            yield Problem(
                path,
                MISSING,
                f"{bare(interface.name)} cannot leave its link with {far} while stage {shown(stage.name)} has replicas "
                f"({replicas}): they keep the interfaces they were created with, and would get no traffic there; keep "
                "the interface in a link (spec.links), scale the stage's workload to 0 first, or give the stage "
                "another name",
            )


def _written(interface: Interface, field: str) -> str:
    return interface.mac if field == "mac" else ", ".join(interface.addresses)


def _kept(before: Chain, after: Chain) -> Iterator[str]:
    for stage in after.stages:
        known = before.stage(stage.name) or stage
        changed = [
            *(["interfaces, MTUs, routes and source ports"] if _meant(known) != _meant(stage) else []),
            *(["replica numbers"] if (known.shares is None) != (stage.shares is None) else []),
            *(["drain hook and grace period"] if _drain(known) != _drain(stage) else []),
        ]
        if changed:
            yield (
                f"stage {shown(stage.name)}: running pods keep the {' and the '.join(changed)} they were created with; "
                "restart its workload (kubectl rollout restart) to apply the change"
            )


def _meant(stage: Stage) -> set[Interface]:
    """The interfaces, however they are written. Their order matters to links only."""
    return {interface.meant for interface in stage.interfaces}


def _drain(stage: Stage) -> tuple[Hook, int]:
    return stage.drain_hook, stage.drain_deadline_seconds


def _chosen_anew(before: Chain, after: Chain) -> Iterator[str]:
    known = {(link.upstream, link.downstream): link.session_key for link in before.cross_connections}
    for link in after.cross_connections:
        was = known.get((link.upstream, link.downstream), link.session_key)
        if was != link.session_key:
            yield (
                f"the link from {link.upstream} to {link.downstream} goes by {link.session_key} instead of {was}: its "
                "sessions begin anew within seconds, and may reach other replicas, which do not know their "
                "connections; change it while there is little traffic"
            )


def _dropped(before: Chain, after: Chain, running: Mapping[str, int]) -> Iterator[str]:
    for stage in before.stages:
        if not after.stage(stage.name) and running.get(stage.name):
            yield (
                f"stage {shown(stage.name)} leaves the chain with replicas ({running[stage.name]}): they lose their "
                "traffic at once, and new pods are refused; change the labels of their workload"
            )


def _unimplemented(after: Chain, running: Mapping[str, int]) -> Iterator[str]:
    for stage in after.stages:
        if not running.get(stage.name):
            yield (
                f"stage {shown(stage.name)} has no replica, so that no traffic passes; label its workload "
                f"{names.CHAIN_LABEL}={after.name} {names.STAGE_LABEL}={stage.name}, or scale it up if it has them"
            )

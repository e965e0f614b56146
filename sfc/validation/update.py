"""What an update or a deletion means for the replicas that run. The chain's own status says how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sfc import names
from sfc.chain import Chain, Hook, Interface, Stage, chain_of
from sfc.validation.checks import problems
from sfc.validation.problem import Node, Problem, shown


def update_problems(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Problem, ...]:
    """Changes of addresses or MACs of a stage that has replicas. `new` must be without problems.

    All replicas of a stage need the same addresses and MACs, because their neighbours know one MAC for an address and a
    session may go to any of them. A pod keeps the ones it was created with. After such a change, old and new replicas
    would drop each other's frames.
    """
    if problems(old):
        return ()
    running = _replicas(old)
    before = chain_of(old)
    return tuple(
        problem
        for i, stage in enumerate(chain_of(new).stages)
        if (known := before.stage(stage.name)) and running.get(stage.name)
        for problem in _moved(known, stage, f"spec.stages[{i}]", running[stage.name])
    )


def update_warnings(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Warnings for changes that running pods do not follow, and for stages that lose their traffic or have no replica.

    `new` must be without problems.
    """
    if problems(old):
        return ()
    before, after, running = chain_of(old), chain_of(new), _replicas(old)
    return (*_kept(before, after), *_dropped(before, after, running), *_unimplemented(old, after, running))


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
            if known and (was := _value(known, field)) != (value := _value(interface, field)):
                yield Problem(
                    f"{path}.interfaces[{i}].{field}",
                    value,
                    f"cannot change from {shown(was)} while stage {shown(new.name)} has replicas ({replicas}): they "
                    "keep what they were created with, and all replicas of a stage must have the same; scale its "
                    "workload to 0 first, or give the stage another name",
                )


def _value(interface: Interface, field: str) -> str:
    return interface.mac if field == "mac" else ", ".join(interface.addresses)


def _kept(before: Chain, after: Chain) -> Iterator[str]:
    for stage in after.stages:
        known = before.stage(stage.name) or stage
        changed = [
            *(["interfaces, MTUs, routes and source ports"] if known.interfaces != stage.interfaces else []),
            *(["drain hook and grace period"] if _drain(known) != _drain(stage) else []),
        ]
        if changed:
            yield (
                f"stage {shown(stage.name)}: running pods keep the {' and the '.join(changed)} they were created with; "
                "restart its workload (kubectl rollout restart) to apply the change"
            )


def _drain(stage: Stage) -> tuple[Hook, int]:
    return stage.drain_hook, stage.drain_deadline_seconds


def _dropped(before: Chain, after: Chain, running: Mapping[str, int]) -> Iterator[str]:
    for stage in before.stages:
        if not after.stage(stage.name) and running.get(stage.name):
            yield (
                f"stage {shown(stage.name)} leaves the chain with replicas ({running[stage.name]}): they lose their "
                "traffic at once, and new pods are refused; change the labels of their workload"
            )


def _unimplemented(old: Mapping[str, Any], after: Chain, running: Mapping[str, int]) -> Iterator[str]:
    if "status" not in old:
        return
    for stage in after.stages:
        if not running.get(stage.name):
            yield (
                f"stage {shown(stage.name)} has no replica, so that no traffic passes; label its workload "
                f"{names.CHAIN_LABEL}={after.name} {names.STAGE_LABEL}={stage.name}"
            )

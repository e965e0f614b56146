"""What an update or a deletion means for the replicas that run, as the chain's own status counts them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sfc import names
from sfc.chain import Chain, Hook, Interface, Stage, chain_of
from sfc.validation.checks import problems
from sfc.validation.problem import Problem, shown


def update_problems(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Problem, ...]:
    """What must not change while a stage has replicas. `new` is without problems.

    All replicas of a stage have the same addresses and MACs: neighbours are told one answer, and a session may go to
    any of them. A pod keeps those it was created with, so that of replicas created before and after a change, the ones
    would drop what is meant for the others.
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
    """What a change means for replicas that already run. `new` is without problems."""
    if problems(old):
        return ()
    before, after, running = chain_of(old), chain_of(new), _replicas(old)
    return (*_kept(before, after), *_dropped(before, after, running), *_unimplemented(old, after, running))


def deletion_warnings(old: Mapping[str, Any]) -> tuple[str, ...]:
    left = ", ".join(f"{shown(name)} ({count})" for name, count in _replicas(old).items() if count)
    if not left:
        return ()
    return (
        f"stages that still have replicas: {left}. They lose their traffic at once, and new pods are refused; remove "
        f"the labels {names.CHAIN_LABEL} and {names.STAGE_LABEL} from their workloads",
    )


def _replicas(obj: Mapping[str, Any]) -> dict[str, int]:
    """By stage; whatever is not readable counts for nothing."""
    status = obj.get("status")
    stages = status.get("stages") if isinstance(status, dict) else None
    found = [stage for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []
    return {stage["name"]: _count(stage) for stage in found if isinstance(stage.get("name"), str)}


def _count(stage: Mapping[str, Any]) -> int:
    counts = (stage.get("replicas"), stage.get("draining"))
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
                "roll its workload out anew (kubectl rollout restart) for the change to take effect"
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

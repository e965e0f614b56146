"""Whose part a change belongs to, and what is left of a part that the kernel refused.

A refused change ends its chain's turn: the changes after it need it, or take back what it replaces. All other chains
go on. The part is then what was there before, and what was carried out of its changes. So the next pass needs to read
nothing again, and tries the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from controller.node.plane.changes import Change, Clear, Forget, Kind, Set
from controller.node.plane.cluster import ChainKey
from controller.node.plane.model import DataPlane, SideKey
from controller.node.plane.numbers import Numbered
from controller.node.plane.plan import Members, Part, Plan, merge

KINDS: tuple[Kind, ...] = (
    "filters",
    "links",
    "targets",
    "neighbours",
    "numbers",
    "patience",
    "session_keys",
    "far",
    "members",
)
Entry = tuple[str, Any]
"""(kind, key), or ("numbers", number) for all that belongs to a cross-connection."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the changes of a pass."""

    done: tuple[Change, ...]
    refused: Mapping[ChainKey | None, str] = field(default_factory=dict)
    """By chain, the message of the change that ended its turn. Under None: changes that belong to no chain."""
    kept: frozenset[int] = frozenset()
    """Numbers that could not be forgotten: they are not free yet."""


def carried_out(changes: Iterable[Change], carry_out: Callable[[Change], None], *plans: Plan) -> Outcome:
    """Carries out the changes one after the other; of a chain, none after the first that raises.

    `plans`: the plan before and the one that is wanted. They tell whose a change is.
    """
    done: list[Change] = []
    refused: dict[ChainKey | None, str] = {}
    kept: set[int] = set()
    owners: Mapping[Entry, ChainKey | None] = {}
    for change in changes:
        owner = owners.get(_entry(change)) if refused else None
        if owner not in refused or owner is None:
            try:
                carry_out(change)
                done.append(change)
                continue
            except Exception as error:  # noqa: BLE001  # whatever it is: no other chain may stand still for it
                owners = owners or _owners(plans)
                refused.setdefault(owners.get(_entry(change)), str(error) or repr(error))
        if isinstance(change, Forget):
            kept.add(change.connection)
    return Outcome(tuple(done), refused, frozenset(kept))


def left(wanted: Plan, before: Plan, actual: DataPlane | Plan, outcome: Outcome) -> Plan:
    """What is in the data path when `outcome` came of the changes from `actual` to `wanted`."""
    if not outcome.refused:
        return wanted
    nothing = Part(DataPlane(), {}, frozenset(), 0)
    parts = dict(wanted.parts)
    for key in outcome.refused:
        if key in parts or key in before.parts:
            parts[key] = _left(parts.get(key, nothing), before.parts.get(key), _plane(key, actual), outcome.done)
    if not outcome.kept:
        return replace(wanted, parts=parts)
    named = actual.numbers if isinstance(actual, DataPlane) else before.numbers.named
    kept = {number: named[number] for number in outcome.kept if number in named}
    parts[None] = _with(parts.get(None, nothing), kept)
    numbers = {**wanted.numbers.of, **{connection: number for number, connection in kept.items()}}
    return replace(wanted, parts=parts, numbers=replace(wanted.numbers, of=numbers))


def _with(part: Part, numbers: Mapping[int, Numbered]) -> Part:
    """The part with numbers that no link has: the next pass tries again to forget them."""
    plane = replace(part.plane, numbers={**part.plane.numbers, **numbers})
    return replace(part, plane=plane, connections=part.connections | numbers.keys())


def _left(wanted: Part, before: Part | None, actual: DataPlane, done: Iterable[Change]) -> Part:
    own = {kind: {*getattr(wanted.plane, kind), *(getattr(before.plane, kind) if before else ())} for kind in KINDS}
    entries = {kind: {key: value for key, value in _of(actual, kind) if key in own[kind]} for kind in KINDS}
    for change in done:
        if isinstance(change, Set) and change.key in own[change.kind]:
            entries[change.kind][change.key] = change.value
        elif isinstance(change, Clear):
            entries[change.kind].pop(change.key, None)
    plane = DataPlane(**entries)
    connections = frozenset(entry.connection for entry in plane.links.values()) | plane.numbers.keys()
    return replace(wanted, plane=plane, serving=_serving(plane, wanted, before), connections=connections, given=None)


def _serving(plane: DataPlane, *parts: Part | None) -> dict[SideKey, Members]:
    """The members of the tables that are there, each from the part that made it."""
    return {
        side: next(part.serving[side] for part in parts if part and part.plane.targets.get(side) == table)
        for side, table in plane.targets.items()
        if any(part and side in part.serving and part.plane.targets.get(side) == table for part in parts)
    }


def _of(plane: DataPlane, kind: Kind) -> Iterable[tuple[Any, Any]]:
    entries: Mapping[Any, Any] = getattr(plane, kind)
    return entries.items()


def _plane(key: ChainKey | None, actual: DataPlane | Plan) -> DataPlane:
    """The share of a chain in what is there. A link may have been one of an unknown pod before."""
    if isinstance(actual, DataPlane):
        return actual
    return merge([part for each in {key, None} if (part := actual.parts.get(each))])


def _entry(change: Change) -> Entry:
    match change:
        case Forget(connection):
            return "numbers", connection
        case Set(kind="patience" | "session_keys" | "members") | Clear(kind="patience" | "session_keys" | "members"):
            return "numbers", change.key
        case Set(kind="targets") | Set(kind="neighbours") | Clear(kind="targets") | Clear(kind="neighbours"):
            return "numbers", change.key[0]
        case _:
            return change.kind, change.key


def _owners(plans: Iterable[Plan]) -> dict[Entry, ChainKey | None]:
    """The latest plan that names an entry tells whose it is; a chain before the links of unknown pods."""
    found: dict[Entry, ChainKey | None] = {}
    for plan in plans:
        for key, part in plan.parts.items():
            entries = [
                *(("numbers", number) for number in part.connections),
                *(("links", slot) for slot in part.plane.links),
                *(("far", index) for index in part.plane.far),
                *(("filters", ifindex) for ifindex in part.plane.filters),
            ]
            if key is not None:
                found.update(dict.fromkeys(entries, key))
    return found

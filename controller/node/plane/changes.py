"""The steps from the data plane that is to the one that should be, in an order that is safe for frames in flight.

Make before break: a link is set before the targets name it, and it is gone, or loses its sessions, only after no
targets name it any more. So no frame meets a target without a link, or a target that is gone already, and no session
that its link has lost chooses that link again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from controller.node.plane.model import DataPlane, LinkEntry, LinkState
from controller.node.plane.plan import Plan, differing, merge

K = TypeVar("K")
V = TypeVar("V")

Kind = Literal["filters", "links", "targets", "neighbours", "numbers", "patience", "session_keys", "far", "members"]
"""Which of DataPlane's nine mappings a change is about: the name of the field."""


@dataclass(frozen=True, slots=True)
class Set:
    """Adds an entry, or replaces the one that has this key."""

    kind: Kind
    key: Any
    """As in the mapping of that kind; see DataPlane."""
    value: Any
    """As in the mapping of that kind; see DataPlane."""


@dataclass(frozen=True, slots=True)
class Clear:
    """Removes an entry."""

    kind: Kind
    key: Any
    """As in the mapping of that kind; see DataPlane."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Removes all that the maps hold under a number that stands for no link any more, and then frees the number."""

    connection: int


Change = Set | Clear | Forget


def changes(actual: DataPlane | Plan, wanted: Plan) -> Iterator[Change]:
    """The steps from `actual` to `wanted`; none when both are the same.

    `actual` is the data plane that was observed, or the plan that was carried out last. Of two plans only the parts
    that differ are compared.
    """
    if isinstance(actual, Plan):
        old, new = map(merge, differing(actual, wanted))
        had = actual.connections
    else:
        old, new = actual, wanted.plane
        had = frozenset(entry.connection for entry in actual.links.values()) | actual.numbers.keys()
    yield from _in_order(old, new)
    yield from (Forget(number) for number in had - wanted.connections)


def _in_order(actual: DataPlane, wanted: DataPlane) -> Iterator[Change]:
    """First all that targets refer to, then the targets, then all that targets referred to.

    A filter that exists already gets a new program, which may bring maps of its own. So it comes after everything that
    the program needs to find in them.
    """
    links = dict(_differing(actual.links, wanted.links))
    leaving = {slot: entry for slot, entry in links.items() if _loses_sessions(entry, known=slot in actual.links)}
    filters = dict(_differing(actual.filters, wanted.filters))
    yield from (Set("numbers", *each) for each in _differing(actual.numbers, wanted.numbers))
    yield from (Set("patience", *each) for each in _differing(actual.patience, wanted.patience))
    yield from (Clear("patience", number) for number in actual.patience.keys() - wanted.patience.keys())
    yield from (Set("session_keys", *each) for each in _differing(actual.session_keys, wanted.session_keys))
    yield from (Clear("session_keys", number) for number in actual.session_keys.keys() - wanted.session_keys.keys())
    yield from (Set("links", slot, entry) for slot, entry in links.items() if slot not in leaving)
    yield from (Set("members", *each) for each in _differing(actual.members, wanted.members))
    yield from (Set("far", *each) for each in _differing(actual.far, wanted.far))
    yield from (Set("filters", ifindex, slot) for ifindex, slot in filters.items() if ifindex not in actual.filters)
    yield from (Set("neighbours", *each) for each in _differing(actual.neighbours, wanted.neighbours))

    yield from (Set("targets", *each) for each in _differing(actual.targets, wanted.targets))
    yield from (Clear("targets", side) for side in actual.targets.keys() - wanted.targets.keys())
    yield from (Set("filters", ifindex, slot) for ifindex, slot in filters.items() if ifindex in actual.filters)

    yield from (Set("links", *each) for each in leaving.items())
    yield from (Clear("far", index) for index in actual.far.keys() - wanted.far.keys())
    yield from (Clear("members", number) for number in actual.members.keys() - wanted.members.keys())
    yield from (Clear("links", slot) for slot in actual.links.keys() - wanted.links.keys())
    yield from (Clear("filters", ifindex) for ifindex in actual.filters.keys() - wanted.filters.keys())
    yield from (Clear("neighbours", asked) for asked in actual.neighbours.keys() - wanted.neighbours.keys())


def _loses_sessions(entry: LinkEntry, *, known: bool) -> bool:
    """A link that is not `known` yet has none."""
    return entry.state == LinkState.GONE or (entry.state == LinkState.WIRED and known)


def _differing(before: Mapping[K, V], after: Mapping[K, V]) -> Iterator[tuple[K, V]]:
    for key, value in after.items():
        was = before.get(key)
        if was is not value and was != value:
            yield key, value

"""The lookup tables that the next event will probably need, so that they can be made ahead of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from controller.node.plane.model import LinkState, SideKey
from controller.node.plane.plan import Members, Plan, on_sides

FORESEEN = 16
"""A side with more replicas gets no tables ahead of the next event."""

MOST_FORESEEN = 512
"""With more replicas on all sides together, no tables are made ahead: they would drive each other out of the cache, and
the next event is hardly one that was foreseen."""


def likely_targets(plan: Plan) -> Sequence[tuple[tuple[str, int], ...]]:
    """The members of each side after the next event, if one replica joins or leaves. Empty when there are so many that
    making their tables ahead would not pay."""
    serving = {side: members for part in plan.parts.values() for side, members in part.serving.items()}
    if sum(map(len, serving.values())) > MOST_FORESEEN:
        return ()
    entries = plan.plane.links
    placed = ((link, entries[link.slot]) for of_pod in plan.links.values() for link in of_pod if link.slot in entries)
    return tuple(_after_the_next_event(serving, on_sides(placed, LinkState.WIRED)))


def _after_the_next_event(
    serving: Mapping[SideKey, Members], wired: Mapping[SideKey, Members]
) -> Iterator[tuple[tuple[str, int], ...]]:
    for key, members in serving.items():
        if len(members) <= FORESEEN:
            yield from ((*members, one) for one in wired.get(key, ()))
            yield from (tuple(other for other in members if other != one) for one in members if len(members) > 1)

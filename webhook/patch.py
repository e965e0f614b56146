"""From edits to a JSON Patch (RFC 6902)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jsonpatch

from webhook.model import Edit, Json

Parts = dict[Any, Any]
"""A mapping, or a list by index."""


def operations(obj: Json, edits: Sequence[Edit]) -> list[Json]:
    """The patch that makes the edits, empty when they change nothing.

    Only the places of the edits are compared, as an object may have a megabyte. A mapping that is missing on the way to
    a place is created. A mapping that becomes empty is removed, because the API server stores no empty ones; an element
    of a list stays.

    The patch has no `move` operations. jsonpatch would put them in the wrong order, because it is given a list on the
    way to a place as a mapping by index.
    """
    if not edits:
        return []
    patch: list[Json] = jsonpatch.JsonPatch.from_diff(*_sides(obj, edits), optimization=False).patch
    return patch


def _sides(present: Parts, edits: Sequence[Edit]) -> tuple[Parts, Parts]:
    """The places of the edits: as they are, and as they should be."""
    before: Parts = {}
    after: Parts = {}
    for key, inner in _by_first_key(edits).items():
        (path, value), *_ = inner
        if key in present:
            before[key] = present[key]
        if path:
            below = _parts(present.get(key))
            old, value = _sides(below, inner)
            if isinstance(present.get(key), dict | list):
                before[key] = old
            if not value and len(old) == len(below) and isinstance(key, str):
                value = None
        if value is not None:
            after[key] = value
    return before, after


def _by_first_key(edits: Sequence[Edit]) -> dict[str | int, list[Edit]]:
    """The edits with the rest of their paths."""
    groups: dict[str | int, list[Edit]] = {}
    for (key, *path), value in edits:
        groups.setdefault(key, []).append((tuple(path), value))
    return groups


def _parts(value: object) -> Parts:
    """Empty for anything that has none."""
    if isinstance(value, list):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else {}

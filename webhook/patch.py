"""From edits to a JSON Patch (RFC 6902)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jsonpatch

from webhook.decide.model import Edit, Json

Parts = dict[Any, Any]
"""A mapping, or a list by index."""


def operations(obj: Json, edits: Sequence[Edit]) -> list[Json]:
    """The patch that makes the edits, empty when they change nothing.

    Only the places of the edits are compared, as an object may have a megabyte. A mapping that is missing on the way to
    a place is created. A mapping that becomes empty is removed, because the API server stores no empty ones; an element
    of a list stays.

    The patch has no `move` operations: jsonpatch, to which a list on the way to a place is given as a mapping by index,
    would put them in an order that nobody can apply.
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
        old = present.get(key)
        path, new = inner[0]
        if path:
            parts = _parts(old)
            touched, new = _sides(parts or {}, inner)
            if parts is not None:
                old = touched
            is_empty = not new and len(touched) == len(parts or {})
            if is_empty and isinstance(key, str):
                new = None
        if key in present:
            before[key] = old
        if new is not None:
            after[key] = new
    return before, after


def _by_first_key(edits: Sequence[Edit]) -> dict[str | int, list[Edit]]:
    """The edits with the rest of their paths."""
    groups: dict[str | int, list[Edit]] = {}
    for path, value in edits:
        groups.setdefault(path[0], []).append((path[1:], value))
    return groups


def _parts(value: object) -> Parts | None:
    """None for a value that can have no parts."""
    if isinstance(value, list):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else None

"""A request, a decision, and reading objects that may have any shape: absent is empty, the wrong type is Malformed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    uid: str
    operation: str
    namespace: str
    obj: Json
    """The object as it would be stored; empty but at CREATE and UPDATE."""
    old: Json
    """The object as it is stored; empty but at UPDATE and DELETE."""


@dataclass(frozen=True, slots=True)
class Decision:
    obj: Json | None = None
    """The object as it should be; None leaves it alone."""
    denied: str | None = None
    """Why, and what to do about it; None allows."""
    code: int = 403
    """HTTP status of a denial."""
    warnings: tuple[str, ...] = ()


class Malformed(Exception):  # noqa: N818
    """The request is not what an API server sends. Answered with HTTP 400."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path} {message}")


def mapping(value: object, path: str) -> Json:
    if not isinstance(value, dict):
        raise Malformed(path, "must be an object")
    return value


def submapping(parent: Json, key: str, path: str) -> Json:
    """The mapping at `key`, or an empty one where there is none."""
    value = parent.get(key)
    return {} if value is None else mapping(value, f"{path}.{key}")


def elements(parent: Json, key: str, path: str) -> list[Json]:
    """The list of objects at `key`, or an empty one where there is none."""
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Malformed(f"{path}.{key}", "must be a list")
    return [mapping(element, f"{path}.{key}[{i}]") for i, element in enumerate(value)]


def text(value: object, path: str, empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or empty):
        raise Malformed(path, "must be a string" if empty else "must be a string that is not empty")
    return value


def label(labels: Json, key: str, path: str) -> str | None:
    value = labels.get(key)
    return None if value is None else text(value, f"{path}[{key}]", empty=True)


def at(obj: Json, path: tuple[str, ...], change: Callable[[Json], Json], where: str = "object") -> Json:
    """`obj` with the mapping at `path` changed.

    One that stays empty is not created, one that becomes empty goes: the API server stores neither.
    """
    if not path:
        return change(obj)
    inner = submapping(obj, path[0], where)
    changed = at(inner, path[1:], change, f"{where}.{path[0]}")
    if changed == inner:
        return obj
    return {**obj, path[0]: changed} if changed else {key: value for key, value in obj.items() if key != path[0]}

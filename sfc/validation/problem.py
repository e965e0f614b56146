"""Reporting what is wrong with hostile JSON, and reading on: any value may stand anywhere, nothing raises.

A check is a generator: it yields the problems it finds and returns what remains of its input without the faulty
parts, so that checks across parts still run on the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

MAX_SHOWN = 20
"""Problems written out in one message; the rest is counted."""

Json = dict[str, Any]


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class Problem:
    field: str
    """Path such as spec.stages[2].interfaces[0].addresses[0]."""
    value: object
    """What stands there; MISSING when nothing does."""
    message: str
    """What is wrong with it, and what to do."""

    def __str__(self) -> str:
        value = "" if self.value is MISSING or isinstance(self.value, dict | list) else f"{shown(self.value)}: "
        return f"{self.field}: {value}{self.message}"


def listing(found: Iterable[object]) -> str:
    """One problem on one line, several as a list."""
    lines = [str(problem) for problem in found]
    if len(lines) == 1:
        return lines[0]
    rest = [f"… and {len(lines) - MAX_SHOWN} more"] if len(lines) > MAX_SHOWN else []
    return f"{len(lines)} problems:" + "".join(f"\n- {line}" for line in (*lines[:MAX_SHOWN], *rest))


def shown(value: object) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else f"{text[:77]}…"


def bare(name: str) -> str:
    return shown(name).strip('"')


@dataclass(frozen=True, slots=True)
class Node:
    """A place in the object and what stands there."""

    path: str
    value: Any

    def __getitem__(self, key: str) -> Node:
        return Node(f"{self.path}.{key}".lstrip("."), self.value.get(key, MISSING))

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def problem(self, message: str) -> Problem:
        return Problem(self.path or "object", self.value, message)

    def mapping(self) -> Checks[Node]:
        """Itself, or an empty mapping in its place."""
        if isinstance(self.value, dict):
            return self
        yield self.problem("is required" if self.value is MISSING else "must be an object")
        return replace(self, value={})

    def elements(self, least: int, most: int, what: str) -> Checks[list[Node]]:
        """Its elements, or none; a list beyond the quota is reported, and read as far as the quota."""
        if not isinstance(self.value, list):
            yield self.problem(f"is required: {what}" if self.value is MISSING else f"must be a list: {what}")
            return []
        if len(self.value) < least:
            yield self.problem(f"has {len(self.value)} elements, needs {least} or more: {what}")
        if len(self.value) > most:
            yield self.problem(f"has {len(self.value)} elements, {most} are allowed: {what}")
        return [Node(f"{self.path}[{i}]", value) for i, value in enumerate(self.value[:most])]


T = TypeVar("T")
Checks = Generator[Problem, None, T]
Fault = Callable[[Any], str | None]


def sound(nodes: Iterable[Node], fault: Fault) -> Checks[list[Any]]:
    """The values without fault."""
    kept = []
    for node in nodes:
        if message := fault(node.value):
            yield node.problem(message)
        else:
            kept.append(node.value)
    return kept


def optional(node: Node, key: str, fault: Fault) -> Checks[Json]:
    """{key: value} when there is one without fault."""
    if key not in node:
        return {}
    values = yield from sound([node[key]], fault)
    return {key: values[0]} if values else {}


def named(nodes: Iterable[Node], read: Callable[[Node], Checks[Json | None]], what: str) -> Checks[list[Json]]:
    """Elements that have a name, the first of each name."""
    seen: dict[str, str] = {}
    kept = []
    for node in nodes:
        element = yield from read(node)
        if element is None:
            continue
        if element["name"] in seen:
            yield node["name"].problem(f"is the name of {seen[element['name']]} already; give each {what} its own name")
        else:
            seen[element["name"]] = node.path
            kept.append(element)
    return kept

"""Reads JSON of any shape and reports problems with their paths. Nothing here raises.

A check is a generator: it yields the problems that it finds and returns its input without the faulty parts, so that
checks across parts still run on the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, TypeVar

MAX_SHOWN = 20
"""Most problems that one message lists; it counts the rest."""

Json = dict[str, Any]


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING: Final = _Missing()
"""Stands for a value that is not there; null is a value."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an object. Its text is `path: value: message`."""

    field: str
    """Path such as spec.stages[2].interfaces[0].addresses[0]."""
    value: object
    """The value at that path, or MISSING."""
    message: str
    """What is wrong with it, and what to do."""

    def __str__(self) -> str:
        value = "" if self.value is MISSING or isinstance(self.value, dict | list) else f"{shown(self.value)}: "
        return f"{self.field}: {value}{self.message}"


def listing(found: Iterable[object]) -> str:
    """The message for these problems: a single one on one line, several as a list below their number."""
    every = list(found)
    lines = [str(problem) for problem in every[:MAX_SHOWN]]
    if len(every) == 1:
        return lines[0]
    rest = [f"… and {len(every) - MAX_SHOWN} more"] if len(every) > MAX_SHOWN else []
    return f"{len(every)} problems:" + "".join(f"\n- {line}" for line in (*lines, *rest))


def shown(value: object) -> str:
    """The value as JSON, at most 80 characters of it: text is in quotes."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else f"{text[:77]}…"


def bare(name: str) -> str:
    """The name as in `shown`, without the quotes."""
    return shown(name).strip('"')


@dataclass(frozen=True, slots=True)
class Node:
    """A path in the object and the value there.

    `node[key]` is the value of a mapping, and iteration goes through the elements of a list. Where the value is of
    another kind, there is nothing to find; `mapping` and `elements` report that as a problem.
    """

    path: str
    value: Any

    def __getitem__(self, key: str) -> Node:
        value = self.value.get(key, MISSING) if isinstance(self.value, dict) else MISSING
        return Node(f"{self.path}.{key}".lstrip("."), value)

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def __iter__(self) -> Iterator[Node]:
        found = self.value if isinstance(self.value, list) else ()
        return (Node(f"{self.path}[{i}]", value) for i, value in enumerate(found))

    def problem(self, message: str) -> Problem:
        """A problem with this value."""
        return Problem(self.path or "object", self.value, message)

    def mapping(self) -> Checks[Node]:
        """The node itself, or one with an empty mapping in its place if it is no mapping, which is a problem."""
        if isinstance(self.value, dict):
            return self
        yield self.problem("is required" if self.value is MISSING else "must be an object")
        return replace(self, value={})

    def elements(self, least: int, most: int, what: str) -> Checks[list[Node]]:
        """The elements of a list of `least` to `most`; none, and a problem, if the value is no list.

        A list that is too long is a problem, and only its first `most` elements are returned. `what` ends the message.
        """
        if not isinstance(self.value, list):
            yield self.problem(f"is required: {what}" if self.value is MISSING else f"must be a list: {what}")
            return []
        if len(self.value) < least:
            yield self.problem(f"has {len(self.value)} elements, needs {least} or more: {what}")
        if len(self.value) > most:
            yield self.problem(f"has {len(self.value)} elements, {most} are allowed: {what}")
        return list(islice(self, most))


T = TypeVar("T")
Checks = Generator[Problem, None, T]
"""Yields problems, returns the input without the faulty parts."""
Fault = Callable[[Any], str | None]
"""What is wrong with a value, as the end of a message; None for a sound one. See sfc.validation.fault."""


def sound(nodes: Iterable[Node], fault: Fault) -> Checks[list[Any]]:
    """The values without fault; each of the others is a problem."""
    kept = []
    for node in nodes:
        if message := fault(node.value):
            yield node.problem(message)
        else:
            kept.append(node.value)
    return kept


def optional(node: Node, key: str, fault: Fault) -> Checks[Json]:
    """{key: value} when the mapping has the key and the value no fault; otherwise {}."""
    if key not in node:
        return {}
    values = yield from sound([node[key]], fault)
    return {key: values[0]} if values else {}


def named(nodes: Iterable[Node], read: Callable[[Node], Checks[Json | None]], what: str) -> Checks[list[Json]]:
    """What `read` returns for each node, without None, and only the first of each name; a second one is a problem.

    `read` returns a mapping with the key `name`. `what` names the kind of element in the message.
    """
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

"""Makes one input from another. JSON is changed as a tree; otherwise the parser would refuse nearly all inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

Bytes = Callable[[bytes, int], bytes]
"""libFuzzer's own mutation of plain bytes; the number limits the result's length."""

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, -1e308),
    *("", " ", "a" * 300, "\ud800", "\0", "ü🧪", "~/~1~0", "a,b", "a@b", "{", "lo"),
    *("10.1.0.1/24", "10.1.0.1", "::1/128", "fe80::1%eth0", "0.0.0.0/0"),
    *([], {}, [[]], [{}], {"": {}}),
)


class Trees:
    """Changes JSON texts. `words` are keys and values with a meaning.

    Sometimes it begins with a seed instead, because libFuzzer prefers small inputs, and few of these have labels.
    """

    def __init__(self, seeds: list[bytes], plain: Bytes) -> None:
        self._seeds = seeds
        self._words = _words(seeds)
        self._plain = plain

    def __call__(self, data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        try:
            tree = json.loads(data if random.random() < 0.7 else random.choice(self._seeds))
        except (ValueError, RecursionError):
            return self._plain(data, most)
        if random.random() < 0.05:
            return self._plain(data, most)
        for _ in range(random.choice((1, 1, 1, 2, 3, 5))):
            tree = self._changed(tree, random)
        changed = json.dumps(tree).encode()
        return changed if len(changed) <= most else data[:most]

    def _changed(self, tree: Any, random: Random) -> Any:
        places = list(_places(tree))
        if not places:
            return self._value(tree, random)
        parent, key = random.choice(places)
        match random.randrange(8):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[random.choice(self._words)] = parent.pop(key)
            case 1:
                parent.insert(key, parent[key])
            case 2:
                other, name = random.choice(places)
                parent[key] = json.loads(json.dumps(other[name]))
            case 3 if isinstance(parent[key], dict):
                parent[key][random.choice(self._words)] = self._value(None, random)
            case 3 if isinstance(parent[key], list):
                parent[key].append(self._value(None, random))
            case 4:
                parent[key] = random.choice(([parent[key]], {random.choice(self._words): parent[key]}))
            case _:
                parent[key] = self._value(parent[key], random)
        return tree

    def _value(self, present: Any, random: Random) -> Any:
        if isinstance(present, str) and random.random() < 0.5:
            return self._plain(present.encode(errors="replace"), len(present) + 20).decode(errors="replace")
        if isinstance(present, int) and random.random() < 0.5:
            return random.choice((present + 1, present - 1, -present, present * 2))
        return deepcopy(random.choice((random.choice(ODD), random.choice(self._words))))


def _words(seeds: list[bytes]) -> list[str]:
    found = {word for seed in seeds for word in _texts(json.loads(seed))}
    return sorted(word for word in found if len(word) < 100)


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        yield from tree
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(value)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])

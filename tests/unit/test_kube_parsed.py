"""One cache for what is read from objects: once per version, and nothing of objects that are gone."""

from __future__ import annotations

from typing import Any

from kube.objects import Object
from kube.parsed import ParsedObjects

A, B = ("telco", "a"), ("telco", "b")


class Reader:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, str | None]] = []

    def __call__(self, obj: Object, before: str | None) -> str:
        self.calls.append((obj["version"], before))
        return f"v{obj['version']}"


def test_an_object_is_read_again_only_when_it_is_another_one() -> None:
    reader = Reader()
    parsed, first = ParsedObjects(reader), {"version": 1}

    parsed.all({A: first, B: {"version": 2}})
    values = parsed.all({A: first, B: {"version": 3}})

    assert values == {A: "v1", B: "v3"}
    assert reader.calls == [(1, None), (2, None), (3, "v2")]


def test_the_same_snapshot_gives_the_same_mapping() -> None:
    parsed, snapshot = ParsedObjects(Reader()), {A: {"version": 1}}

    assert parsed.all(snapshot) is parsed.all(snapshot)
    assert parsed.all({}) == {}


def test_one_object_is_read_without_the_others() -> None:
    reader = Reader()
    parsed, snapshot = ParsedObjects(reader), {A: {"version": 1}, B: {"version": 2}}

    assert [parsed.one(snapshot, A), parsed.one(snapshot, A)] == ["v1", "v1"]
    assert reader.calls == [(1, None)]


def test_an_object_that_comes_back_has_no_predecessor() -> None:
    reader = Reader()
    parsed = ParsedObjects(reader)

    parsed.one({A: {"version": 1}}, A)
    absent = parsed.one({}, A)
    parsed.one({A: {"version": 2}}, A)
    parsed.all({})
    parsed.all({A: {"version": 3}})

    assert absent is None
    assert reader.calls == [(1, None), (2, None), (3, None)]

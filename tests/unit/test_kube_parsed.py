"""What is parsed of what a watch has: only what somebody asked for, and new versions before anybody asks."""

from __future__ import annotations

from kube.parsed import ParsedObjects

A, B = ("telco", "a"), ("telco", "b")


class Parser:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str | None]] = []

    def __call__(self, stored: str, before: str | None) -> str:
        self.calls.append((stored, before))
        return f"parsed {stored}"


def test_one_object_is_parsed_once_and_without_the_others() -> None:
    parser = Parser()
    parsed, snapshot = ParsedObjects(parser), {A: "a1", B: "b1"}

    assert [parsed.one(snapshot, A), parsed.one(snapshot, A)] == ["parsed a1", "parsed a1"]
    assert parser.calls == [("a1", None)]


def test_a_new_version_is_parsed_by_the_watch_and_not_by_who_asks() -> None:
    parser = Parser()
    parsed = ParsedObjects(parser)
    parsed.one({A: "a1"}, A)

    assert parsed.one({A: "a2"}, A) == "parsed a1", "who asks does not wait"
    parsed.refresh({A: "a2", B: "b1"})

    assert parsed.one({A: "a2"}, A) == "parsed a2"
    assert parser.calls == [("a1", None), ("a2", "parsed a1")]


def test_an_object_that_comes_back_has_no_predecessor() -> None:
    parser = Parser()
    parsed = ParsedObjects(parser)

    parsed.one({A: "a1"}, A)
    absent = parsed.one({}, A)
    parsed.one({A: "a2"}, A)
    parsed.refresh({})
    parsed.one({A: "a3"}, A)

    assert absent is None
    assert parser.calls == [("a1", None), ("a2", None), ("a3", None)]


def test_what_nobody_wants_any_more_is_forgotten() -> None:
    parser = Parser()
    parsed, snapshot = ParsedObjects(parser), {A: "a1", B: "b1"}
    parsed.one(snapshot, A)
    parsed.one(snapshot, B)

    parsed.keep({B})
    parsed.refresh({A: "a2", B: "b1"})

    assert parser.calls == [("a1", None), ("b1", None)]


def test_who_asks_first_with_an_old_snapshot_does_not_keep_the_old_version() -> None:
    parsed = ParsedObjects(Parser())
    before, after = {A: "a1"}, {A: "a2"}

    parsed.refresh(after)  # nobody had asked yet

    assert parsed.one(before, A) == "parsed a2"

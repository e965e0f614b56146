"""docs/operations.md has every warning of admission with its remedy. They are found in the code: what it yields."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = (ROOT / "docs/operations.md").read_text().partition("\n## Warnings\n")[2].partition("\n## ")[0]
WARNING = re.compile(r"^\| (.*?) \| .+ \| .+ \|$", re.MULTILINE)
PHRASES = [phrase for cell in WARNING.findall(TABLE) for phrase in re.findall(r"`([^`]+)`", cell)]
SOURCES = (
    "webhook/decide/effect.py",
    "webhook/decide/replica.py",
    "webhook/decide/mutate.py",
    "sfc/validation/update.py",
    "sfc/validation/session_key.py",
    "sfc/validation/warnings.py",
)
CONSTANTS = {"BY_HAND", "TOO_LATE", "FORETOLD"}
"""Warnings that are not yielded where they are written."""


def text(node: ast.AST) -> str | None:
    """A string of the code, with … for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
    return None


def warnings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Yield) and node.value and (found := text(node.value)):
            yield found
        elif isinstance(node, ast.Assign) and {getattr(t, "id", "") for t in node.targets} & CONSTANTS:
            yield text(node.value) or ""


def fits(phrase: str, warning: str) -> bool:
    """Whether the phrase of the document is in the warning; … stands for anything."""
    return re.search(".*".join(map(re.escape, phrase.split("…"))), warning) is not None


FOUND = [warning for source in SOURCES for warning in warnings((ROOT / source).read_text())]


@pytest.mark.parametrize("warning", FOUND, ids=lambda warning: warning[:40])
def test_every_warning_of_admission_is_in_the_document(warning: str) -> None:
    assert any(fits(phrase, warning) for phrase in PHRASES)


def test_every_warning_of_the_document_is_in_the_code() -> None:
    more = (ROOT / "sfc/validation/update.py", ROOT / "deploy/injection-policy.yaml")
    others = " ".join(" ".join(path.read_text().split()) for path in more).replace('" f"', "").replace('" "', "")
    others = re.sub(r"\{[^{}]*\}", "…", others)

    assert len(FOUND) >= 20
    assert [p for p in PHRASES if not any(fits(p, warning) for warning in (*FOUND, others))] == []

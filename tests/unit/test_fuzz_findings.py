"""Inputs that once failed must pass: tests/fuzz/findings/TARGET/NAME, and the seeds from which fuzzing starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import fuzz
from tests.fuzz.targets import TARGETS

FINDINGS = sorted((Path(fuzz.__file__).parent / "findings").glob("*/*"))


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_finding_stays_mended(path: Path) -> None:
    TARGETS[path.parent.name].check(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_pass(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].check(seed)

"""SECURITY.md's table of attacks names tests that exist, and every test of an attack."""

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
TESTS = {file.name: file for file in (CHECKOUT / "tests").rglob("test_*.py")}
TENANTS = "test_tenants.py"
NO_ATTACK = {"test_a_tenant_has_rights_in_its_own_namespace_and_reads_the_victims_pods"}
"""Tests of test_tenants.py that show what the attacker has."""


def rows() -> list[list[str]]:
    """The cells of each attack: attack, what holds it off, test."""
    text = (
        (CHECKOUT / "SECURITY.md").read_text().partition("## Attacks, and what holds them off")[2].partition("\n## ")[0]
    )
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def functions(name: str) -> set[str]:
    return set(re.findall(r"^(?:async )?def (test_\w+)", TESTS[name].read_text(), re.MULTILINE))


def named(cell: str) -> list[tuple[str, str]]:
    """The tests of a cell, as (file, function or empty); a function without a file is in the file before it."""
    found = []
    file = ""
    for given, function in re.findall(r"`(?:([\w/]*test_\w+\.py)(?:::)?)?(test_\w+)?`", cell):
        file = Path(given).name or file
        found.append((file, function))
    return found


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_every_attack_names_what_holds_it_off_and_tests_that_exist(row: list[str]) -> None:
    _, holds, tests = row

    assert holds
    assert named(tests)
    for file, function in named(tests):
        assert file in TESTS
        assert not function or function in functions(file)


def test_every_attack_that_is_tried_on_a_cluster_is_in_the_table() -> None:
    shown = {function for *_, tests in rows() for file, function in named(tests) if file == TENANTS}

    assert functions(TENANTS) - NO_ATTACK - shown == set()

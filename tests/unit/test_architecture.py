"""The import contracts of the rooms can break, and the picture of the rooms can be stale."""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest
from importlinter import ContractCheck

from architecture.contracts import RoomContract, Violation

PURE = ["dataclasses", "enum"]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with two rooms, which import nothing yet."""
    for room in ("house", "house/cellar", "house/study"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "house"


def graph() -> grimp.ImportGraph:
    return grimp.build_graph("house", include_external_packages=True, cache_dir=None)


def checked(
    room: str | list[str] = "house.study", may_import: tuple[str, ...] = (), pure: str = "False"
) -> ContractCheck:
    options = {"room": room, "may_import": list(may_import), "pure": pure}
    return RoomContract("a room", {"pure": PURE}, options).check(graph(), verbose=False)


def test_a_room_imports_itself_the_standard_library_and_what_its_contract_names(house: Path) -> None:
    (house / "study/desk.py").write_text(
        "import socket\nimport attr\nimport house.study.lamp\nimport house.cellar.wine\n"
    )
    (house / "study/lamp.py").write_text("")
    (house / "cellar/wine.py").write_text("")

    assert checked(may_import=("attr", "house.cellar")).kept


@pytest.mark.parametrize("imported", ["house.cellar.wine", "attr"])
def test_an_import_that_the_contract_does_not_name_breaks_it(house: Path, imported: str) -> None:
    (house / "cellar/wine.py").write_text("")
    (house / "study/desk.py").write_text(f"import enum\nimport {imported}\n")

    check = checked()

    assert not check.kept
    assert check.metadata["found"] == [Violation("house.study.desk", imported, (2,))]


@pytest.mark.parametrize("statement", ["import socket", "from socket import socket", "def late():\n    import socket"])
def test_in_a_new_file_of_a_pure_room_socket_breaks_the_contract(house: Path, statement: str) -> None:
    (house / "study/shelf").mkdir()
    (house / "study/shelf/__init__.py").write_text("")
    (house / "study/shelf/new.py").write_text(f"import dataclasses\n{statement}\n")

    check = checked(pure="True")

    assert not check.kept
    assert [problem.imported for problem in check.metadata["found"]] == ["socket"]


def test_a_pure_room_may_import_a_module_of_the_standard_library_that_its_contract_names(house: Path) -> None:
    (house / "study/desk.py").write_text("import logging\n")

    assert not checked(pure="True").kept
    assert checked(pure="True", may_import=("logging",)).kept


def test_a_room_with_a_like_name_is_another_room(house: Path) -> None:
    (house / "study2.py").write_text("")
    (house / "study/desk.py").write_text("import house.study2\n")

    assert not checked().kept


def test_files_can_be_one_room_together(house: Path) -> None:
    (house / "door.py").write_text("import house.window\n")
    (house / "window.py").write_text("")

    assert checked(room=["house.door", "house.window"]).kept
    assert not checked(room="house.door").kept


def test_a_contract_of_a_room_that_does_not_exist_is_broken(house: Path) -> None:
    check = checked(room="house.attic")

    assert check.metadata["found"] == ["house.attic does not exist"]
    assert not check.kept


def test_a_broken_contract_says_which_line_breaks_it_and_what_is_allowed(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (house / "study/desk.py").write_text("import socket\n")
    contract = RoomContract("a room", {"pure": PURE}, {"room": "house.study", "may_import": ["attr"], "pure": "True"})

    contract.render_broken_contract(contract.check(graph(), verbose=False))

    printed = capsys.readouterr().out
    assert "house.study.desk -> socket (line 1)" in printed
    assert "may import: attr, pure modules of the standard library" in printed

"""The import contracts of the rooms can break, and the picture of the rooms can be stale."""

from __future__ import annotations

import re
from graphlib import CycleError
from pathlib import Path

import grimp
import pytest
from importlinter import ContractCheck

from architecture import picture
from architecture.contracts import RoomContract, Violation, is_in

PURE = ["dataclasses", "enum"]

CONTRACTS = """
[tool.importlinter]
root_packages = ["house"]

[[tool.importlinter.contracts]]
type = "room"
room = "house.study"

[[tool.importlinter.contracts]]
type = "room"
room = ["house.cellar"]

[[tool.importlinter.contracts]]
type = "layers"
"""


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


def test_an_import_between_files_is_an_arrow_between_their_innermost_rooms(house: Path) -> None:
    (house / "door.py").write_text("import house.study.desk\n")
    (house / "study/desk.py").write_text("import house.study.lamp\nimport house.cellar\n")
    (house / "study/lamp.py").write_text("import socket\n")

    found = picture.arrows(graph(), [("house",), ("house.study",), ("house.cellar",)])

    assert found == {("house",): {("house.study",)}, ("house.study",): {("house.cellar",)}, ("house.cellar",): set()}


def test_an_arrow_that_follows_from_others_is_left_out() -> None:
    roof, study, hall, cellar = ("roof",), ("study",), ("hall",), ("cellar",)

    drawn = picture.fewest({roof: {study, hall, cellar}, study: {cellar}, hall: {study}, cellar: set()})

    assert drawn == [(hall, study), (roof, hall), (study, cellar)]


def test_rooms_in_a_circle_have_no_picture() -> None:
    with pytest.raises(CycleError):
        picture.fewest({("study",): {("hall",)}, ("hall",): {("study",)}})


def test_the_picture_of_imports_that_changed_is_stale(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = house.parent / "docs/architecture.md"
    page.parent.mkdir()
    page.write_text(f"Before.\n{picture.BEGIN}\n{picture.END}\nAfter.\n")
    (house.parent / "pyproject.toml").write_text(CONTRACTS)
    monkeypatch.chdir(house.parent)

    monkeypatch.setattr("sys.argv", ["picture"])
    assert picture.main() == 0
    monkeypatch.setattr("sys.argv", ["picture", "--check"])
    assert picture.main() == 0

    (house / "study/desk.py").write_text("import house.cellar\n")
    assert picture.main() == 1
    assert "Run `make rooms`" in capsys.readouterr().err
    assert "house-study --> house-cellar" not in page.read_text()

    monkeypatch.setattr("sys.argv", ["picture"])
    assert picture.main() == 0
    assert "house-study --> house-cellar" in page.read_text()
    assert page.read_text().startswith("Before.\n")
    assert page.read_text().endswith("\nAfter.\n")


def test_a_page_without_the_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match="markers"):
        picture.with_picture("no markers\n", "picture")


def test_every_file_of_ours_that_a_document_names_exists() -> None:
    root = Path(__file__).resolve().parents[2]
    ours = {path.name for path in root.iterdir() if path.is_dir() and path.name != "build"}
    pages = [*root.glob("*.md"), *root.glob("docs/**/*.md")]
    named = [(page.name, path) for page in pages for path in re.findall(r"`((?:\w[\w-]*/)+[\w.-]*)`", page.read_text())]
    paths = [(page, path) for page, path in named if path.split("/")[0] in ours and "NAME" not in path]

    assert len(paths) > 50
    assert [(page, path) for page, path in paths if not (root / path).exists()] == []


def test_every_module_of_the_product_is_in_a_room() -> None:
    configuration = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    of = picture.rooms(configuration)
    product = grimp.build_graph("sfc", "kube", "certs", "webhook", "controller", cache_dir=None)

    homeless = {module for module in product.modules if not any(is_in(module, room) for room in of)}

    assert homeless == {"controller", "controller.node"}, "packages whose __init__ holds no code"

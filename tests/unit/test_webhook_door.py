"""The secret in the path, and what stands in its file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from webhook.door import Door, prefixes

SECRET = "/" + "ab3x9" * 8
OTHER = "/" + "x" * 32
ENDPOINTS = ("/mutate/pods", "/validate/chains")


def door(folder: Path, content: str) -> Door:
    (folder / "paths").write_text(content)
    made = Door(ENDPOINTS, folder)
    made.refresh()
    return made


def test_endpoints_are_behind_each_secret_of_the_file(tmp_path: Path) -> None:
    made = door(tmp_path, f"{SECRET}\n{OTHER}\n")

    assert made.endpoint(f"{SECRET}/mutate/pods".encode()) == "/mutate/pods"
    assert made.endpoint(f"{OTHER}/validate/chains".encode()) == "/validate/chains"


@pytest.mark.parametrize(
    "path",
    [
        "/mutate/pods",
        "//mutate/pods",
        f"{SECRET}",
        f"{SECRET}/",
        f"{SECRET}/mutate/pods/",
        f"{SECRET}/mutate/other",
        f"{SECRET[:-1]}/mutate/pods",
        f"{SECRET}x/mutate/pods",
        f"{SECRET.upper()}/mutate/pods",
        f"{SECRET}%2Fmutate/pods",
        "",
        "/" * 60_000,
    ],
)
def test_every_other_path_leads_nowhere(tmp_path: Path, path: str) -> None:
    assert door(tmp_path, SECRET).endpoint(path.encode()) is None


def test_a_single_slash_keeps_the_paths_of_earlier_versions_right(tmp_path: Path) -> None:
    made = door(tmp_path, f"{SECRET}\n/\n")

    assert made.endpoint(b"/mutate/pods") == "/mutate/pods"
    assert made.endpoint(f"{SECRET}/mutate/pods".encode()) == "/mutate/pods"


@pytest.mark.parametrize(
    "content", ["", "\n", "secret", "/short", "/" + "a" * 31, "/" + "a" * 31 + "é", "//" + "a" * 32]
)
def test_a_file_that_could_open_the_door_by_mistake_is_not_taken(tmp_path: Path, content: str) -> None:
    with pytest.raises(ValueError, match="run the install Job again"):
        prefixes(content)

    assert not door(tmp_path, content).loaded


def test_a_changed_file_is_taken_over_and_a_broken_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = door(tmp_path, SECRET)

    door_file = tmp_path / "paths"
    door_file.write_text(OTHER)
    made.refresh()
    door_file.write_text("broken")
    with caplog.at_level(logging.INFO):
        made.refresh()

    assert made.endpoint(f"{SECRET}/mutate/pods".encode()) is None
    assert made.endpoint(f"{OTHER}/mutate/pods".encode()) == "/mutate/pods"
    assert "cannot be read" in caplog.text
    assert OTHER[1:] not in str([vars(record) for record in caplog.records])

"""The key of the program's hashes: what comes from it, and that nobody is shown it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from controller.node.kernel.errors import DatapathError
from controller.node.kernel.hash_key import HashKey

SECRET = bytes(range(100, 132))
KEY = HashKey(SECRET)


def numbers(key: HashKey) -> list[int]:
    return [int(number, 16) for flag in key.cflags for number in re.findall(r"0x([0-9a-f]+)ULL", flag)]


def test_every_number_is_another_one_and_comes_from_the_key() -> None:
    assert len({*numbers(KEY), *numbers(HashKey(bytes(32))), KEY.note, HashKey(bytes(32)).note}) == 2 * (2 + 17 + 1)


def test_what_comes_from_a_key_is_the_same_in_every_version() -> None:
    """Nodes of two versions would choose different replicas, and could not read each other's tables."""
    choice = [0xB90CF57EDB5BADC1, 0x7AD1A3938A69E61A]

    assert numbers(KEY)[:2] == choice
    assert numbers(KEY)[2] == 0xD8234E8DD00A0A3B
    assert KEY.note == 0x23B7921350BF2934


def test_a_key_shows_nothing_of_itself() -> None:
    shown = f"{KEY} {KEY!r}"

    assert not any(f"{number:x}" in shown or str(number) in shown for number in numbers(KEY))
    assert SECRET.hex() not in shown
    assert repr(SECRET) not in shown


@pytest.mark.parametrize("content", [b"", SECRET[:-1], SECRET + b"\n"])
def test_another_number_of_bytes_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)

    with pytest.raises(
        DatapathError, match=f"{len(content)} bytes instead of 32; it is Secret sfc-hash-key"
    ) as refused:
        HashKey.read(path)

    assert "defgh" not in str(refused.value)


def test_a_missing_key_is_an_error_that_says_who_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DatapathError, match=r"No such file.*the Job sfc-install makes"):
        HashKey.read(tmp_path / "key")


def test_a_key_is_read_from_the_mounted_secret(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(SECRET)

    assert HashKey.read(tmp_path / "key").cflags == KEY.cflags

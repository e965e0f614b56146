"""The webhook's signing key: taken anew when its file changes, and kept when the new one cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from certs.signing import Signer
from webhook.signing_key import SigningKey

FIRST, SECOND = bytes(32), bytes([1]) * 32


def mounted(folder: Path, version: str, key: bytes) -> None:
    """As the kubelet changes a mounted Secret: a new directory, and a link that is exchanged."""
    (folder / version).mkdir()
    (folder / version / "key").write_bytes(key)
    (folder / "..new").symlink_to(version)
    os.replace(folder / "..new", folder / "..data")  # noqa: PTH105
    if not (folder / "key").is_symlink():
        (folder / "key").symlink_to("..data/key")


def test_a_new_key_signs_as_soon_as_it_is_there(tmp_path: Path) -> None:
    mounted(tmp_path, "1", FIRST)
    key = SigningKey(tmp_path / "key")
    before = key.sign(b"message")

    mounted(tmp_path, "2", SECOND)

    assert before == Signer(FIRST).sign(b"message")
    assert key.sign(b"message") == Signer(SECOND).sign(b"message")


def test_the_last_key_signs_on_when_the_new_one_cannot_be_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mounted(tmp_path, "1", FIRST)
    key = SigningKey(tmp_path / "key")

    mounted(tmp_path, "2", b"short")
    broken = [key.sign(b"message") for _ in range(3)]
    (tmp_path / "..data").unlink()
    gone = key.sign(b"message")
    mounted(tmp_path, "3", SECOND)

    assert {*broken, gone} == {Signer(FIRST).sign(b"message")}
    assert key.sign(b"message") == Signer(SECOND).sign(b"message")
    assert [record.message for record in caplog.records].count("signing key not usable") == 2


def test_without_a_key_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"")

    with pytest.raises(ValueError, match="32"):
        SigningKey(tmp_path / "key")
    with pytest.raises(FileNotFoundError):
        SigningKey(tmp_path / "nothing")

"""The data path, compiled once for all tests. Their nodes use it one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.node.kernel.datapath import Datapath
from tests.hash_key import HASH_KEY


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(compiled_once: None) -> None:
    pass


@pytest.fixture(scope="session")
def datapath(bpffs: Path, compiled_once: None) -> Iterator[Datapath]:
    datapath = Datapath.open(bpffs / "netns", hash_key=HASH_KEY)
    try:
        yield datapath
    finally:
        datapath.unpin()
        datapath.close()


@pytest.fixture(scope="module")
def other_datapath(bpffs: Path) -> Iterator[Datapath]:
    datapath = Datapath.open(bpffs / "other", hash_key=HASH_KEY)
    try:
        yield datapath
    finally:
        datapath.unpin()
        datapath.close()

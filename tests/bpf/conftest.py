"""The program is compiled once for all tests; every test gets maps that are empty, under a pin root of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bpf.node import Node


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("bpffs")
    subprocess.run(["mount", "-t", "bpf", "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture(scope="session")
def loaded(bpffs: Path) -> Iterator[Node]:
    node = Node(bpffs / "v1")
    try:
        yield node
    finally:
        node.close()


@pytest.fixture
def node(loaded: Node) -> Iterator[Node]:
    try:
        yield loaded
    finally:
        loaded.reset()

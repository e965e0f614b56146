"""The node of the BPF tests: the program is compiled once for all, and every test begins with empty maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bpf.node import Node


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(compiled_once: None) -> None:
    pass


@pytest.fixture(scope="session")
def loaded(bpffs: Path, compiled_once: None) -> Iterator[Node]:
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

"""What the tests without root share: the threads of an earlier test are not those of this one."""

from __future__ import annotations

from weakref import WeakSet

import pytest

from sfc import threads


@pytest.fixture(autouse=True)
def _own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads._PROCESS, "_lives", [])
    monkeypatch.setattr(threads._PROCESS, "_pools", WeakSet())

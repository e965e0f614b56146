"""Leases: one leader at a time, with any clocks and any network."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from controller.cluster.lease import DURATION_SECONDS, Election
from kube.api import ApiError

NOW = datetime(2027, 1, 1, tzinfo=UTC)


class Server:
    """Keeps one Lease like an API server: it refuses a write with an old version."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0

    def get(self, path: str) -> dict[str, Any]:
        if self.lease is None:
            raise ApiError(404, "NotFound", path)
        return copy.deepcopy(self.lease)

    def create(self, path: str, obj: dict[str, Any]) -> dict[str, Any]:
        if self.lease is not None:
            raise ApiError(409, "AlreadyExists", path)
        return self._store(obj)

    def replace(self, path: str, obj: dict[str, Any]) -> dict[str, Any]:
        if obj["metadata"].get("resourceVersion") != str(self.version):
            raise ApiError(409, "Conflict", path)
        return self._store(obj)

    def _store(self, obj: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = copy.deepcopy(obj)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return self.lease


def elections(*identities: str) -> tuple[Server, list[Election]]:
    server = Server()
    return server, [Election(server, identity) for identity in identities]  # type: ignore[arg-type]


def test_first_one_leads_and_keeps_leading() -> None:
    _, (a, b) = elections("a", "b")

    assert a.attempt(0, NOW)
    assert not b.attempt(1, NOW)
    assert a.attempt(2, NOW)
    assert not b.attempt(3, NOW)


def test_lease_that_is_renewed_is_never_taken() -> None:
    _, (a, b) = elections("a", "b")

    for second in range(0, 100, 2):
        assert a.attempt(second, NOW)
        assert not b.attempt(second, NOW)


def test_lease_is_taken_when_seen_unchanged_for_its_duration() -> None:
    _, (a, b) = elections("a", "b")
    a.attempt(0, NOW)
    b.attempt(5, NOW)

    assert not b.attempt(5 + DURATION_SECONDS - 0.1, NOW)
    assert b.attempt(5 + DURATION_SECONDS, NOW)
    assert not a.attempt(6 + DURATION_SECONDS, NOW)


def test_renew_time_of_another_machines_clock_is_not_believed() -> None:
    _, (a, b) = elections("a", "b")
    a.attempt(0, NOW.replace(year=1999))

    assert not b.attempt(1, NOW), "the lease looks 28 years old but may be renewed right now"


def test_released_lease_is_free_at_once() -> None:
    _, (a, b) = elections("a", "b")
    a.attempt(0, NOW)
    b.attempt(1, NOW)

    a.release(NOW)

    assert b.attempt(2, NOW)


def test_release_of_a_lease_that_another_holds_changes_nothing() -> None:
    server, (a, b) = elections("a", "b")
    a.attempt(0, NOW)
    before = server.version

    b.release(NOW)

    assert server.version == before


def test_of_two_that_write_at_once_one_leads() -> None:
    server, (a, _) = elections("a", "b")
    a.attempt(0, NOW)
    stale = server.get("")
    server.get = lambda path: stale  # type: ignore[method-assign]
    server.version += 1

    assert not a.attempt(2, NOW)


def test_trouble_is_not_mistaken_for_leading() -> None:
    server, (a, _) = elections("a", "b")

    def broken(path: str) -> dict[str, Any]:
        raise ApiError(0, "NoAnswer", path)

    server.get = broken  # type: ignore[method-assign]

    with pytest.raises(ApiError):
        a.attempt(0, NOW)


def test_transitions_are_counted_when_the_holder_changes_only() -> None:
    server, (a, b) = elections("a", "b")
    a.attempt(0, NOW)
    a.attempt(2, NOW)
    a.release(NOW)
    b.attempt(4, NOW)

    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 3
    assert server.lease["spec"]["holderIdentity"] == "b"

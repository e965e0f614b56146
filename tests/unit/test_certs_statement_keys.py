"""How the keys of statements are made, exchanged and published."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from certs.signing import Signer
from certs.statement_keys import ROTATE, SETTLING, SIGNS_FROM, Object, config_map, secret

NOW = datetime(2027, 1, 1, tzinfo=UTC)


def private(found: Object, name: str = "key") -> bytes:
    return base64.b64decode(found["data"][name])


def asked(found: Object) -> dict[str, Any]:
    annotations = {**(found["metadata"].get("annotations") or {}), ROTATE: "now"}
    return {**found, "metadata": {**found["metadata"], "annotations": annotations}}


def published(found: Object) -> set[str]:
    return set(found["binaryData"])


def identity(found: Object, name: str = "key") -> str:
    return Signer(private(found, name)).key_id


def test_a_key_is_made_once_and_stays() -> None:
    first = secret(None, NOW)

    assert secret(first, NOW + timedelta(days=1000)) is first
    assert (first["metadata"]["name"], first["metadata"]["namespace"]) == ("sfc-statement-key", "sfc-system")


def test_the_public_half_is_published() -> None:
    first = secret(None, NOW)

    keys = config_map(None, first)

    assert {name: base64.b64decode(value) for name, value in keys["binaryData"].items()} == {
        identity(first): Signer(private(first)).public
    }
    assert config_map(keys, first) is keys
    assert base64.b64encode(private(first)).decode() not in str(keys)


def test_the_next_key_is_published_before_it_signs() -> None:
    first = secret(None, NOW)

    during = secret(asked(first), NOW)
    early = secret(during, NOW + SETTLING - timedelta(seconds=1))
    after = secret(during, NOW + SETTLING)

    assert private(during) == private(first)
    assert during["metadata"]["annotations"][SIGNS_FROM] == "2027-01-01T00:05:00+00:00"
    assert published(config_map(None, during)) == {identity(first), identity(during, "next")}
    assert early is during
    assert private(after) == private(during, "next")
    assert set(after["data"]) == {"key"}
    assert not after["metadata"]["annotations"]


def test_a_key_that_signed_once_stays_accepted() -> None:
    first = secret(None, NOW)
    keys = config_map(None, first)
    second = secret(secret(asked(first), NOW), NOW + SETTLING)

    assert published(config_map(keys, second)) == {identity(first), identity(second)}


def test_a_key_that_was_withdrawn_is_not_published_again() -> None:
    first = secret(None, NOW)
    second = secret(secret(asked(first), NOW), NOW + SETTLING)
    withdrawn = {**config_map(None, second)}

    assert published(config_map(withdrawn, second)) == {identity(second)}


def test_a_secret_that_was_deleted_is_made_anew_and_the_former_key_stays_accepted() -> None:
    first = secret(None, NOW)
    keys = config_map(None, first)

    second = secret(None, NOW)

    assert published(config_map(keys, second)) == {identity(first), identity(second)}


@pytest.mark.parametrize("data", [{}, {"key": "not base64"}, {"key": base64.b64encode(b"short").decode()}])
def test_what_is_no_key_is_replaced(data: dict[str, str]) -> None:
    broken = {**secret(None, NOW), "data": data}

    assert len(private(secret(broken, NOW))) == 32


@pytest.mark.parametrize("written", ["soon", "2027-01-01", ""])
def test_a_time_that_nobody_can_read_does_not_stop_the_exchange(written: str) -> None:
    during = asked(secret(asked(secret(None, NOW)), NOW))
    during["metadata"]["annotations"][SIGNS_FROM] = written

    assert private(secret(during, NOW)) == private(during, "next")

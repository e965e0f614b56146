"""The keys of statements reach Secret and ConfigMap in an order in which agents know a key before it signs."""

from __future__ import annotations

import base64
import copy
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.cluster import trust
from kube.api import ApiError

NOW = datetime(2027, 1, 1, tzinfo=UTC)
SYSTEM = "/api/v1/namespaces/sfc-system"
KEY, KEYS = f"{SYSTEM}/secrets/sfc-statement-key", f"{SYSTEM}/configmaps/sfc-statement-keys"


class Server:
    """Objects by path, and the writes in order."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []

    def get(self, path: str) -> dict[str, Any]:
        if path not in self.objects:
            raise ApiError(404, "NotFound", path)
        return copy.deepcopy(self.objects[path])

    def create(self, path: str, obj: dict[str, Any]) -> dict[str, Any]:
        return self.replace(f"{path}/{obj['metadata']['name']}", obj)

    def replace(self, path: str, obj: dict[str, Any]) -> dict[str, Any]:
        self.writes.append(path.rpartition("/")[2])
        self.objects[path] = copy.deepcopy(obj)
        return obj


def keep_keys(server: Server, now: datetime = NOW) -> None:
    trust.keep_statement_keys(server, now)  # type: ignore[arg-type]


def asked_to_rotate() -> Server:
    server = Server()
    keep_keys(server)
    server.objects[KEY]["metadata"]["annotations"] = {"sfc.dev/rotate": "now"}
    server.writes.clear()
    return server


def test_the_key_of_statements_is_made_with_its_public_half() -> None:
    server = Server()

    keep_keys(server)
    keep_keys(server, NOW + timedelta(days=100))

    assert server.writes == ["sfc-statement-key", "sfc-statement-keys"]


def test_agents_learn_of_the_next_key_before_the_webhook_signs_with_it() -> None:
    server = asked_to_rotate()
    signing = server.objects[KEY]["data"]["key"]

    keep_keys(server)
    published = len(server.objects[KEYS]["binaryData"])
    keep_keys(server, NOW + timedelta(minutes=4))
    still = server.objects[KEY]["data"]["key"]
    keep_keys(server, NOW + timedelta(minutes=5))

    assert (published, still) == (2, signing)
    assert server.objects[KEY]["data"]["key"] != signing
    assert server.writes == ["sfc-statement-key", "sfc-statement-keys", "sfc-statement-key"]


def test_a_key_that_could_not_be_published_does_not_sign() -> None:
    server = asked_to_rotate()
    signing = server.objects[KEY]["data"]["key"]
    replaced = server.replace

    def without_config_maps(path: str, obj: dict[str, Any]) -> dict[str, Any]:
        if path == KEYS:
            raise ApiError(403, "Forbidden", path)
        return replaced(path, obj)

    server.replace = without_config_maps  # type: ignore[method-assign]
    for minutes in (0, 5, 10):
        with pytest.raises(ApiError):
            keep_keys(server, NOW + timedelta(minutes=minutes))

    assert server.objects[KEY]["data"]["key"] == signing


def test_a_config_map_that_was_deleted_is_made_again() -> None:
    server = Server()
    keep_keys(server)
    before = server.objects.pop(KEYS)

    keep_keys(server)

    assert server.objects[KEYS]["binaryData"] == before["binaryData"]


def test_no_key_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    server = asked_to_rotate()

    with caplog.at_level(logging.DEBUG):
        keep_keys(server)

    said = " ".join(str(vars(record)) for record in caplog.records)
    keys = list(server.objects[KEY]["data"].values())
    assert len(keys) == 2
    assert not any(key in said or base64.b64decode(key).hex() in said for key in keys)

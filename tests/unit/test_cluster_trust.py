"""Certificates reach Secrets and caBundles in an order that keeps the API server's trust."""

from __future__ import annotations

import base64
import copy
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from controller.cluster import trust
from kube.api import ApiError

NOW = datetime(2027, 1, 1, tzinfo=UTC)
PREFIX = "/api/v1/namespaces/sfc-system/secrets"
MUTATING = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/sfc"
VALIDATING = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/sfc"


def configuration(kind: str, webhooks: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {"name": "sfc", "resourceVersion": "1"},
        "webhooks": [{"name": f"{i}.sfc.dev", "clientConfig": {}} for i in range(webhooks)],
    }


class Server:
    """Objects by path, and the writes in order."""

    def __init__(self) -> None:
        self.objects = {MUTATING: configuration("Mutating", 3), VALIDATING: configuration("Validating", 1)}
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

    def patch(self, path: str, body: list[dict[str, Any]], content_type: str) -> dict[str, Any]:
        assert content_type == "application/json-patch+json"
        self.writes.append(self.objects[path]["kind"])
        for change in body:
            if change["op"] == "test":
                assert change["value"] == self.objects[path]["metadata"]["resourceVersion"]
            else:
                index = int(change["path"].split("/")[2])
                self.objects[path]["webhooks"][index]["clientConfig"]["caBundle"] = change["value"]
        return self.objects[path]

    def bundles(self) -> set[str]:
        webhooks = self.objects[MUTATING]["webhooks"] + self.objects[VALIDATING]["webhooks"]
        return {webhook["clientConfig"].get("caBundle") for webhook in webhooks}


def reconcile(server: Server, now: datetime = NOW) -> dict[str, datetime]:
    trust.keep_drain_key(server)  # type: ignore[arg-type]
    return trust.keep_certificates(server, now)  # type: ignore[arg-type]


def test_install_makes_everything_and_trust_comes_before_the_certificate() -> None:
    server = Server()

    reconcile(server)

    trusted = ["sfc-drain-key", "sfc-webhook-ca", "Mutating", "Validating"]
    assert server.writes == [*trusted, "sfc-webhook-tls", "sfc-metrics-tls"]
    authority = server.objects[f"{PREFIX}/sfc-webhook-ca"]["data"]["ca.crt"]
    assert server.bundles() == {authority}


def test_second_look_writes_nothing() -> None:
    server = Server()
    reconcile(server)
    server.writes.clear()

    reconcile(server, NOW + timedelta(hours=1))

    assert server.writes == []


def test_lost_bundle_is_written_again() -> None:
    server = Server()
    reconcile(server)
    del server.objects[MUTATING]["webhooks"][1]["clientConfig"]["caBundle"]

    reconcile(server)

    assert len(server.bundles()) == 1


def test_new_authority_is_published_beside_the_old_one() -> None:
    server = Server()
    reconcile(server)

    reconcile(server, NOW + timedelta(days=250))

    (bundle,) = server.bundles()
    assert base64.b64decode(bundle).count(b"BEGIN CERTIFICATE") == 2


def test_webhook_configuration_that_was_removed_is_no_obstacle() -> None:
    server = Server()
    del server.objects[VALIDATING]

    reconcile(server)

    assert server.writes[-2:] == ["sfc-webhook-tls", "sfc-metrics-tls"]


def test_expiries_are_those_of_authority_and_both_certificates() -> None:
    expiries = reconcile(Server())

    week = NOW + timedelta(days=7)
    assert expiries == {"authority": NOW + timedelta(days=365), "serving": week, "metrics": week}


def test_metrics_have_a_certificate_of_their_own_from_the_same_authority() -> None:
    server = Server()
    reconcile(server)

    webhook, metrics = (server.objects[f"{PREFIX}/{name}"]["data"] for name in ("sfc-webhook-tls", "sfc-metrics-tls"))

    certificate = x509.load_pem_x509_certificate(base64.b64decode(metrics["tls.crt"]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["sfc-metrics.sfc-system.svc"]
    assert webhook["tls.key"] != metrics["tls.key"], "a node's agent must not be able to pose as the webhook"
    assert webhook["ca.crt"] == metrics["ca.crt"]


def test_no_key_material_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()

    with caplog.at_level(logging.DEBUG):
        reconcile(server)

    said = " ".join(str(vars(record)) for record in caplog.records)
    assert caplog.records
    keys = [
        v for o in server.objects.values() for f, v in o.get("data", {}).items() if f in ("key", "ca.key", "tls.key")
    ]
    assert len(keys) == 4
    assert not any(key in said or base64.b64decode(key).hex() in said for key in keys)
    assert "PRIVATE" not in said

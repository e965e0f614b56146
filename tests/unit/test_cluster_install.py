"""A run of the install Job, and the order that keeps API servers' trust and the webhook's answers."""

from __future__ import annotations

import base64
import copy
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from controller.cluster import install
from controller.cluster.install import Installation, NotReadyError
from kube.api import ApiError

START = datetime(2027, 1, 1, tzinfo=UTC)
SYSTEM = "/api/v1/namespaces/sfc-system"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1"
MUTATING = f"{CONFIGURATIONS}/mutatingwebhookconfigurations/sfc"
VALIDATING = f"{CONFIGURATIONS}/validatingwebhookconfigurations/sfc"
DEPLOYMENT = "/apis/apps/v1/namespaces/sfc-system/deployments/sfc-webhook"
DOOR = f"{SYSTEM}/secrets/sfc-webhook-door"
HASH_KEY = f"{SYSTEM}/secrets/sfc-hash-key"
WANTED = list(yaml.safe_load_all((Path(__file__).parents[2] / "deploy" / "admission.yaml").read_text()))
ENDPOINTS = {"/mutate/workloads", "/mutate/pods", "/validate/chains"}

Json = dict[str, Any]


def spec(*, knows_door: bool) -> Json:
    return {"volumes": [{"secret": {"secretName": "sfc-webhook-door"}}] if knows_door else []}


def pod(name: str, created: datetime, *, knows_door: bool = True) -> Json:
    metadata = {"name": name, "creationTimestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ")}
    return {"metadata": metadata, "spec": spec(knows_door=knows_door)}


class Cluster:
    """Objects by path, the writes in order, and a clock that goes on while somebody sleeps."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {
            "/api/v1/namespaces/sfc-system": {"metadata": {"name": "sfc-system", "uid": "n-1"}},
            DEPLOYMENT: {"spec": {"template": {"spec": spec(knows_door=True)}}},
        }
        self.pods: list[Json] = []
        self.writes: list[str] = []
        self.now = START
        self.while_sleeping: Callable[[], None] = lambda: None

    def install(self, *, certificates: bool = True) -> None:
        api: Any = self
        Installation(api, WANTED, certificates=certificates, clock=lambda: self.now, sleep=self.sleep).run()

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.while_sleeping()

    def get(self, path: str, params: Json | None = None) -> Json:
        if path == f"{SYSTEM}/pods":
            assert params == {"labelSelector": "app.kubernetes.io/name=sfc-webhook"}
            return {"items": self.pods}
        if path not in self.objects:
            raise ApiError(404, "NotFound", path)
        return copy.deepcopy(self.objects[path])

    def create(self, path: str, obj: Json) -> Json:
        place = f"{path}/{obj['metadata']['name']}"
        assert place not in self.objects
        return self._put(place, obj, 1)

    def replace(self, path: str, obj: Json) -> Json:
        before = self.objects[path]["metadata"]["resourceVersion"]
        if obj["metadata"]["resourceVersion"] != before:
            raise ApiError(409, "Conflict", path)
        return self._put(path, obj, int(before) + 1)

    def _put(self, path: str, obj: Json, version: int) -> Json:
        self.writes.append(path.removeprefix(f"{SYSTEM}/secrets/").removeprefix(f"{CONFIGURATIONS}/"))
        made: Json = copy.deepcopy(obj)
        made["metadata"]["resourceVersion"] = str(version)
        self.objects[path] = made
        return copy.deepcopy(made)

    def clients(self) -> list[Json]:
        return [w["clientConfig"] for path in (MUTATING, VALIDATING) for w in self.objects[path]["webhooks"]]

    def asked(self) -> set[str]:
        """What stands before the endpoints in the configurations."""
        paths = {client["service"]["path"] for client in self.clients()}
        return {path.removesuffix(endpoint) for path in paths for endpoint in ENDPOINTS if path.endswith(endpoint)}

    def right(self) -> list[str]:
        """The lines of the door's Secret."""
        return base64.b64decode(self.objects[DOOR]["data"]["paths"]).decode().split()

    def bundles(self) -> set[str | None]:
        return {client.get("caBundle") for client in self.clients()}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def installed(cluster: Cluster) -> Cluster:
    cluster.install()
    cluster.writes.clear()
    return cluster


def of_earlier_version(cluster: Cluster) -> None:
    """Configurations as the version before wrote them, and its pods."""
    cluster.install()
    for path, wanted in zip((MUTATING, VALIDATING), WANTED, strict=True):
        cluster.objects[path] = copy.deepcopy(wanted)
        cluster.objects[path]["metadata"]["resourceVersion"] = "7"
    del cluster.objects[DOOR]
    cluster.objects[DEPLOYMENT]["spec"]["template"]["spec"] = spec(knows_door=False)
    cluster.pods = [pod("old", START - timedelta(days=1), knows_door=False)]
    cluster.writes.clear()


def test_first_run_makes_everything(cluster: Cluster) -> None:
    cluster.install()

    assert cluster.writes == [
        "sfc-hash-key",
        "sfc-webhook-ca",
        "sfc-webhook-tls",
        "sfc-metrics-tls",
        "sfc-webhook-door",
        "mutatingwebhookconfigurations/sfc",
        "validatingwebhookconfigurations/sfc",
    ]
    assert cluster.bundles() == {cluster.objects[f"{SYSTEM}/secrets/sfc-webhook-ca"]["data"]["ca.crt"]}
    assert cluster.asked() == set(cluster.right())
    assert len(cluster.right()[0]) == 65
    assert cluster.now == START, "nobody was waited for"


def test_configurations_say_what_the_file_says(installed: Cluster) -> None:
    for path, wanted in zip((MUTATING, VALIDATING), WANTED, strict=True):
        made = installed.objects[path]
        for webhook in made["webhooks"]:
            del webhook["clientConfig"]["caBundle"]
            webhook["clientConfig"]["service"]["path"] = webhook["clientConfig"]["service"]["path"][65:]
        assert made["webhooks"] == wanted["webhooks"]
        assert made["metadata"]["ownerReferences"][0]["kind"] == "Namespace", "they go with the namespace"


def test_second_run_changes_nothing_and_repairs_what_was_changed(installed: Cluster) -> None:
    before = copy.deepcopy(installed.objects)
    del installed.objects[MUTATING]["webhooks"][1]["clientConfig"]["caBundle"]
    installed.objects[VALIDATING]["webhooks"][0]["failurePolicy"] = "Ignore"

    installed.install()

    assert installed.asked() == set(installed.right())
    assert installed.bundles() == {before[MUTATING]["webhooks"][0]["clientConfig"]["caBundle"]}
    assert installed.objects[VALIDATING]["webhooks"] == before[VALIDATING]["webhooks"]
    assert not any("webhook-" in name for name in installed.writes), "no Secret"


def test_trust_in_a_renewed_authority_comes_before_its_certificate(installed: Cluster) -> None:
    installed.now += timedelta(days=2500)

    installed.install()

    order = [name for name in installed.writes if name in ("sfc-webhook-tls", "mutatingwebhookconfigurations/sfc")]
    assert order[0] == "mutatingwebhookconfigurations/sfc"
    (bundle,) = installed.bundles()
    assert bundle and base64.b64decode(bundle).count(b"BEGIN CERTIFICATE") == 2


def test_an_upgrade_asks_behind_the_secret_once_no_earlier_replica_is_left(cluster: Cluster) -> None:
    of_earlier_version(cluster)
    seen: list[tuple[set[str], list[str]]] = []

    def roll_out() -> None:
        passed = (cluster.now - START).total_seconds()
        if passed < 400:
            seen.append((cluster.asked(), cluster.right()))
        if passed > 100:
            cluster.objects[DEPLOYMENT]["spec"]["template"]["spec"] = spec(knows_door=True)
            cluster.pods = [pod("new", cluster.now), *cluster.pods[-1:]]
        if passed > 200:
            cluster.pods = [pod("new", START + timedelta(seconds=150))]

    cluster.while_sleeping = roll_out

    cluster.install()

    secret = cluster.right()[0]
    bare = [asked for asked, _ in seen if asked == {""}]
    assert len(bare) >= 200
    assert all(asked | {right[0]} <= {*(line.rstrip("/") for line in right)} for asked, right in seen), "all are right"
    assert cluster.asked() == {secret}
    assert cluster.right() == [secret], "and the bare paths no more"


def test_an_upgrade_publishes_trust_before_it_waits(cluster: Cluster) -> None:
    of_earlier_version(cluster)
    for key in ("sfc-webhook-ca", "sfc-webhook-tls"):
        del cluster.objects[f"{SYSTEM}/secrets/{key}"]

    with pytest.raises(NotReadyError, match="Deployment sfc-webhook is missing, or of an earlier version"):
        cluster.install()

    assert cluster.bundles() == {cluster.objects[f"{SYSTEM}/secrets/sfc-webhook-ca"]["data"]["ca.crt"]}
    assert f"{SYSTEM}/secrets/sfc-webhook-tls" in cluster.objects
    assert cluster.asked() == {""}
    assert "/" in cluster.right()


def test_a_new_secret_waits_until_every_replica_has_read_it(installed: Cluster) -> None:
    (former,) = installed.asked()
    installed.pods = [pod("running", START - timedelta(hours=1))]
    del installed.objects[DOOR]
    began: list[set[str]] = []
    installed.while_sleeping = lambda: began.append(installed.asked())

    installed.install()

    assert began.count({former}) >= install.SETTLING.total_seconds()
    assert installed.asked() == set(installed.right()) != {former}


@pytest.mark.parametrize("prefix", ["/short", "/../x", "//" + "a" * 40])
def test_a_path_that_somebody_wrote_by_hand_does_not_get_into_the_secret(installed: Cluster, prefix: str) -> None:
    client = installed.objects[VALIDATING]["webhooks"][0]["clientConfig"]
    client["service"]["path"] = f"{prefix}/validate/chains"

    installed.install()

    assert installed.asked() == set(installed.right())
    assert len(installed.right()) == 1


def test_a_damaged_secret_is_made_anew(installed: Cluster) -> None:
    installed.objects[DOOR]["data"]["paths"] = base64.b64encode(b"nonsense").decode()

    installed.install()

    assert installed.asked() == set(installed.right())


def test_a_run_that_broke_off_is_continued(cluster: Cluster) -> None:
    of_earlier_version(cluster)
    with pytest.raises(NotReadyError):
        cluster.install()
    secret = cluster.right()[0]
    cluster.objects[DEPLOYMENT]["spec"]["template"]["spec"] = spec(knows_door=True)
    cluster.pods = [pod("new", cluster.now)]

    cluster.install()

    assert cluster.asked() == {secret}
    assert cluster.right() == [secret]


def test_with_cert_manager_caBundles_stay_as_it_wrote_them(cluster: Cluster) -> None:  # noqa: N802
    cluster.install(certificates=False)
    for client in cluster.clients():
        client["caBundle"] = "of cert-manager"

    cluster.install(certificates=False)

    assert cluster.bundles() == {"of cert-manager"}
    assert {name for name in cluster.writes if name.startswith("sfc-")} == {"sfc-hash-key", "sfc-webhook-door"}
    annotations = cluster.objects[MUTATING]["metadata"]["annotations"]
    assert annotations == {"cert-manager.io/inject-ca-from": "sfc-system/sfc-webhook"}


def test_no_secret_is_logged(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        cluster.install()

    said = " ".join(str(vars(record)) for record in caplog.records)
    assert caplog.records
    assert cluster.right()[0][1:] not in said
    assert cluster.objects[HASH_KEY]["data"]["key"] not in said
    assert "PRIVATE" not in said


def test_the_key_of_the_hashes_stays_the_same(cluster: Cluster) -> None:
    cluster.install()
    made = base64.b64decode(cluster.objects[HASH_KEY]["data"]["key"])
    cluster.now += timedelta(days=4000)

    cluster.install()

    assert len(made) == 32
    assert base64.b64decode(cluster.objects[HASH_KEY]["data"]["key"]) == made


def test_a_damaged_key_of_the_hashes_is_replaced(installed: Cluster) -> None:
    installed.objects[HASH_KEY]["data"] = {"key": base64.b64encode(b"short").decode()}

    installed.install()

    assert len(base64.b64decode(installed.objects[HASH_KEY]["data"]["key"])) == 32


def test_agents_get_the_key_of_the_hashes_although_the_webhook_is_not_ready(cluster: Cluster) -> None:
    of_earlier_version(cluster)
    del cluster.objects[HASH_KEY]

    with pytest.raises(NotReadyError):
        cluster.install()

    assert cluster.writes[0] == "sfc-hash-key"


def test_metrics_have_a_certificate_of_their_own_from_the_same_authority(installed: Cluster) -> None:
    webhook, metrics = (
        installed.objects[f"{SYSTEM}/secrets/{name}"]["data"] for name in ("sfc-webhook-tls", "sfc-metrics-tls")
    )

    certificate = x509.load_pem_x509_certificate(base64.b64decode(metrics["tls.crt"]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["sfc-metrics.sfc-system.svc"]
    assert webhook["tls.key"] != metrics["tls.key"], "a node's agent must not be able to pose as the webhook"
    assert webhook["ca.crt"] == metrics["ca.crt"]

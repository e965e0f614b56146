"""`python -m controller install`: lets API servers find, trust and ask the webhook.

A Job of the install and a CronJob run it; nothing that keeps running has the right to write webhook configurations,
which is the right to read and change every object of the cluster. A run

1. makes the key of the node agents' hashes, for which they wait;
2. makes or renews the authority, and publishes it in the configurations that exist;
3. makes or renews the webhook's certificate, and that of metrics;
4. makes the secret part of the webhook's paths, and waits until every replica of the webhook takes it;
5. writes both configurations, with authority and paths.

So API servers trust what the webhook serves, and ask for what it answers, at every moment. A run that ends early leaves
nothing that the next one cannot continue.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from certs import door, hash_key, secrets
from controller.cluster import trust
from kube.api import ApiError, ApiServer
from kube.objects import DEPLOYMENTS, MUTATING, NAMESPACES, OVER, PODS, VALIDATING, Object
from sfc import names

log = logging.getLogger(__name__)

CONFIGURATION = "sfc"
"""Name of both webhook configurations."""
WEBHOOK = "sfc-webhook"
"""Name of the webhook's Deployment, and value of NAME_LABEL of its pods."""
NAME_LABEL = "app.kubernetes.io/name"
PATIENCE_SECONDS = 480.0
"""How long a run waits for the webhook's replicas."""
LOOK_SECONDS = 1.0
INJECTED = "cert-manager.io/inject-ca-from"
"""Annotation of the configurations: the Certificate whose authority cert-manager writes into them."""
SETTLING = timedelta(seconds=150)
"""By then, every kubelet has shown a changed Secret to its pods, and the webhook has read it."""
FOLLOW_SECONDS = 20.0
"""By then, every API server asks by the configurations that were written."""

Clock = Callable[[], datetime]


def run(argv: list[str]) -> int:
    """Returns the exit status: 1 when the run has to be repeated."""
    parser = argparse.ArgumentParser(prog="controller install", description=__doc__)
    parser.add_argument("configurations", type=Path, help="YAML of both webhook configurations, without secrets")
    parser.add_argument(
        "--no-certificates",
        action="store_true",
        help="leave the webhook's certificates and the caBundles to another program",
    )
    arguments = parser.parse_args(argv)
    try:
        wanted = list(yaml.safe_load_all(arguments.configurations.read_text(encoding="utf-8")))
        Installation(ApiServer.from_environment(), wanted, certificates=not arguments.no_certificates).run()
    except (ApiError, OSError, yaml.YAMLError, NotReadyError) as error:
        log.error("not installed; the Job tries again", extra={"error": str(error)})
        return 1
    log.info("installed")
    return 0


class NotReadyError(Exception):
    """The webhook's replicas did not get ready in time. Says what was missing."""


class Installation:
    """One run."""

    def __init__(
        self,
        api: ApiServer,
        wanted: Sequence[Object],
        *,
        certificates: bool = True,
        clock: Clock = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`wanted`: both webhook configurations, without caBundle and without the secret part of the paths."""
        self._api = api
        self._wanted = wanted
        self._certificates = certificates
        self._clock = clock
        self._sleep = sleep

    def run(self) -> None:
        """Raises ApiError and NotReadyError."""
        self._hash_key()
        found = dict(self._found())
        bundle = self._trust(found.values()) if self._certificates else None
        asked = {prefix for one in self._wanted for prefix in prefixes(one, found.get(one["kind"]))}
        secret = self._door(asked)
        present = door.present(secret)
        if asked - {present}:
            self._wait(secret)
        found = dict(self._found())
        for one in self._wanted:
            self._write(configured(one, found.get(one["kind"]), self._owner(), bundle, present))
        if asked - {present}:
            self._sleep(FOLLOW_SECONDS)
            self._door({present})

    def _found(self) -> Iterator[tuple[str, Object]]:
        """The configurations that exist, by kind."""
        for resource in (MUTATING, VALIDATING):
            if (found := trust.get(self._api, resource.path(name=CONFIGURATION))) is not None:
                yield resource.kind, {**found, "apiVersion": resource.api_version, "kind": resource.kind}

    def _trust(self, found: Iterable[Object]) -> bytes:
        """The authorities that sign, or signed, the webhook's certificate (PEM)."""
        now = self._clock()
        authority = trust.found(self._api, secrets.AUTHORITY_SECRET)
        serving = trust.found(self._api, secrets.SERVING_SECRET)
        authority = trust.store(self._api, authority, secrets.authority_secret(authority, now))
        bundle = secrets.bundle(authority, serving, now)
        for one in found:
            self._write(trusting(one, bundle))
        trust.store(self._api, serving, secrets.serving_secret(serving, authority, now))
        metrics = trust.found(self._api, secrets.METRICS_SECRET)
        wanted = secrets.serving_secret(metrics, authority, now, secrets.METRICS_SECRET, secrets.METRICS_NAMES)
        trust.store(self._api, metrics, wanted)
        return bundle

    def _hash_key(self) -> None:
        found = trust.found(self._api, names.HASH_KEY_SECRET)
        trust.store(self._api, found, hash_key.secret(found))

    def _door(self, asked: Iterable[str]) -> Object:
        found = trust.found(self._api, names.DOOR_SECRET)
        return trust.store(self._api, found, door.secret(found, asked, self._clock()))

    def _owner(self) -> Object:
        """Deleting the namespace deletes the configurations."""
        uid = self._api.get(NAMESPACES.path(name=names.SYSTEM_NAMESPACE))["metadata"]["uid"]
        return {"apiVersion": "v1", "kind": "Namespace", "name": names.SYSTEM_NAMESPACE, "uid": uid}

    def _write(self, wanted: Object) -> None:
        resource = MUTATING if wanted["kind"] == MUTATING.kind else VALIDATING
        if "resourceVersion" in wanted["metadata"]:
            self._api.replace(resource.path(name=CONFIGURATION), wanted)
        else:
            self._api.create(resource.path(), wanted)
        log.info("webhook configuration written", extra={"kind": wanted["kind"]})

    def _wait(self, secret: Object) -> None:
        """Until every replica of the webhook answers to the paths of `secret`."""
        until = self._clock() + timedelta(seconds=PATIENCE_SECONDS)
        said = None
        while lacking := self._lacking(secret):
            if self._clock() >= until:
                raise NotReadyError(lacking)
            if lacking != said:
                said = lacking
                log.info("waiting for the webhook", extra={"reason": lacking})
            self._sleep(LOOK_SECONDS)

    def _lacking(self, secret: Object) -> str | None:
        deployment = trust.get(self._api, DEPLOYMENTS.path(names.SYSTEM_NAMESPACE, WEBHOOK))
        selector = {"labelSelector": f"{NAME_LABEL}={WEBHOOK}"}
        pods = self._api.get(PODS.path(names.SYSTEM_NAMESPACE), selector)["items"]
        return lacking(deployment, pods, door.changed(secret), self._clock())


def lacking(deployment: Object | None, pods: Iterable[Object], changed: datetime, now: datetime) -> str | None:
    """Why a replica of the webhook may not answer to the paths of the door's Secret; None when each one does.

    `changed`: when the Secret did.
    """
    if deployment is None or not _mounts(deployment["spec"]["template"]["spec"]):
        return f"Deployment {WEBHOOK} is missing, or of an earlier version; apply the manifests"
    for pod in pods:
        name = pod["metadata"]["name"]
        if (pod.get("status") or {}).get("phase") in OVER:
            continue
        if not _mounts(pod["spec"]):
            return f"pod {name} is of an earlier version; a rollout replaces it"
        if now < changed + SETTLING and datetime.fromisoformat(pod["metadata"]["creationTimestamp"]) <= changed:
            return f"pod {name} may not have read Secret {names.DOOR_SECRET} yet"
    return None


def _mounts(spec: Object) -> bool:
    return any((v.get("secret") or {}).get("secretName") == names.DOOR_SECRET for v in spec.get("volumes") or ())


def prefixes(wanted: Object, found: Object | None) -> Iterator[str]:
    """What stands before the paths of `wanted` in the configuration that exists."""
    endpoints = {webhook["name"]: webhook["clientConfig"]["service"]["path"] for webhook in wanted["webhooks"]}
    for webhook in (found or {}).get("webhooks") or ():
        path = (webhook["clientConfig"].get("service") or {}).get("path") or ""
        endpoint = endpoints.get(webhook["name"])
        if endpoint and path.endswith(endpoint):
            yield path.removesuffix(endpoint)


def trusting(found: Object, bundle: bytes) -> dict[str, Any]:
    """The configuration as it is, but trusting `bundle` (PEM)."""
    changed: dict[str, Any] = copy.deepcopy(dict(found))
    for webhook in changed.get("webhooks") or ():
        webhook["clientConfig"]["caBundle"] = secrets.encoded(bundle)
    return changed


def configured(
    wanted: Object, found: Object | None, owner: Object, bundle: bytes | None, prefix: str
) -> dict[str, Any]:
    """`wanted`, with secrets, in place of `found`.

    Without a `bundle` (PEM), each webhook keeps the caBundle that it has: another program writes it.
    """
    made: dict[str, Any] = copy.deepcopy(dict(wanted))
    kept = {w["name"]: w["clientConfig"].get("caBundle") for w in (found or {}).get("webhooks") or ()}
    for webhook in made["webhooks"]:
        client = dict(webhook["clientConfig"])  # webhooks may share one, by an anchor in the YAML
        webhook["clientConfig"] = client
        client["service"] = {**client["service"], "path": f"{prefix}{client['service']['path']}"}
        if trusted := kept.get(webhook["name"]) if bundle is None else secrets.encoded(bundle):
            client["caBundle"] = trusted
    if bundle is None:
        made["metadata"]["annotations"] = {INJECTED: f"{names.SYSTEM_NAMESPACE}/{WEBHOOK}"}
    metadata: Mapping[str, Any] = (found or {}).get("metadata") or {}
    if "resourceVersion" in metadata:
        made["metadata"]["resourceVersion"] = metadata["resourceVersion"]
    made["metadata"]["ownerReferences"] = [owner]
    return made

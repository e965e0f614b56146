"""Keeps the drain key, the webhook's certificates in their Secrets, and the API server's trust in them.

The order ensures that the API server always trusts the certificate that the webhook serves: the authority is stored
first, then published in every caBundle, and only then is a certificate of it stored for the webhook.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from certs import secrets
from certs.secrets import Secret
from kube.api import JSON_PATCH, ApiError, ApiServer
from kube.objects import MUTATING, SECRETS, VALIDATING, Object
from sfc import names

log = logging.getLogger(__name__)

CONFIGURATION = "sfc"
"""Name of both webhook configurations in deploy/."""


def keep_drain_key(api: ApiServer) -> None:
    """Make the key if there is none; an existing one is never changed. Raises ApiError."""
    key = _found(api, names.DRAIN_KEY_SECRET)
    _store(api, key, secrets.drain_key_secret(key))


def keep_certificates(api: ApiServer, now: datetime) -> dict[str, datetime]:
    """Renew what is due, and publish the authorities. Returns when each certificate expires (`secrets.expiries`).

    Raises ApiError. The steps before it stay done, and the next call continues.
    """
    authority, serving, metrics = (
        _found(api, name) for name in (secrets.AUTHORITY_SECRET, secrets.SERVING_SECRET, secrets.METRICS_SECRET)
    )
    authority = _store(api, authority, secrets.authority_secret(authority, now))
    _publish(api, secrets.bundle(authority, serving, now))
    serving = _store(api, serving, secrets.serving_secret(serving, authority, now))
    metrics = _store(
        api,
        metrics,
        secrets.serving_secret(metrics, authority, now, secrets.METRICS_SECRET, secrets.METRICS_NAMES),
    )
    return secrets.expiries(authority, serving, metrics)


def patch(configuration: Object, bundle: str) -> list[dict[str, Any]]:
    """The JSON patch that gives each webhook of a configuration this caBundle (base64); empty when all have it."""
    changes = [
        {"op": "add", "path": f"/webhooks/{i}/clientConfig/caBundle", "value": bundle}
        for i, webhook in enumerate(configuration.get("webhooks") or ())
        if webhook["clientConfig"].get("caBundle") != bundle
    ]
    # The paths have positions in a list, so they are right for this version only.
    version = configuration["metadata"]["resourceVersion"]
    return [{"op": "test", "path": "/metadata/resourceVersion", "value": version}, *changes] if changes else []


def _publish(api: ApiServer, bundle: bytes) -> None:
    for path, configuration in _configurations(api):
        if changes := patch(configuration, base64.b64encode(bundle).decode()):
            api.patch(path, changes, JSON_PATCH)
            log.info("caBundle written", extra={"kind": configuration["kind"], "webhooks": len(changes) - 1})


def _configurations(api: ApiServer) -> Iterator[tuple[str, Object]]:
    """Those that exist: an administrator may have removed one."""
    for resource in (MUTATING, VALIDATING):
        path = resource.path(name=CONFIGURATION)
        if (found := _get(api, path)) is not None:
            yield path, found


def _found(api: ApiServer, name: str) -> Secret | None:
    return _get(api, SECRETS.path(names.SYSTEM_NAMESPACE, name))


def _get(api: ApiServer, path: str) -> dict[str, Any] | None:
    try:
        return api.get(path)
    except ApiError as error:
        if error.status == 404:
            return None
        raise


def _store(api: ApiServer, found: Secret | None, wanted: Secret) -> Secret:
    if wanted is found:
        return wanted
    name = wanted["metadata"]["name"]
    log.info("writing secret", extra={"secret": name})
    if found is None:
        return api.create(SECRETS.path(names.SYSTEM_NAMESPACE), wanted)
    return api.replace(SECRETS.path(names.SYSTEM_NAMESPACE, name), wanted)

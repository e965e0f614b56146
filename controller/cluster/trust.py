"""Keeps the drain key, and what Secrets of the system namespace hold."""

from __future__ import annotations

import logging
from typing import Any

from certs import secrets
from certs.secrets import Secret
from kube.api import ApiError, ApiServer
from kube.objects import SECRETS
from sfc import names

log = logging.getLogger(__name__)


def keep_drain_key(api: ApiServer) -> None:
    """Make the key if there is none; an existing one is never changed. Raises ApiError."""
    key = found(api, names.DRAIN_KEY_SECRET)
    store(api, key, secrets.drain_key_secret(key))


def found(api: ApiServer, name: str) -> Secret | None:
    """The Secret of that name, or None. Raises ApiError."""
    return get(api, SECRETS.path(names.SYSTEM_NAMESPACE, name))


def get(api: ApiServer, path: str) -> dict[str, Any] | None:
    """The object, or None when there is none. Raises ApiError."""
    try:
        return api.get(path)
    except ApiError as error:
        if error.status == 404:
            return None
        raise


def store(api: ApiServer, before: Secret | None, wanted: Secret) -> Secret:
    """Write `wanted`, unless it is the object `before`; returns it as it is now. Raises ApiError."""
    if wanted is before:
        return wanted
    name = wanted["metadata"]["name"]
    log.info("writing secret", extra={"secret": name})
    if before is None:
        return api.create(SECRETS.path(names.SYSTEM_NAMESPACE), wanted)
    return api.replace(SECRETS.path(names.SYSTEM_NAMESPACE, name), wanted)

"""Keeps the keys of statements, and what Secrets of the system namespace hold."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from certs import statement_keys
from certs.secrets import Secret
from kube.api import ApiError, ApiServer
from kube.objects import CONFIG_MAPS, SECRETS, Resource
from sfc import names

log = logging.getLogger(__name__)


def keep_statement_keys(api: ApiServer, now: datetime) -> None:
    """Make the webhook's key for statements, exchange it when that was asked for, and publish its public half.

    A key that is next is published before anything else, so that nobody signs with a key that agents cannot know.
    Raises ApiError.
    """
    key = found(api, names.STATEMENT_KEY_SECRET)
    if key:
        _publish(api, key)
    wanted = statement_keys.secret(key, now)
    if wanted is not key:
        _publish(api, store(api, key, wanted))


def _publish(api: ApiServer, keys: Secret) -> None:
    published = get(api, CONFIG_MAPS.path(names.SYSTEM_NAMESPACE, names.STATEMENT_KEYS))
    store(api, published, statement_keys.config_map(published, keys), CONFIG_MAPS)


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


def store(api: ApiServer, before: Secret | None, wanted: Secret, resource: Resource = SECRETS) -> Secret:
    """Write `wanted`, unless it is the object `before`; returns it as it is now. Raises ApiError."""
    if wanted is before:
        return wanted
    name = wanted["metadata"]["name"]
    log.info("writing", extra={"kind": resource.kind, "object": name})
    if before is None:
        return api.create(resource.path(names.SYSTEM_NAMESPACE), wanted)
    return api.replace(resource.path(names.SYSTEM_NAMESPACE, name), wanted)

"""The Secrets as they should be, from the Secrets as they are and the time. Pure, except that keys are random.

Each `…_secret` function takes an object as the API server returned it, or None, and returns the object as it should be:
the same Python object when nothing has to change.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from certs import authority
from certs.authority import Instant, KeyPair
from sfc import names

AUTHORITY_SECRET = "sfc-webhook-ca"  # noqa: S105  # the name of one
SERVING_SECRET = "sfc-webhook-tls"  # noqa: S105  # the name of one
METRICS_SECRET = "sfc-metrics-tls"  # noqa: S105  # the name of one
METRICS_NAMES = (f"sfc-metrics.{names.SYSTEM_NAMESPACE}.svc",)
"""One for all who serve metrics, whose addresses change. No Service has it: whoever scrapes gives it as server name."""
SERVICE_NAMES = tuple(f"sfc-webhook.{names.SYSTEM_NAMESPACE}{suffix}" for suffix in ("", ".svc", ".svc.cluster.local"))
EXPIRES = "sfc.dev/expires"
"""Annotation of a Secret: when its certificate expires (ISO 8601). It is for people: `kubectl describe` shows it, and
hides the key."""

Secret = Mapping[str, Any]

# The present authority and the one before it, as fields of the Secret.
_PRESENT = ("ca.crt", "ca.key")
_PREVIOUS = ("previous.crt", "previous.key")


def authority_secret(found: Secret | None, now: Instant) -> Secret:
    """With an authority in the first two thirds of its life, and the one before it while that is valid."""
    pairs = authorities(found, now)
    if not pairs or authority.due(pairs[0].parsed, now):
        pairs = [authority.new_authority(now), *pairs[:1]]
    return _with(found, AUTHORITY_SECRET, "Opaque", _stored(pairs), certificate=_PRESENT[0])


def authorities(found: Secret | None, now: Instant) -> list[KeyPair]:
    """The authorities of the Secret that are usable, the present one first."""
    pairs = [_pair(found, *fields) for fields in (_PRESENT, _PREVIOUS)]
    return [pair for pair in pairs if authority.usable(pair, now)]


def bundle(authority_found: Secret | None, serving_found: Secret | None, now: Instant) -> bytes:
    """The authorities that API servers should trust (PEM).

    They are ours, and those that may have signed the webhook's present certificate. The latter are read from the
    serving Secret, so that deleting the authority's Secret breaks nothing. They are left out once every webhook must
    have loaded a certificate of ours: an authority whose key leaked can be deleted.
    """
    ours = [field(authority_found, certificate) for certificate, _ in (_PRESENT, _PREVIOUS)]
    settled = authority.settled(field(serving_found, "tls.crt"), authorities(authority_found, now), now)
    inherited = [] if settled else [field(serving_found, "ca.crt")]
    return authority.trusted([*ours, *inherited], now)


def serving_secret(
    found: Secret | None,
    authority_found: Secret,
    now: Instant,
    name: str = SERVING_SECRET,
    dns_names: tuple[str, ...] = SERVICE_NAMES,
) -> Secret:
    """With a certificate for `dns_names` in the first two thirds of its life, by an authority of `authority_found`."""
    present = authorities(authority_found, now)
    pair = _pair(found, "tls.crt", "tls.key")
    if authority.reason_to_renew(pair, present, dns_names, now):
        pair = authority.new_serving(authority.signer(present, now), dns_names, now)
    data = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": bundle(authority_found, found, now)}
    return _with(found, name, "kubernetes.io/tls", data, certificate="tls.crt")


def _stored(pairs: list[KeyPair]) -> dict[str, bytes]:
    stored: dict[str, bytes] = {}
    for (certificate, key), pair in zip((_PRESENT, _PREVIOUS), pairs, strict=False):
        stored |= {certificate: pair.certificate, key: pair.key}
    return stored


def stored(found: Secret | None, name: str, kind: str, data: Mapping[str, bytes], notes: Mapping[str, str]) -> Secret:
    """`found` with this content (itself when it has it), or a new Secret. `notes`: annotations."""
    secret = found or _empty(name, kind)
    annotations = secret["metadata"].get("annotations") or {}
    wanted = {**annotations, **notes}
    content = {part: encoded(value) for part, value in data.items()}
    if secret.get("data") == content and annotations == wanted:
        return secret
    return {**secret, "metadata": {**secret["metadata"], "annotations": wanted}, "data": content}


def encoded(value: bytes) -> str:
    """As Kubernetes writes bytes."""
    return base64.b64encode(value).decode()


def _with(found: Secret | None, name: str, kind: str, data: Mapping[str, bytes], certificate: str = "") -> Secret:
    """`certificate`: the field for EXPIRES."""
    notes = {EXPIRES: authority.expiry(data[certificate]).isoformat()} if certificate else {}
    return stored(found, name, kind, data, notes)


def _empty(name: str, kind: str) -> Secret:
    metadata = {"name": name, "namespace": names.SYSTEM_NAMESPACE, "labels": {"app.kubernetes.io/part-of": "sfc"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind}


def _pair(found: Secret | None, certificate: str, key: str) -> KeyPair:
    return KeyPair(field(found, certificate), field(found, key))


def field(found: Secret | None, name: str) -> bytes:
    """The content of a field. Empty when the field is missing or cannot be decoded."""
    try:
        return base64.b64decode(((found or {}).get("data") or {}).get(name, ""), validate=True)
    except (binascii.Error, TypeError):
        return b""

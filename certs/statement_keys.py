"""The keys of statements, as Secret and ConfigMap should hold them, from what they hold and the time. Pure, except that
keys are random.

The Secret has the private key that the webhook signs with. After somebody asked for a new one (annotation ROTATE), it
also has the next key. Node agents learn its public half first, and after SETTLING the webhook signs with it. The
ConfigMap has the public halves of both, and of every key before: pods that such a key signed for may get a new sandbox
at any time. To withdraw a key that leaked, delete its line.

Both functions take an object as the API server returned it, or None, and return the object as it should be: the same
Python object when nothing has to change.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from certs.signing import KEY_BYTES, Signer, new_private_key
from sfc import names

SETTLING = timedelta(minutes=5)
"""For the kubelets to give a new public key to their node agents; they look every minute or two."""
ROTATE = "sfc.dev/rotate"
"""Annotation of the Secret that asks for a new key, whatever its value."""
SIGNS_FROM = "sfc.dev/signs-from"
"""Annotation of the Secret with the time (ISO 8601) from which the next key signs."""

Object = Mapping[str, Any]

_NEXT = "next"


def secret(found: Object | None, now: datetime) -> Object:
    """With a key to sign with, and the next one for as long as agents learn of it."""
    signing, following = (_private(found, name) for name in (names.STATEMENT_KEY_FIELD, _NEXT))
    wanted = dict((found or {}).get("metadata", {}).get("annotations") or {})
    if following and now >= _time(wanted.get(SIGNS_FROM), now):
        signing, following = following, None
        wanted.pop(SIGNS_FROM, None)
        wanted.pop(ROTATE, None)
    elif ROTATE in wanted and signing and not following:
        following = new_private_key()
        wanted[SIGNS_FROM] = (now + SETTLING).isoformat(timespec="seconds")
    keys = {names.STATEMENT_KEY_FIELD: signing or new_private_key()} | ({_NEXT: following} if following else {})
    data = {name: base64.b64encode(key).decode() for name, key in keys.items()}
    present = found or _empty("Secret", names.STATEMENT_KEY_SECRET) | {"type": "Opaque"}
    if present.get("data") == data and (present["metadata"].get("annotations") or {}) == wanted:
        return present
    return {**present, "metadata": {**present["metadata"], "annotations": wanted}, "data": data}


def config_map(found: Object | None, keys: Object) -> Object:
    """With the public halves of the keys in the Secret `keys`, and of those that it has already."""
    private = [key for name in (names.STATEMENT_KEY_FIELD, _NEXT) if (key := _private(keys, name))]
    public = {signer.key_id: base64.b64encode(signer.public).decode() for signer in map(Signer, private)}
    present = found or _empty("ConfigMap", names.STATEMENT_KEYS)
    before = present.get("binaryData") or {}
    after = {**before, **public}
    return present if after == before else {**present, "binaryData": after}


def _private(found: Object | None, name: str) -> bytes | None:
    """None when the field is missing, or is no key."""
    try:
        key = base64.b64decode(((found or {}).get("data") or {}).get(name, ""), validate=True)
    except (binascii.Error, TypeError):
        return None
    return key if len(key) == KEY_BYTES else None


def _time(written: object, otherwise: datetime) -> datetime:
    """`otherwise` for what is no time with a zone: whoever changed it by hand must not stop the rotation."""
    try:
        time = datetime.fromisoformat(str(written))
    except ValueError:
        return otherwise
    return time if time.tzinfo else otherwise


def _empty(kind: str, name: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": names.SYSTEM_NAMESPACE, "labels": {"app.kubernetes.io/part-of": "sfc"}}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata}

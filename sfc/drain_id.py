"""The drain id: what names one pod between its PreStop hook, its host links and the node agent, before it has a UID.

An id is 16 hex digits for the admission request and 16 that bind it to the pod under the cluster's drain key. So an id
survives a second pass through admission, while a copy of the pod under another name (an exported manifest,
`kubectl debug --copy-to`) gets an id of its own, and nobody can make one up.
"""

from __future__ import annotations

import hashlib
import hmac

_HALF = 16


def make(key: bytes, request_uid: str, namespace: str, name: str) -> str:
    """32 hex digits. `name` is the pod's name, or its generateName while it has none."""
    nonce = hashlib.sha256(request_uid.encode(errors="surrogatepass")).hexdigest()[:_HALF]
    return nonce + _bound(key, nonce, namespace, name)


def belongs(key: bytes, drain_id: str, namespace: str, name: str) -> bool:
    """Whether `make` gave this id to this pod."""
    return _same(drain_id[_HALF:], _bound(key, drain_id[:_HALF], namespace, name))


def sign(key: bytes, drain_id: str) -> str:
    """Hex HMAC-SHA256; what the PreStop hook shows to the node agent."""
    return _mac(key, drain_id)


def verify(key: bytes, drain_id: str, signature: str) -> bool:
    """In constant time."""
    return _same(signature, sign(key, drain_id))


def _bound(key: bytes, nonce: str, namespace: str, name: str) -> str:
    return _mac(key, f"{nonce}/{namespace}/{name}")[:_HALF]


def _mac(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode())

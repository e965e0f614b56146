"""The drain id: the name of one pod between its PreStop hook, its host links and the node agent.

It is made at admission, when the pod has no UID yet: 16 hex digits from the admission request, then 16 that bind it to
the pod under the cluster's drain key. A pod that passes admission twice keeps its id. A copy of the pod under another
name (an exported manifest, `kubectl debug --copy-to`) gets an id of its own. Nobody can invent an id without the key.
"""

from __future__ import annotations

import hashlib
import hmac

_HALF = 16


def make(key: bytes, request_uid: str, namespace: str, name: str) -> str:
    """A new id: 32 hex digits. `name` is the pod's name, or its generateName while it has no name."""
    nonce = hashlib.sha256(request_uid.encode(errors="surrogatepass")).hexdigest()[:_HALF]
    return nonce + _bound(key, nonce, namespace, name)


def belongs(key: bytes, drain_id: str, namespace: str, name: str) -> bool:
    """True when `make` returned this id for this pod, for any request. Compares in constant time."""
    return _same(drain_id[_HALF:], _bound(key, drain_id[:_HALF], namespace, name))


def _bound(key: bytes, nonce: str, namespace: str, name: str) -> str:
    return _mac(key, f"{nonce}/{namespace}/{name}")[:_HALF]


def _mac(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode())

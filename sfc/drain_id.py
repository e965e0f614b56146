"""The drain id: the name of one pod between its PreStop hook, its host links and the node agent.

It is made at admission, when the pod has no UID yet, of the admission request's UID, which the API server chooses at
random for each request. So a copy of a pod, under whatever name, gets an id of its own. The signed statement of each
interface (sfc.statement) binds the id to the pod's links, so it is no secret.
"""

from __future__ import annotations

import hashlib

_DIGITS = 32


def make(request_uid: str) -> str:
    """The id that an admission request gives: 32 hex digits."""
    return hashlib.sha256(request_uid.encode(errors="surrogatepass")).hexdigest()[:_DIGITS]

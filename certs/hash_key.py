"""The Secret with the key of the hashes of the node agents' program (bpf/hash.h). Pure, but keys are random."""

from __future__ import annotations

import secrets as random

from certs import secrets
from certs.secrets import Secret
from sfc import names


def secret(found: Secret | None) -> Secret:
    """With a key. The same object when it has one: a key is never exchanged for another one."""
    if len(secrets.field(found, names.HASH_KEY_FIELD)) == names.HASH_KEY_BYTES:
        assert found is not None  # noqa: S101
        return found
    data = {names.HASH_KEY_FIELD: random.token_bytes(names.HASH_KEY_BYTES)}
    return secrets.stored(found, names.HASH_KEY_SECRET, "Opaque", data, {})

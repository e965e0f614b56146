"""Signatures (Ed25519, RFC 8032) of the webhook, which node agents verify: sfc.statement says what is signed.

A signature is written as `KEY-ID.SIGNATURE`: 16 hex digits of the public key's SHA-256, then base64url without padding.
The id lets a verifier choose among the public keys that it accepts, and name the one that it lacks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY_BYTES = 32
"""Of a private key, and of a public one, both raw."""

_SIGNATURE = re.compile(r"([0-9a-f]{16})\.([A-Za-z0-9_-]{86})")


class Signer:
    """Signs with one private key. May be used from any thread. The key is not in `repr`, and so in no log."""

    def __init__(self, private: bytes) -> None:
        """`private`: KEY_BYTES. Raises ValueError for another number of bytes."""
        self._key = Ed25519PrivateKey.from_private_bytes(private)
        self.public = self._key.public_key().public_bytes_raw()
        """The public key that belongs to it."""
        self.key_id = key_id(self.public)

    def sign(self, message: bytes) -> str:
        """The signature of the message; the same again for the same message."""
        return f"{self.key_id}.{base64.urlsafe_b64encode(self._key.sign(message)).decode().rstrip('=')}"


def new_private_key() -> bytes:
    """KEY_BYTES at random."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def key_id(public: bytes) -> str:
    """16 hex digits."""
    return hashlib.sha256(public).hexdigest()[:16]


def signer_of(signature: str) -> str | None:
    """The id of the key that a signature names; None for a text that is no signature."""
    match = _SIGNATURE.fullmatch(signature)
    return match[1] if match else None


def verify(public: bytes, message: bytes, signature: str) -> bool:
    """Whether `signature` is one of this message by this public key. False for bytes that are no public key."""
    match = _SIGNATURE.fullmatch(signature)
    if not match or match[1] != key_id(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(base64.urlsafe_b64decode(match[2] + "=="), message)
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True

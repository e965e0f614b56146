"""Signatures, and the keys that make them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from certs.signing import Signer, key_id, new_private_key, signer_of, verify

SIGNER, OTHER = Signer(bytes(32)), Signer(bytes([1]) * 32)


def test_a_signature_is_verified_by_the_key_that_made_it_alone() -> None:
    signature = SIGNER.sign(b"message")

    assert verify(SIGNER.public, b"message", signature)
    assert not verify(OTHER.public, b"message", signature)
    assert not verify(SIGNER.public, b"another message", signature)


def test_a_signature_that_names_another_key_is_none_of_that_key() -> None:
    _, _, written = SIGNER.sign(b"message").partition(".")

    assert not verify(SIGNER.public, b"message", f"{OTHER.key_id}.{written}")
    assert not verify(OTHER.public, b"message", f"{OTHER.key_id}.{written}")


def test_a_signature_names_its_key() -> None:
    assert signer_of(SIGNER.sign(b"message")) == SIGNER.key_id == key_id(SIGNER.public)


def test_every_key_is_another_one() -> None:
    assert new_private_key() != new_private_key()


def test_a_key_is_not_shown() -> None:
    private = new_private_key()

    assert private.hex() not in repr(Signer(private))


@given(st.text(max_size=120), st.binary(max_size=40), st.binary(max_size=40))
def test_whatever_is_written_is_refused(signature: str, public: bytes, message: bytes) -> None:
    assert not verify(public, message, signature)
    assert not verify(public, message, f"{key_id(public)}.{'A' * 86}")


@given(st.text(max_size=120))
def test_only_16_hex_digits_become_the_name_of_a_file(signature: str) -> None:
    named = signer_of(signature)

    assert named is None or (len(named) == 16 and set(named) <= set("0123456789abcdef"))

"""The webhook's certificates through time: always valid, always trusted, renewed early, never lost."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given, settings
from hypothesis import strategies as st

from certs import authority, secrets

START = datetime(2027, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NAME = "sfc-webhook.sfc-system.svc"

State = tuple[secrets.Secret, secrets.Secret]


def pass_at(now: datetime, state: tuple[secrets.Secret | None, secrets.Secret | None] = (None, None)) -> State:
    """One run of the install Job, its Secrets only."""
    ca = secrets.authority_secret(state[0], now)
    return ca, secrets.serving_secret(state[1], ca, now)


def trusts(bundle: bytes, serving: secrets.Secret, now: datetime) -> bool:
    """Whether an API server with this caBundle would accept the webhook's certificate for its service name."""
    verifier = (
        PolicyBuilder()
        .store(Store(x509.load_pem_x509_certificates(bundle)))
        .time(now)
        .build_server_verifier(x509.DNSName(NAME))
    )
    try:
        verifier.verify(x509.load_pem_x509_certificate(field(serving, "tls.crt")), [])
    except VerificationError:
        return False
    return True


def field(secret: secrets.Secret, name: str) -> bytes:
    return base64.b64decode(secret["data"][name])


def bundle(state: State, now: datetime) -> bytes:
    return secrets.bundle(*state, now)


def test_first_pass_makes_a_certificate_that_its_bundle_trusts() -> None:
    state = pass_at(START)

    assert trusts(bundle(state, START), state[1], START)


def test_nothing_changes_while_nothing_is_due() -> None:
    first = pass_at(START)

    again = pass_at(START + 4 * DAY, first)

    assert again[0] is first[0]
    assert again[1] is first[1]


def test_serving_certificate_is_renewed_at_two_thirds_of_its_life() -> None:
    first = pass_at(START)

    early = pass_at(START + timedelta(days=59), first)
    late = pass_at(START + timedelta(days=61), first)

    assert early[1] is first[1]
    assert field(late[1], "tls.crt") != field(first[1], "tls.crt")
    assert field(late[1], "tls.key") != field(first[1], "tls.key")


def test_new_authority_joins_the_old_one_and_does_not_sign_at_once() -> None:
    first = pass_at(START)
    renewal = START + 2450 * DAY

    renewed = pass_at(renewal, first)

    assert len(x509.load_pem_x509_certificates(bundle(renewed, renewal))) == 2
    assert trusts(bundle(first, renewal), renewed[1], renewal), "API servers that know only the old authority"


@settings(max_examples=30)
@given(st.lists(st.integers(min_value=1, max_value=50), min_size=1, max_size=40), st.integers(0, 2600))
def test_never_expired_and_old_and_new_trust_overlap(hours: list[int], lead_in: int) -> None:
    """For any times of the passes, at most 50 hours apart. API servers and webhooks may both lag behind, so what API
    servers trusted before a pass must accept what the webhook serves after it, and the other way round."""
    now = START
    ca = secrets.authority_secret(None, now - lead_in * DAY)
    state = pass_at(now, (ca, None))
    for step in hours * 4:
        before, trusted_before = state, bundle(state, now)
        now += timedelta(hours=step)

        state = pass_at(now, before)

        for served in (before[1], state[1]):
            for trust in (trusted_before, bundle(state, now)):
                assert trusts(trust, served, now)


def test_losing_the_authority_keeps_the_webhook_trusted() -> None:
    first = pass_at(START)

    after = pass_at(START + DAY, (None, first[1]))

    assert trusts(bundle(after, START + DAY), first[1], START + DAY), "pods that still serve the old certificate"
    assert trusts(bundle(after, START + DAY), after[1], START + DAY)


def test_authority_that_was_deleted_is_trusted_until_every_replica_serves_the_new_certificate() -> None:
    first = pass_at(START)
    replaced = pass_at(START + DAY, (None, first[1]))

    soon = pass_at(START + DAY + timedelta(minutes=59), replaced)
    later = pass_at(START + DAY + timedelta(minutes=61), replaced)

    assert trusts(bundle(soon, START + DAY), first[1], START + DAY)
    assert not trusts(bundle(later, START + DAY + timedelta(minutes=61)), first[1], START + DAY)
    assert later[1]["data"]["ca.crt"] == later[0]["data"]["ca.crt"], "pods are not told of the old one either"


def test_after_a_long_sleep_everything_is_made_anew() -> None:
    first = pass_at(START)
    later = START + 4000 * DAY

    state = pass_at(later, first)

    assert trusts(bundle(state, later), state[1], later)
    assert len(x509.load_pem_x509_certificates(bundle(state, later))) == 1


def test_serving_certificate_never_outlives_its_authority() -> None:
    ca = authority.new_authority(START)
    near_the_end = START + 3600 * DAY

    serving = authority.new_serving(ca, [NAME], near_the_end)

    assert serving.parsed.not_valid_after_utc == ca.parsed.not_valid_after_utc


@pytest.mark.parametrize("damage", ["tls.crt", "tls.key"])
@pytest.mark.parametrize("content", ["", "!", "aGVsbG8="])
def test_damaged_serving_secret_is_repaired(damage: str, content: str) -> None:
    first = pass_at(START)
    damaged: dict[str, Any] = {**first[1], "data": {**first[1]["data"], damage: content}}

    state = pass_at(START, (first[0], damaged))

    assert trusts(bundle(state, START), state[1], START)
    assert field(state[1], "tls.crt") != field(first[1], "tls.crt")


def test_key_of_another_certificate_is_replaced() -> None:
    first, other = pass_at(START), pass_at(START)
    mixed: dict[str, Any] = {**first[1], "data": {**first[1]["data"], "tls.key": other[1]["data"]["tls.key"]}}

    state = pass_at(START, (first[0], mixed))

    assert authority.usable(authority.KeyPair(field(state[1], "tls.crt"), field(state[1], "tls.key")), START)


def test_other_fields_of_a_secret_survive_renewal() -> None:
    ca, serving = pass_at(START)
    stored: dict[str, Any] = {**serving, "metadata": {**serving["metadata"], "resourceVersion": "7"}}

    renewed = secrets.serving_secret(stored, ca, START + 65 * DAY)

    assert renewed["metadata"]["resourceVersion"] == "7"
    assert renewed["metadata"]["labels"] == stored["metadata"]["labels"]


def test_both_secrets_show_when_their_certificate_expires() -> None:
    state = pass_at(START)

    shown = [secret["metadata"]["annotations"]["sfc.dev/expires"] for secret in state]

    assert shown == ["2036-12-29T00:00:00+00:00", "2027-04-01T00:00:00+00:00"]


def test_shown_expiry_that_somebody_changed_is_put_right() -> None:
    ca, serving = pass_at(START)
    changed: dict[str, Any] = {**serving, "metadata": {**serving["metadata"], "annotations": {"mine": "kept"}}}

    again = secrets.serving_secret(changed, ca, START)

    assert again["metadata"]["annotations"] == {"mine": "kept", **serving["metadata"]["annotations"]}


def test_keys_do_not_show_in_representations() -> None:
    pair = authority.new_authority(START)

    assert "PRIVATE KEY" not in repr(pair)
    assert "CERTIFICATE" not in f"{pair}"

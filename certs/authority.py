"""Certificates (X.509, PEM): made, and checked. Time is an argument; nothing here is stored or sent.

A certificate is renewed at two thirds of its life. A renewed authority and the one before it are trusted together, and
the new one signs nothing until every API server had time to learn of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFETIME = timedelta(days=3650)
SERVING_LIFETIME = timedelta(days=90)
"""The CronJob that renews it may fail for a month before it expires."""
BACKDATED = timedelta(minutes=10)
"""A certificate is valid from this long before it is made: the clocks of other machines may be slow."""
SETTLING = timedelta(hours=1)
"""A new authority is published for this long before it signs."""

Instant = datetime
"""Always with a time zone."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM. Neither is in `repr`, and so in no log."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "KeyPair(…)"

    @property
    def parsed(self) -> x509.Certificate:
        """The certificate. Raises ValueError when it cannot be read."""
        return x509.load_pem_x509_certificate(self.certificate)


def new_authority(now: Instant) -> KeyPair:
    """A self-signed authority that may sign servers' certificates only, valid for AUTHORITY_LIFETIME."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # Verifiers look authorities up by name: the serial number makes each name unique.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"sfc-webhook-ca-{serial:040x}"[:64])])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _template(name, name, key.public_key(), now, now + AUTHORITY_LIFETIME)
        .serial_number(serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def new_serving(signer: KeyPair, names: Iterable[str], now: Instant) -> KeyPair:
    """A server's certificate for these DNS names, valid for SERVING_LIFETIME but never longer than its signer.

    `signer`: must be `usable`.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    authority = signer.parsed
    authority_key = serialization.load_pem_private_key(signer.key, None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)  # noqa: S101  # usable() checked it
    dns_names = [x509.DNSName(name) for name in names]
    # The common name is for people; verifiers read the alternative names (RFC 9525).
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sfc-webhook")])
    end = min(now + SERVING_LIFETIME, authority.not_valid_after_utc)
    certificate = (
        _template(subject, authority.subject, key.public_key(), now, end)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(dns_names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    return _pair(certificate, key)


def usable(pair: KeyPair, now: Instant) -> bool:
    """Whether certificate and key can be read and belong together, and the certificate is valid `now`."""
    try:
        certificate = pair.parsed
        key = serialization.load_pem_private_key(pair.key, None)
    except (ValueError, TypeError):
        return False
    return (
        isinstance(key, ec.EllipticCurvePrivateKey)
        and key.public_key() == certificate.public_key()
        and certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc
    )


def due(certificate: x509.Certificate, now: Instant) -> bool:
    """Whether two thirds of the certificate's life are over."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= start + (end - start) * 2 / 3


def signer(authorities: Iterable[KeyPair], now: Instant) -> KeyPair:
    """The newest authority that was published for SETTLING, else the oldest one. Raises ValueError without any."""
    by_age = sorted(authorities, key=lambda pair: pair.parsed.not_valid_before_utc, reverse=True)
    if not by_age:
        raise ValueError("no authority to sign with")
    known = (pair for pair in by_age if now >= pair.parsed.not_valid_before_utc + BACKDATED + SETTLING)
    return next(known, by_age[-1])


def reason_to_renew(serving: KeyPair, authorities: Iterable[KeyPair], names: Iterable[str], now: Instant) -> str | None:
    """Why the serving certificate must be replaced; None when it need not be."""
    if not usable(serving, now):
        return "it is missing, unreadable or not in force"
    certificate = serving.parsed
    if _dns_names(certificate) != set(names):
        return "it is for other names"
    if not any(_signed_by(certificate, authority.parsed) for authority in authorities):
        return "none of the present authorities signed it"
    if due(certificate, now):
        return "two thirds of its life are over"
    return None


def settled(serving: bytes, authorities: Iterable[KeyPair], now: Instant) -> bool:
    """Whether one of these signed the serving certificate (PEM), and every webhook had time (SETTLING) to load it."""
    certificates = _certificates(serving)
    if not certificates or now < certificates[0].not_valid_before_utc + BACKDATED + SETTLING:
        return False
    return any(_signed_by(certificates[0], authority.parsed) for authority in authorities)


def trusted(bundles: Iterable[bytes], now: Instant) -> bytes:
    """One PEM bundle of every certificate in `bundles` that has not expired, each once, the newest first.

    Bundles that cannot be read are left out.
    """
    certificates = {c for bundle in bundles for c in _certificates(bundle) if now < c.not_valid_after_utc}
    newest_first = sorted(certificates, key=lambda c: (c.not_valid_before_utc, c.serial_number), reverse=True)
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in newest_first)


def expiry(certificate: bytes) -> Instant:
    """The end of a certificate's validity. `certificate`: PEM. Raises ValueError when it cannot be read."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def _template(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: Instant, end: Instant
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def _dns_names(certificate: x509.Certificate) -> set[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return set(extension.value.get_values_for_type(x509.DNSName))


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _certificates(bundle: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return []

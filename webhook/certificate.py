"""The serving certificate, reloaded when its files change, without a restart and without a dropped request."""

from __future__ import annotations

import logging
import ssl
from contextlib import suppress
from pathlib import Path

from prometheus_client import Gauge

from certs import authority
from webhook.callers import Callers

log = logging.getLogger(__name__)

AUTHORITY_EXPIRY = Gauge("sfc_authority_expiry_timestamp_seconds", "When the authority of that certificate expires.")
EXPIRY = Gauge("sfc_served_certificate_expiry_timestamp_seconds", "When the certificate in service expires.")
"""Of the certificate that this process serves, which may be older than the one in the Secret."""


class ServingCertificate:
    """`context` serves what tls.crt and tls.key in `directory` held at the last successful `refresh`.

    With `callers`, the handshake of everybody else fails. Raises OSError when their authority cannot be used.
    """

    def __init__(self, directory: Path, callers: Callers | None = None) -> None:
        self._directory = directory
        self._current: tuple[bytes, bytes] | None = None
        self.context = _empty_context()
        self.callers = callers
        if callers:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(callers.authority)

    @property
    def loaded(self) -> bool:
        """True once there is a certificate to serve."""
        return self._current is not None

    def refresh(self) -> None:
        """Take over changed files. When they cannot be used, an error is logged and the last pair stays in service."""
        # The kubelet swaps a link to the directory of both files; resolved once, it leads to two that belong together.
        certificate = (self._directory / "tls.crt").resolve()
        key = certificate.with_name("tls.key")
        try:
            found = certificate.read_bytes(), key.read_bytes()
            if found == self._current:
                return
            _empty_context().load_cert_chain(certificate, key)  # in `context`, a mismatch would break what is served
            self.context.load_cert_chain(certificate, key)
        except OSError as error:
            log.error("serving certificate not usable", extra={"path": str(certificate), "error": str(error)})
            return
        self._current = found
        EXPIRY.set(authority.expiry(found[0]).timestamp())
        with suppress(OSError, ValueError):
            AUTHORITY_EXPIRY.set(authority.expiry(certificate.with_name("ca.crt").read_bytes()).timestamp())
        log.info("serving certificate loaded", extra={"path": str(certificate)})


def _empty_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context

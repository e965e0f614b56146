"""A serving certificate in files that somebody else keeps fresh, such as those of a Secret's volume."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from pathlib import Path

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
"""Between two looks at the files."""


class Certificate:
    """`tls.crt` and `tls.key` in a folder, which may come later. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._looked = float("-inf")
        self._served: tuple[bytes, bytes] | None = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext | None:
        """Serves what the files held at the last look; None while there is nothing that can be served."""
        with self._guard:
            if time.monotonic() - self._looked >= CHECK_SECONDS:
                self._look()
                self._looked = time.monotonic()
            return self._context

    def _look(self) -> None:
        # The kubelet swaps a link to the folder of both files; resolved once, it leads to two that belong together.
        certificate = (self._folder / "tls.crt").resolve()
        key = certificate.with_name("tls.key")
        try:
            found = certificate.read_bytes(), key.read_bytes()
            if found == self._served:
                return
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(certificate, key)
        except OSError as error:
            log.warning("no usable certificate for metrics", extra={"path": str(certificate), "error": str(error)})
            return
        self._served, self._context = found, context

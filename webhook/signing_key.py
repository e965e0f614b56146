"""The key that signs statements, taken anew when its file changes, without a restart."""

from __future__ import annotations

import logging
from pathlib import Path

from certs.signing import Signer

log = logging.getLogger(__name__)


class SigningKey:
    """Signs with the private key that is in a file. A look at the file's time costs a few microseconds a message."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when the file cannot be read, ValueError when it holds no private key."""
        self._path = path
        self._seen = self._stamp()
        self._signer = Signer(path.read_bytes())

    def sign(self, message: bytes) -> str:
        """The signature by the key that is in the file now; by the last one when that cannot be used."""
        if (stamp := self._stamp()) != self._seen:
            self._seen = stamp
            try:
                self._signer = Signer(self._path.read_bytes())
                log.info("signing key loaded", extra={"key_id": self._signer.key_id})
            except (OSError, ValueError) as error:
                log.error("signing key not usable", extra={"path": str(self._path), "error": str(error)})
        return self._signer.sign(message)

    def _stamp(self) -> tuple[int, int] | None:
        """Another one for another file: the kubelet exchanges a link to the directory. None without a file."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

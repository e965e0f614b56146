"""Who may call the webhook, where the cluster's API servers have a client certificate for it."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Callers:
    """Who holds a certificate of `authority` (a file of PEM certificates) with one of these common names."""

    authority: Path
    names: frozenset[str]
    """Empty: any name."""

    def admit(self, certificate: Mapping[str, Any] | None) -> bool:
        """Whether the holder of this certificate may call. `certificate`: as `ssl.SSLSocket.getpeercert` returns it."""
        subject = (certificate or {}).get("subject", ())
        found = {value for part in subject for field, value in part if field == "commonName"}
        return bool(certificate) and (not self.names or bool(found & self.names))


def read(folder: Path) -> Callers | None:
    """By the files ca.crt and names (one a line, optional) of a folder; None when there is no ca.crt.

    Raises OSError when a file cannot be used.
    """
    authority, listed = folder / "ca.crt", folder / "names"
    if not authority.exists():
        return None
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(authority)
    return Callers(authority, frozenset(listed.read_text(encoding="utf-8").split() if listed.exists() else ()))

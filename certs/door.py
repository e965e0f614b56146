"""The Secret with what stands before the webhook's paths (`webhook.door`). Pure, except that secrets are random.

Its first line is for the webhook configurations. The others are what API servers asked for before; they are right until
no API server asks for them any more.
"""

from __future__ import annotations

import re
import secrets as random
from collections.abc import Iterable
from datetime import datetime

from certs import secrets
from certs.authority import Instant
from certs.secrets import Secret
from sfc import names

SECRET_BYTES = 32
CHANGED = "sfc.dev/changed"
"""Annotation of the Secret: when its lines changed (ISO 8601)."""
BARE = "/"
"""The line for paths without a secret, as versions before this one had them."""

_RIGHT = re.compile(r"/[0-9a-z]{32,}")
"""API servers take lower case only."""


def secret(found: Secret | None, asked: Iterable[str], now: Instant) -> Secret:
    """With a secret, and with what API servers ask for now. The same object when nothing has to change.

    `asked`: the prefixes in the webhook configurations.
    """
    lines = _lines(found)
    first = lines[0] if lines and lines[0] != BARE else f"/{random.token_hex(SECRET_BYTES)}"
    former = sorted({prefix or BARE for prefix in asked if prefix == "" or _RIGHT.fullmatch(prefix)} - {first})
    if lines == [first, *former]:
        assert found is not None  # noqa: S101
        return found
    data = {names.DOOR_FIELD: "".join(f"{line}\n" for line in (first, *former)).encode()}
    return secrets.stored(found, names.DOOR_SECRET, "Opaque", data, {CHANGED: now.isoformat()})


def present(made: Secret) -> str:
    """What belongs before the paths in the webhook configurations."""
    return _lines(made)[0]


def changed(made: Secret) -> Instant:
    """When the Secret changed. Raises ValueError when somebody removed or damaged the note."""
    return datetime.fromisoformat((made["metadata"].get("annotations") or {}).get(CHANGED, ""))


def _lines(found: Secret | None) -> list[str]:
    content = secrets.field(found, names.DOOR_FIELD).decode("ascii", errors="replace").split()
    return content if all(line == BARE or _RIGHT.fullmatch(line) for line in content) else []

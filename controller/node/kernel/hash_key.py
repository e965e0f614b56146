"""The key of the program's hashes (bpf/hash.h), the same on every node of a cluster and in every version.

Whoever knows it can work out which flows go to one replica, or meet in one place of a table. So it is in no log, no
error and no argument of a process, and only the agent reads its Secret.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from controller.node.kernel.errors import DatapathError
from sfc.names import HASH_KEY_BYTES, HASH_KEY_SECRET, SYSTEM_NAMESPACE

_FACTORS = 17
"""MOST_PLACEMENT_WORDS + 1 in bpf/hash.h."""


class HashKey:
    """The key, and all that is derived from it: nothing of it is in `repr`."""

    def __init__(self, secret: bytes) -> None:
        """Raises ValueError unless `secret` has HASH_KEY_BYTES."""
        if len(secret) != HASH_KEY_BYTES:
            raise ValueError(f"the key of the program's hashes has {len(secret)} bytes instead of {HASH_KEY_BYTES}")
        self._secret = secret

    @classmethod
    def read(cls, path: Path) -> HashKey:
        """From a file of the mounted Secret. Raises DatapathError."""
        try:
            return cls(path.read_bytes())
        except (OSError, ValueError) as error:
            raise DatapathError(
                f"no key for the program's hashes in {path}: {error}; it is Secret {HASH_KEY_SECRET} of namespace "
                f"{SYSTEM_NAMESPACE}, which the Job sfc-install makes: see that this Job ends well"
            ) from error

    @property
    def cflags(self) -> list[str]:
        """What the program is compiled with. Never to be shown."""
        choice = (self._derived("choice", number) for number in range(2))
        factors = (self._derived("placement", number) for number in range(_FACTORS))
        return [f"-DCHOICE_KEY={_constants(choice)}", f"-DPLACEMENT_FACTORS={_constants(factors)}"]

    @property
    def note(self) -> int:
        """Tells one key from another one, and nothing else about it. Not 0; 64 bits."""
        return self._derived("note", 0) or 1

    def _derived(self, purpose: str, number: int) -> int:
        """64 bits. They may never become others: what nodes of another version choose depends on them."""
        digest = hashlib.blake2b(
            number.to_bytes(4, "little"), key=self._secret, person=f"sfc {purpose}".encode(), digest_size=8
        )
        return int.from_bytes(digest.digest(), "little")


def _constants(numbers: Iterable[int]) -> str:
    return ",".join(f"{number:#x}ULL" for number in numbers)

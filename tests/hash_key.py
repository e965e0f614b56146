"""The key of the program's hashes in tests and benchmarks: the same in each run, so that the choices are."""

from __future__ import annotations

from controller.node.kernel.hash_key import HashKey
from sfc.names import HASH_KEY_BYTES

HASH_KEY = HashKey(bytes(range(HASH_KEY_BYTES)))

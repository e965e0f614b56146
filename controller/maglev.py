"""The lookup table of a side's targets: which link takes the sessions of which hash.

The table is Maglev's (Eisenbud et al., NSDI 2016, section 3.4): a hash names an entry, an entry names a replica, and
every node that knows the same replica identities builds the same one. It is filled in another way, because Maglev's own
moves up to 1.7 % more entries than it must at such a length (docs/decisions/0002). Here every entry goes to the replica
that scores highest for it (rendezvous hashing), unless that replica is full; then the entries it likes least go to the
next in their order. That is deferred acceptance (Gale and Shapley, 1962): the outcome does not depend on the order of
the steps, and a replica that comes or goes moves little beyond its own share.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import struct
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache

LENGTH = 8128
"""Entries of a table; the BPF program's TABLE_LENGTH. With its key it just fits a 16 KiB piece of kernel memory."""

_INDEX_BITS = 12
_ENTRY_BITS = 13
_INDEX = (1 << _INDEX_BITS) - 1
_ENTRY = (1 << _ENTRY_BITS) - 1
_ONES = int.from_bytes(b"\1\0\0\0" * LENGTH, "little")
"""1 in each entry of a row; times a number, that number in each entry."""


def table(replicas: Iterable[tuple[str, int]]) -> bytes:
    """The lookup table for `replicas`, each (identity, slot): LENGTH little-endian 16-bit slots.

    The identity decides which entries a replica gets, the slot is only what they hold: the tables of a stage's two
    interfaces lead the same hash to the same replica. The order of the replicas does not matter.
    """
    ordered = sorted(replicas)
    if not ordered:
        raise ValueError("a lookup table needs at least one replica: a side without targets has no table")
    slots = [slot for _, slot in ordered]
    owners = _owners(tuple(identity for identity, _ in ordered))
    return struct.pack(f"<{LENGTH}H", *map(slots.__getitem__, owners))


@lru_cache(maxsize=256)
def _owners(identities: tuple[str, ...]) -> Sequence[int]:
    """For each entry, the index of the replica it goes to."""
    most = _capacity(len(identities))
    rows = list(zip(*(_scores(identity, index) for index, identity in enumerate(identities)), strict=True))
    held: list[list[int]] = [[] for _ in identities]
    for entry, best in enumerate(map(max, rows)):
        held[best & _INDEX].append(best << _ENTRY_BITS | entry)

    refused = [offer for offers in held for offer in _trimmed(offers, most)]
    untried = {offer & _ENTRY: sorted(rows[offer & _ENTRY])[:-1] for offer in refused}
    while refused:
        entry = refused.pop() & _ENTRY
        if entry not in untried:
            untried[entry] = sorted(rows[entry])[:-1]
        best = untried[entry].pop()
        offers = held[best & _INDEX]
        heapq.heappush(offers, best << _ENTRY_BITS | entry)
        if len(offers) > most:
            refused.append(heapq.heappop(offers))

    owners = array("H", bytes(2 * LENGTH))
    for index, offers in enumerate(held):
        for offer in offers:
            owners[offer & _ENTRY] = index
    return owners


def _trimmed(offers: list[int], most: int) -> list[int]:
    """Sorts `offers`, which makes them a heap, takes the lowest beyond `most` out of them, and returns those."""
    offers.sort()
    lowest = offers[: max(0, len(offers) - most)]
    del offers[: len(lowest)]
    return lowest


def _capacity(replicas: int) -> int:
    """The most entries that one replica may hold: half a hundredth of the table above the mean, and 5 % of the mean.

    A tight limit keeps the shares equal, but makes more entries move when a replica comes or goes.
    """
    mean = LENGTH / replicas
    return max(math.ceil(mean), int(mean + min(0.005 * LENGTH, 0.05 * mean)))


def _scores(identity: str, index: int) -> array[int]:
    """For each entry a 20-bit score that follows from the identity, above the replica's index."""
    digest = hashlib.shake_128(identity.encode()).digest(4 * LENGTH)
    marked = int.from_bytes(digest, "little") & ~(_INDEX * _ONES) | index * _ONES
    return array("I", marked.to_bytes(4 * LENGTH, "little"))

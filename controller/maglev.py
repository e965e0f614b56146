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
from typing import TypeAlias

LENGTH = 8128
"""Entries of a table; the BPF program's TABLE_LENGTH. With its key it just fits a 16 KiB piece of kernel memory."""

Row: TypeAlias = "array[int]"
"""A number for every entry."""
_LANE_BITS = 32
_LANES = int.from_bytes(b"\1\0\0\0" * LENGTH, "little")
"""1 in each lane of an integer that holds a number for every entry; times a number, that number in each lane."""
_SCORES = 0xFFFFF << 11
"""A lane's 20 bits of score. The bit above them is kept free: comparing two lanes borrows from it."""
_FREE = _LANES << (_LANE_BITS - 1)
_SCORE_LANES = _SCORES * _LANES
_NUMBER_BITS = 13
"""For the number of an entry, or of a replica; a score stands above it."""
_NUMBER = (1 << _NUMBER_BITS) - 1


def table(replicas: Iterable[tuple[str, int]]) -> bytes:
    """The lookup table for `replicas`, each (identity, slot): LENGTH little-endian 16-bit slots.

    The identity decides which entries a replica gets, the slot is only what they hold: the tables of a stage's two
    interfaces lead the same hash to the same replica. The order of the replicas does not matter.
    """
    ordered = tuple(sorted(replicas))
    if not ordered:
        raise ValueError("a lookup table needs at least one replica: a side without targets has no table")
    return _packed(ordered)


@lru_cache(maxsize=512)
def _packed(replicas: tuple[tuple[str, int], ...]) -> bytes:
    slots = [slot for _, slot in replicas]
    owners = _owners(tuple(identity for identity, _ in replicas))
    return struct.pack(f"<{LENGTH}H", *map(slots.__getitem__, owners))


@lru_cache(maxsize=256)
def _owners(identities: tuple[str, ...]) -> Sequence[int]:
    """For each entry, the index of the replica it goes to."""
    most = _capacity(len(identities))
    rows = [_scores(identity) for identity in identities]
    owners = _favourites([int.from_bytes(row, "little") for row in rows])
    held: list[list[int]] = [[] for _ in identities]
    for entry, owner in enumerate(owners):
        held[owner].append(entry)
    full = {index: _offers(rows[index], entries) for index, entries in enumerate(held) if len(entries) >= most}
    refused = [entry for offers in full.values() for entry in _trimmed(offers, most)]
    untried: dict[int, list[int]] = {}
    while refused:
        entry = refused.pop()
        if entry not in untried:
            untried[entry] = _preferences(rows, entry)[:-1]
        index = untried[entry].pop() & _NUMBER
        owners[entry] = index
        if index in full:
            refused.append(heapq.heappushpop(full[index], _scored(rows[index], entry)) & _NUMBER)
        else:
            held[index].append(entry)
            if len(held[index]) == most:
                full[index] = _offers(rows[index], held[index])
    return owners


def _favourites(scores: Sequence[int]) -> Row:
    """For each entry, the index of the replica that scores highest; of equals, the last.

    All entries at once: the lanes of one large integer are compared with those of another by one subtraction.
    """
    best, owners = scores[0], 0
    for index, lanes in enumerate(scores[1:], start=1):
        not_less = ((lanes | _FREE) - best & _FREE) >> (_LANE_BITS - 1)
        taken = (not_less << _LANE_BITS) - not_less
        best ^= (best ^ lanes) & taken
        owners ^= (owners ^ index * _LANES) & taken
    return _numbers(owners)


def _scored(row: Row, entry: int) -> int:
    """A number that orders by score, and then by entry."""
    return row[entry] << _NUMBER_BITS | entry


def _offers(row: Row, entries: Iterable[int]) -> list[int]:
    """What a replica with these scores holds, as a heap."""
    offers = [row[entry] << _NUMBER_BITS | entry for entry in entries]
    heapq.heapify(offers)
    return offers


def _preferences(rows: Sequence[Row], entry: int) -> list[int]:
    """Score and index of each replica in one number, the entry's favourite last."""
    return sorted(row[entry] << _NUMBER_BITS | index for index, row in enumerate(rows))


def _trimmed(offers: list[int], most: int) -> list[int]:
    """Takes the lowest beyond `most` out of the heap; their entries."""
    return [heapq.heappop(offers) & _NUMBER for _ in range(len(offers) - most)]


def _capacity(replicas: int) -> int:
    """The most entries that one replica may hold: half a hundredth of the table above the mean, and 5 % of the mean.

    A tight limit keeps the shares equal, but makes more entries move when a replica comes or goes.
    """
    mean = LENGTH / replicas
    return max(math.ceil(mean), int(mean + min(0.005 * LENGTH, 0.05 * mean)))


@lru_cache(maxsize=512)
def _scores(identity: str) -> Row:
    """A score for each entry that follows from the identity."""
    digest = hashlib.shake_128(identity.encode()).digest(4 * LENGTH)
    return _numbers(int.from_bytes(digest, "little") >> 1 & _SCORE_LANES)


def _numbers(lanes: int) -> Row:
    return array("I", lanes.to_bytes(4 * LENGTH, "little"))

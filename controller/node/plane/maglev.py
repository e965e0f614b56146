"""The lookup table of a side's targets: which link takes the sessions of which hash.

The table is Maglev's (Eisenbud et al., NSDI 2016, section 3.4): a hash names an entry, an entry names a replica, and
every node that knows the same replica identities builds the same table. It is filled in another way, because Maglev's
own way moves up to 1.7 % more entries than necessary at such a length (docs/decisions/0002). Here every entry goes to
the replica that scores highest for it (rendezvous hashing), unless that replica is full. A full replica keeps the
entries for which it scores highest, and each other entry goes to the replica that scores next for it. That is deferred
acceptance (Gale and Shapley, 1962): the outcome does not depend on the order of the steps, and a replica that comes or
goes moves little more than its own share.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TypeAlias

LENGTH = 8128
"""Entries of a table; the BPF program's TABLE_LENGTH. With its key it just fits a 16 KiB piece of kernel memory."""

Owners: TypeAlias = "array[int]"
"""For each entry, the index of a replica."""
Row: TypeAlias = "memoryview[int]"
"""16 random bits for each entry, of which the lower 15 are a replica's score for it."""
_SCORE_BITS = 15
_LANES = int.from_bytes(b"\1\0" * LENGTH, "little")
"""1 in each lane of an integer that holds 16 bits for every entry; times a number, that number in each lane."""
_SCORE = (1 << _SCORE_BITS) - 1
_ABOVE = _LANES << _SCORE_BITS
"""The highest bit of each lane is kept free: comparing two lanes borrows from it."""
_NUMBER_BITS = 13
"""The low bits of an integer that hold the number of an entry or of a replica; a score is in the bits above."""
_NUMBER = (1 << _NUMBER_BITS) - 1
_BYTE = 256


def table(replicas: Iterable[tuple[str, int]]) -> bytes:
    """The lookup table for `replicas`, each (identity, slot): LENGTH little-endian 16-bit slots.

    Only the identity decides which entries a replica gets; the slot is what they hold. So the tables of a stage's two
    interfaces lead the same hash to the same replica. The order of the replicas does not matter.

    Raises ValueError without any replica.
    """
    ordered = tuple(sorted(replicas))
    if not ordered:
        raise ValueError("a lookup table needs at least one replica: a side without targets has no table")
    return _packed(ordered)


def narrowed(table: bytes, slots: Collection[int]) -> bytes:
    """The table without the slots that are not among `slots`: their entries go to these in turn. What follows the
    table stays."""
    entries, rest, kept = array("H", table[: 2 * LENGTH]), table[2 * LENGTH :], sorted(slots)
    if not kept:
        return table
    left = array("H", (slot if slot in slots else kept[at % len(kept)] for at, slot in enumerate(entries)))
    return left.tobytes() + rest


@lru_cache(maxsize=512)
def _packed(replicas: tuple[tuple[str, int], ...]) -> bytes:
    slots = array("H", (slot for _, slot in replicas))
    owners = _owners(tuple(identity for identity, _ in replicas))
    if len(slots) > _BYTE:
        return array("H", map(slots.__getitem__, owners)).tobytes()
    packed, indices = bytearray(2 * LENGTH), owners.tobytes()[::2]
    for byte in range(2):
        packed[byte::2] = indices.translate(slots.tobytes()[byte::2].ljust(_BYTE))
    return bytes(packed)


@lru_cache(maxsize=64)
def _owners(identities: tuple[str, ...]) -> Owners:
    """For each entry, the index of the replica it goes to."""
    most = _capacity(len(identities))
    rows = [_row(identity) for identity in identities]
    owners = _favourites(rows)
    counts = _counts(owners, len(rows))
    full = {index: _offers(rows[index], _held(owners, index)) for index, count in enumerate(counts) if count >= most}
    refused = [entry for offers in full.values() for entry in _trimmed(offers, most)]
    untried: dict[int, list[int]] = {}
    while refused:
        entry = refused.pop()
        if entry not in untried:
            untried[entry] = sorted(_preferences(rows, entry))[:-1]
        index = untried[entry].pop() & _NUMBER
        owners[entry] = index
        if index in full:
            refused.append(heapq.heappushpop(full[index], _scored(rows[index], entry)) & _NUMBER)
        else:
            counts[index] += 1
            if counts[index] == most:
                full[index] = _offers(rows[index], _held(owners, index))
    return owners


def _favourites(rows: Sequence[Row]) -> Owners:
    """For each entry, the index of the replica that scores highest; of equals, the last.

    All entries at once: the lanes of one large integer, each a score, are compared with those of another by one
    subtraction.
    """
    best, owners = 0, 0
    for index, row in enumerate(rows):
        ahead = (int.from_bytes(row, "little") | _ABOVE) - best
        better = ahead & _ABOVE
        taken = better - (better >> _SCORE_BITS)
        best += ahead & taken
        owners += index * _LANES - owners & taken
    return array("H", owners.to_bytes(2 * LENGTH, "little"))


def _counts(owners: Owners, replicas: int) -> list[int]:
    """How many entries each replica has. Text is searched in C: entries as characters need no loop in Python."""
    text = _text(owners)
    return [text.count(chr(index)) for index in range(replicas)]


def _held(owners: Owners, index: int) -> Iterator[int]:
    """The entries of a replica."""
    text, wanted = _text(owners), chr(index)
    entry = text.find(wanted)
    while entry >= 0:
        yield entry
        entry = text.find(wanted, entry + 1)


def _text(owners: Owners) -> str:
    return owners.tobytes().decode("utf-16-le")


def _scored(row: Row, entry: int) -> int:
    """Score and entry in one number, which sorts by score first."""
    return (row[entry] & _SCORE) << _NUMBER_BITS | entry


def _offers(row: Row, entries: Iterable[int]) -> list[int]:
    """The entries that a replica holds, scored, as a heap."""
    offers = [(row[entry] & _SCORE) << _NUMBER_BITS | entry for entry in entries]
    heapq.heapify(offers)
    return offers


def _preferences(rows: Sequence[Row], entry: int) -> list[int]:
    """Score and index of each replica in one number."""
    return [(row[entry] & _SCORE) << _NUMBER_BITS | index for index, row in enumerate(rows)]


def _trimmed(offers: list[int], most: int) -> list[int]:
    """Takes the lowest out of the heap until `most` are left; returns the entries that were taken out."""
    return [heapq.heappop(offers) & _NUMBER for _ in range(len(offers) - most)]


def _capacity(replicas: int) -> int:
    """The most entries that one replica may hold: the mean, plus the smaller of 0.5 % of the table and 5 % of the mean.

    A tight limit keeps the shares equal, but moves more entries when a replica comes or goes.
    """
    mean = LENGTH / replicas
    return max(math.ceil(mean), int(mean + min(0.005 * LENGTH, 0.05 * mean)))


@lru_cache(maxsize=256)
def _row(identity: str) -> Row:
    """The replica's row, which follows from its identity alone."""
    return memoryview(hashlib.shake_128(identity.encode()).digest(2 * LENGTH)).cast("H")

"""The lookup table: even shares, little moved, the same wherever it is built."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller import maglev

identities = st.uuids().map(str)


def replicas(names: list[str]) -> list[tuple[str, int]]:
    return [(name, slot) for slot, name in enumerate(names, start=1)]


def entries(table: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{maglev.LENGTH}H", table)


def moved(before: bytes, after: bytes) -> float:
    pairs = zip(entries(before), entries(after), strict=True)
    return sum(a != b for a, b in pairs) / maglev.LENGTH


@settings(max_examples=60, deadline=None)
@given(st.lists(identities, min_size=1, max_size=32, unique=True))
def test_the_fullest_replica_has_at_most_a_twentieth_more_than_the_mean(names: list[str]) -> None:
    count = Counter(entries(maglev.table(replicas(names))))

    assert set(count) == set(range(1, len(names) + 1))
    assert max(count.values()) <= 1.05 * maglev.LENGTH / len(names) + 1


@settings(max_examples=60, deadline=None)
@given(st.lists(identities, min_size=2, max_size=64, unique=True))
def test_one_replica_more_or_less_moves_at_most_its_share_and_a_hundredth(names: list[str]) -> None:
    fewer, more = maglev.table(replicas(names[:-1])), maglev.table(replicas(names))

    assert moved(fewer, more) <= 1 / len(names) + 0.01


@settings(max_examples=20, deadline=None)
@given(st.lists(identities, min_size=1, max_size=16, unique=True), st.randoms())
def test_the_order_of_the_replicas_does_not_matter(names: list[str], random: object) -> None:
    shuffled = replicas(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert maglev.table(shuffled) == maglev.table(replicas(names))


@settings(max_examples=20, deadline=None)
@given(st.lists(identities, min_size=1, max_size=16, unique=True))
def test_a_hash_leads_to_the_same_replica_whatever_its_slot(names: list[str]) -> None:
    left = entries(maglev.table((name, slot) for name, slot in replicas(names)))
    right = entries(maglev.table((name, slot + 1000) for name, slot in replicas(names)))

    assert right == tuple(slot + 1000 for slot in left)


def test_the_table_is_the_same_everywhere_and_for_ever() -> None:
    """Nodes of different versions choose alike; a change here breaks sessions across an upgrade."""
    table = entries(maglev.table([("a", 1), ("b", 2), ("c", 3)]))

    assert table[:12] == (3, 1, 3, 2, 3, 3, 2, 1, 3, 2, 3, 3)


def test_a_side_without_targets_has_no_table() -> None:
    with pytest.raises(ValueError, match="at least one replica"):
        maglev.table([])

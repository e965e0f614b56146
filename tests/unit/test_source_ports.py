"""Slices of source ports: how many, how large, how they are written and read."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfc.source_ports import FIRST, LAST, PortRange, every, index_of, nth
from sfc.validation.fault import MAX_SLICES


def test_sixteen_slices_have_4032_ports_each() -> None:
    assert [str(nth(index, 16)) for index in (0, 1, 15)] == ["1024-5055", "5056-9087", "61504-65535"]


@given(st.integers(1, MAX_SLICES))
def test_slices_are_all_ports_none_twice_and_alike_in_size(slices: int) -> None:
    ranges = every(slices)

    assert (ranges[0].first, ranges[-1].last) == (FIRST, LAST)
    assert all(one.last + 1 == following.first for one, following in itertools.pairwise(ranges))
    sizes = {one.last - one.first for one in ranges}
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, MAX_SLICES))
def test_a_slice_is_known_by_its_ports_and_others_are_none(slices: int) -> None:
    ranges = every(slices)

    assert [index_of(each, slices) for each in ranges] == [*range(slices)]
    assert index_of(PortRange(FIRST + 1, LAST), slices) is None


@given(st.integers(1, MAX_SLICES).flatmap(lambda slices: st.tuples(st.integers(0, slices - 1), st.just(slices))))
def test_a_slice_is_read_as_it_was_written(place: tuple[int, int]) -> None:
    assert PortRange.parse(str(nth(*place))) == nth(*place)


@pytest.mark.parametrize(
    "text", [None, 7, "", "1024", "1024-", "5055-1024", "1023-5055", "1024-65536", "01024-5055", "1024-5055 ", "a-b"]
)
def test_what_is_no_range_of_ports_is_none(text: object) -> None:
    assert PortRange.parse(text) is None


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [("1024-2000", "2001-3000", False), ("1024-2000", "2000-3000", True), ("1024-9000", "2000-3000", True)],
)
def test_overlap_is_mutual(one: str, other: str, overlap: bool) -> None:
    first, second = PortRange.parse(one), PortRange.parse(other)
    assert first and second

    assert first.overlaps(second) == second.overlaps(first) == overlap

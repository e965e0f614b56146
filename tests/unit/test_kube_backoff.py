"""The back-off: the wait after consecutive failures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kube.backoff import Backoff

BACKOFF = Backoff(first=0.5, longest=30.0)


def test_the_wait_doubles_with_each_failure_up_to_the_longest() -> None:
    assert [BACKOFF.seconds(failures, chance=0.0) for failures in (0, 1, 2, 3)] == [0.0, 0.25, 0.5, 1.0]
    assert BACKOFF.seconds(1000, chance=0.0) == 15.0


@given(st.integers(min_value=1, max_value=10_000))
def test_chance_spreads_the_wait_over_its_upper_half(failures: int) -> None:
    whole = 2 * BACKOFF.seconds(failures, chance=0.0)

    assert whole / 2 <= BACKOFF.seconds(failures) <= whole <= BACKOFF.longest

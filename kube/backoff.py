"""How long to wait after a failure: twice as long after each failure in a row, up to a limit, with jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass

_MOST_DOUBLINGS = 10


@dataclass(frozen=True, slots=True)
class Backoff:
    """The waits of one retry. All times are seconds."""

    first: float
    """After the first failure."""
    longest: float
    """Never longer than this."""

    def seconds(self, failures: int, chance: float | None = None) -> float:
        """The wait after this many failures in a row; 0 after none.

        `chance` in [0, 1) chooses between half of the wait and the whole. By default it is random, so that clients
        that failed together do not retry together.
        """
        if not failures:
            return 0.0
        chance = random.random() if chance is None else chance  # noqa: S311 - jitter
        whole = min(self.longest, self.first * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
        return whole * (0.5 + chance / 2)

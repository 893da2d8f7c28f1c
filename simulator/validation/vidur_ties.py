"""Ties of a replay: requests that come as an iteration ends, so that rounding decides whether the next takes them.

Vidur's request lists round arrivals to a microsecond and its tables operation times to six digits, so that the ends of
iterations drift by up to a tenth of a millisecond from those of the run. A request that arrives within that of such an
end may fall to either side, and from there on the two runs differ by an iteration. A difference is a tie if moving
single arrivals by no more than the drift makes every request of the run agree; the arrivals that were moved name it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["AGREE", "settle"]

AGREE = 1e-3
"""A replay agrees where first tokens and ends differ by less [s]."""

DRIFT = (1e-5, 1e-4)
"""By how much an arrival is moved [s], the smaller first."""

MOST = 16
"""Ties after which a run counts as different."""

Times = NDArray[np.float64]
Replay = Callable[[Times], tuple[Times, Times]]
"""Arrivals [s] → differences of first tokens and of ends from the reference [s], per request."""


def settle(replay: Replay, arrivals: Times) -> tuple[dict[int, float], float]:
    """Which arrivals to move by how much [s], and the largest difference that is left [s].

    One tie after the other, from the first request whose first token differs. That request or one of its neighbours
    came at the end of an iteration; the move that lets the difference begin later, or vanish, is kept.
    """
    moved: dict[int, float] = {}
    worst, first = _differ(replay(arrivals))
    while worst >= AGREE and first >= 0 and len(moved) < MOST:
        for row, shift in _moves(first, len(arrivals)):
            tried = {**moved, row: shift}
            left, later = _differ(replay(_with(arrivals, tried)))
            if left < AGREE or later > first:
                moved, worst, first = tried, left, later
                break
        else:
            break
    return moved, worst


def _differ(differences: tuple[Times, Times]) -> tuple[float, int]:
    """Largest difference [s], and the first request whose first token does not agree (-1: none)."""
    first, end = (np.abs(d) for d in differences)
    late = np.flatnonzero(first >= AGREE)
    return float(max(first.max(), end.max())), int(late[0]) if len(late) else -1


def _moves(row: int, count: int) -> Iterator[tuple[int, float]]:
    for near in (row, row + 1, row - 1, row + 2):
        if 0 <= near < count:
            for size in DRIFT:
                yield near, -size
                yield near, size


def _with(arrivals: Times, moved: dict[int, float]) -> Times:
    """The arrivals moved, in order still: nobody comes before the one above."""
    found = arrivals.copy()
    for row, shift in moved.items():
        found[row] += shift
    return np.maximum.accumulate(np.minimum(found, np.minimum.accumulate(found[::-1])[::-1]))

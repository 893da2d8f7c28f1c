"""Exact quantiles of weighted affine segments, without writing out their values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["segment_mean", "segment_quantiles"]

_SORT_BELOW = 200_000


def segment_mean(segments: NDArray[np.float64]) -> float:
    """Mean of all values of ``segments`` (see :func:`segment_quantiles`); NaN where there are none."""
    base, slope, count, weight = segments.T
    total = float(np.sum(count * weight))
    if total == 0:
        return float("nan")
    return float(np.sum(weight * (base * count + slope * count * (count - 1) / 2))) / total


def segment_quantiles(segments: NDArray[np.float64], quantiles: Sequence[float]) -> list[float]:
    """Quantiles of the values base + slope·i, i = 0 .. count − 1, each with a weight.

    The q-quantile is the least value below or at which a share of at least q of the weight lies.

    Parameters
    ----------
    segments
        [n, 4]: base, slope, count, weight.
    quantiles
        Shares in [0, 1].

    Returns
    -------
    list of float
        One per share; NaN where there are no values.
    """
    live = segments[(segments[:, 2] > 0) & (segments[:, 3] > 0)]
    if not len(live):
        return [float("nan")] * len(quantiles)
    targets = [min(max(q, 0.0), 1.0) * float(np.sum(live[:, 2] * live[:, 3])) for q in quantiles]
    if live[:, 2].sum() <= _SORT_BELOW:
        values, cumulated = _sorted(live)
        return [_at(values, cumulated, target) for target in targets]
    return [_quantile(live, target) for target in targets]


def _quantile(segments: NDArray[np.float64], target: float) -> float:
    """Least value at which the cumulated weight reaches ``target``; discards halves until few values are left."""
    below = 0.0
    size = segments[:, 2].sum()
    by_rank = True
    while size > _SORT_BELOW:
        low, high = _range(segments)
        middle = _typical(segments) if by_rank else 0.5 * (low + high)
        if not low <= middle < high:
            middle = 0.5 * (low + high)
        if not low <= middle < high:
            break
        under = _values_up_to(segments, middle)
        weight = float(np.sum(under * segments[:, 3]))
        if below + weight >= target:
            segments = _lower(segments, under)
        else:
            below += weight
            segments = _upper(segments, under)
        # Where the typical value discards little, halve the range of values instead.
        left = segments[:, 2].sum()
        by_rank, size = left < 0.8 * size, left
    values, cumulated = _sorted(segments)
    return _at(values, below + cumulated, target)


def _sorted(segments: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All values in order, and the weight up to each. Equal values may come in any order among themselves."""
    counts = segments[:, 2].astype(np.int64)
    row = np.repeat(np.arange(len(segments)), counts)
    place_in_row = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = segments[row, 0] + segments[row, 1] * place_in_row
    order = np.argsort(values)
    return values[order], np.cumsum(segments[row[order], 3])


def _at(values: NDArray[np.float64], cumulated: NDArray[np.float64], target: float) -> float:
    # Counts are whole numbers; half a request keeps rounding of q·total from moving to the next value.
    place = int(np.searchsorted(cumulated, target - 1e-9 * max(1.0, target)))
    return float(values[min(place, len(values) - 1)])


def _range(segments: NDArray[np.float64]) -> tuple[float, float]:
    last = segments[:, 0] + segments[:, 1] * (segments[:, 2] - 1)
    return float(min(segments[:, 0].min(), last.min())), float(max(segments[:, 0].max(), last.max()))


def _typical(segments: NDArray[np.float64]) -> float:
    """Median of the middles of some of the segments."""
    some = segments[:: max(1, len(segments) // 2000)]
    return float(np.median(some[:, 0] + 0.5 * some[:, 1] * (some[:, 2] - 1)))


def _values_up_to(segments: NDArray[np.float64], at: float) -> NDArray[np.float64]:
    """How many values of each segment are at most ``at``."""
    base, slope, count, _ = segments.T
    with np.errstate(over="ignore"):  # a slope near zero: clipped to all or nothing
        steps = (at - base) / np.where(slope == 0, 1.0, slope)
    rising = np.clip(np.floor(steps) + 1, 0, count)
    # A falling segment has its low values last.
    falling = count - np.clip(np.ceil(steps), 0, count)
    result: NDArray[np.float64] = np.where(
        slope > 0, rising, np.where(slope < 0, falling, np.where(base <= at, count, 0))
    )
    return result


def _lower(segments: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ``under`` lowest values of each segment."""
    kept, n = segments[under > 0], under[under > 0]
    kept[:, 0] += np.where(kept[:, 1] < 0, kept[:, 1] * (kept[:, 2] - n), 0.0)
    kept[:, 2] = n
    return kept


def _upper(segments: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    """All but the ``under`` lowest values of each segment."""
    some = under < segments[:, 2]
    kept, n = segments[some], under[some]
    kept[:, 0] += np.where(kept[:, 1] > 0, kept[:, 1] * n, 0.0)
    kept[:, 2] -= n
    return kept

"""Gaps between tokens as flat runs of (first [s], slope [s per iteration], iterations, requests)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from simulator.serving.decode_group import DecodeGroup
from simulator.serving.flight import Flight

__all__ = ["gap_rows", "record_gaps"]


def record_gaps(gaps: array[float], flight: Flight, group: DecodeGroup, together: bool) -> None:
    """Enter the gaps between the tokens of a flight and the ones before, stalls by prefills included.

    ``together``: the group ends together, and members that have ended already only pad the batch.
    """
    base, slope, count = flight.base / flight.tokens, flight.slope, group.count
    iterations = flight.iterations * flight.tokens
    first = flight.end if iterations == 1 else flight.start + base
    if together:
        for request in group.members:
            left = request.output_tokens - group.produced(request)
            if left > 0:
                gaps.extend((base, slope, min(left, iterations), 1))
    else:
        old = count
        for time, members in group.fresh:
            old -= int(members)
            if members:
                gaps.extend((first - time, 0.0, 1, members))
        if old:
            gaps.extend((first - group.last_token, 0.0, 1, old))
        if iterations > 1:
            gaps.extend((base + slope, slope, iterations - 1, count))
    if group.fresh:
        group.fresh = []
    group.last_token = flight.end


def gap_rows(columns: Iterable[array[float]]) -> NDArray[np.float64]:
    """All runs, one after the other [run, 4]."""
    return np.concatenate([np.array(gaps).reshape(-1, 4) for gaps in columns])

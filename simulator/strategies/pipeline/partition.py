"""Cutting the layers of a model into virtual stages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

__all__ = ["partition_layers"]


def partition_layers(
    costs: Sequence[float] | int,
    ranks: int,
    chunks: int = 1,
    method: Literal["even", "balanced", "share"] = "even",
    tail: float = 0.0,
) -> list[int]:
    """Layers of every virtual stage, in model order.

    Parameters
    ----------
    costs
        Cost of every layer (any unit, >= 0) in model order, or just their number. ``even`` only counts them.
    ranks, chunks
        Pipeline ranks and model chunks per rank; there are ranks · chunks virtual stages.
    method
        ``even``: as many layers each; what is left over goes one each to the first virtual stages (the rule where
        Megatron's default, an exact multiple, does not hold). ``balanced``: contiguous cuts that minimise the
        dearest stage, by dynamic programming; among those, the ones with the least sum of squares. ``share``: every
        stage takes layers until the cost so far reaches its share of the whole, the rule of nanotron.
    tail
        Cost of what follows the last layer on the last virtual stage, which ``share`` counts: the last virtual stage
        may then hold no layer.

    Returns
    -------
    list of int
        Number of layers of every virtual stage; they sum to the number of layers and are at least 1, but for the last
        one under ``share``.

    Raises
    ------
    ValueError
        If there are fewer layers than virtual stages.
    """
    costs = [1.0] * costs if isinstance(costs, int) else costs
    layers, stages = len(costs), ranks * chunks
    if stages < 1 or layers < stages:
        raise ValueError(
            f"{layers} layers cannot fill {stages} virtual stages ({ranks} ranks × {chunks} chunks): "
            f"use at most {layers} virtual stages"
        )
    if method == "even":
        share, extra = divmod(layers, stages)
        return [share + (stage < extra) for stage in range(stages)]
    return _shares(costs, stages, tail) if method == "share" else _balanced(costs, stages)


def _shares(costs: Sequence[float], stages: int, tail: float) -> list[int]:
    """Layers taken one by one; a stage ends with the one that reaches its share. Later stages keep one layer each."""
    reached = np.cumsum(costs) / (sum(costs) + tail) * (1 + 1e-9)
    sizes: list[int] = []
    for stage in range(1, stages):
        start = sum(sizes)
        wanted = int(np.searchsorted(reached, stage / stages)) + 1 - start
        sizes.append(max(1, min(wanted, len(costs) - start - (stages - stage) + (tail > 0))))
    return [*sizes, len(costs) - sum(sizes)]


def _balanced(costs: Sequence[float], stages: int) -> list[int]:
    """First the smallest possible dearest stage, then the cuts under that bound that spread the rest most evenly."""
    total = np.concatenate(([0.0], np.cumsum(costs)))
    stage_cost = total[None, :] - total[:, None]  # of layers i .. j−1
    stage_cost[np.tril_indices(len(total))] = np.inf
    worst = np.where(np.arange(len(total)) == 0, 0.0, np.inf)
    for _ in range(stages):
        worst = np.maximum(worst[:, None], stage_cost).min(axis=0)
    square = np.where(stage_cost <= worst[-1] * (1 + 1e-12), stage_cost**2, np.inf)
    best, cuts = np.where(np.arange(len(total)) == 0, 0.0, np.inf), []
    for _ in range(stages):
        through = best[:, None] + square
        cuts.append(through.argmin(axis=0))
        best = through.min(axis=0)
    ends = [len(costs)]
    for cut in reversed(cuts):
        ends.append(int(cut[ends[-1]]))
    ends.reverse()
    return [after - before for before, after in pairwise(ends)]

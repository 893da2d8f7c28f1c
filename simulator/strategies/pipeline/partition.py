"""Cutting the layers of a model into virtual stages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

__all__ = ["partition_layers"]


def partition_layers(
    costs: Sequence[float] | int, ranks: int, chunks: int = 1, method: Literal["even", "balanced"] = "even"
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
        dearest stage, by dynamic programming; among those, the ones with the least sum of squares.

    Returns
    -------
    list of int
        Number of layers of every virtual stage; they sum to the number of layers and are at least 1.

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
    return _balanced(costs, stages)


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

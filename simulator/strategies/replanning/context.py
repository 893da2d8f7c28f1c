"""Which accelerator takes which place of a new plan, and what has to travel for it.

Weights and caches are cut in equal parts: a rank of P stages and M shards holds one of P · M parts of both. Two plans
cut them differently, so an accelerator has of what a place needs what the two parts have in common.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.strategies.replanning.base import Layout

__all__ = ["STORAGE", "Holdings", "Parcel", "match", "parcels", "reuse"]

STORAGE = -1
"""Where weights come from that no accelerator has."""


class Parcel(NamedTuple):
    """Bytes from one accelerator (or the storage) to another."""

    source: int
    target: int
    size: float


@dataclass(frozen=True)
class Holdings:
    """What is where before a change.

    Attributes
    ----------
    layout
        The plan so far.
    ranks
        Rank of every accelerator that has one.
    weights
        Of the model [B].
    caches
        Keys and values of the requests in every pipeline [B].
    """

    layout: Layout
    ranks: Mapping[int, int]
    weights: float
    caches: Sequence[float]


def _overlap(a: int, of_a: int, b: int, of_b: int) -> float:
    """Length common to the a-th of ``of_a`` and the b-th of ``of_b`` equal parts of [0, 1)."""
    return max(0.0, min((a + 1) / of_a, (b + 1) / of_b) - max(a / of_a, b / of_b))


def _overlaps(of_a: int, of_b: int) -> NDArray[np.float64]:
    """Lengths common to every one of ``of_a`` and every one of ``of_b`` parts [of_a, of_b]."""
    return np.array([[_overlap(a, of_a, b, of_b) for b in range(of_b)] for a in range(of_a)])


def reuse(old: Holdings, accelerators: Sequence[int], new: Layout, follows: Sequence[int]) -> NDArray[np.float64]:
    """Bytes that accelerator i has of what rank j of ``new`` needs [accelerators, ranks].

    Parameters
    ----------
    follows
        Pipeline of the old plan whose requests go on in each pipeline of the new one; −1: none.
    """
    stages, shards = _overlaps(old.layout.pipeline, new.pipeline), _overlaps(old.layout.tensor, new.tensor)
    after = np.array([new.position(rank) for rank in range(new.accelerators)]).reshape(-1, 3)
    goes_on = np.asarray(follows)[after[:, 0]]
    found = np.zeros((len(accelerators), new.accelerators))
    for i, accelerator in enumerate(accelerators):
        rank = old.ranks.get(accelerator)
        if rank is not None:
            pipeline, stage, shard = old.layout.position(rank)
            value = old.weights + np.where(goes_on == pipeline, old.caches[pipeline], 0.0)
            found[i] = stages[stage, after[:, 1]] * shards[shard, after[:, 2]] * value
    return found


def match(old: Holdings, units: Sequence[Sequence[int]], new: Layout, follows: Sequence[int]) -> tuple[int, ...]:
    """Accelerator of every rank of ``new``, so that as many bytes as possible are in place already.

    Units of as many accelerators as a stage has shards are matched to stages, their accelerators to shards: a
    maximum-weight bipartite matching (Kuhn–Munkres) of the values of maximum-weight matchings, as the paper does for
    instances and the accelerators in them.

    Parameters
    ----------
    units
        Accelerators that may form a stage together, ``new.tensor`` each.

    Raises
    ------
    ValueError
        If there are fewer units than stages.
    """
    from scipy.optimize import linear_sum_assignment

    stages = new.data * new.pipeline
    if len(units) < stages:
        raise ValueError(f"{len(units)} units of {new.tensor} accelerators for {stages} stages")
    flat = [accelerator for unit in units for accelerator in unit]
    value = reuse(old, flat, new, follows).reshape(len(units), new.tensor, stages, new.tensor)
    inside = {}
    total = np.zeros((len(units), stages))
    for unit, stage in np.argwhere(value.any(axis=(1, 3))).tolist():
        block = value[unit, :, stage, :]
        who, shard = linear_sum_assignment(block, maximize=True)
        total[unit, stage] = block[who, shard].sum()
        inside[unit, stage] = [int(who[np.flatnonzero(shard == s)[0]]) for s in range(new.tensor)]
    places = [0] * new.accelerators
    for unit, stage in zip(*(side.tolist() for side in linear_sum_assignment(total, maximize=True)), strict=True):
        for shard, who in enumerate(inside.get((unit, stage), range(new.tensor))):
            places[stage * new.tensor + shard] = units[unit][who]
    return tuple(places)


def parcels(
    old: Holdings | None, new: Layout, places: Sequence[int], follows: Sequence[int], pipeline: int, weights: float,
    per_machine: int,
) -> tuple[list[Parcel], float]:  # fmt: skip
    """What one pipeline of ``new`` lacks, and the bytes it has in place.

    Weights come from an accelerator that has them, of the same machine if there is one and else of those that send
    least so far; keys and values from the only one that has them; what nobody has from the storage.

    Parameters
    ----------
    old
        What may be used; ``None``: nothing.
    """
    found: list[Parcel] = []
    kept, sent = 0.0, defaultdict[int, float](float)
    ranks = range(pipeline * new.pipeline * new.tensor, (pipeline + 1) * new.pipeline * new.tensor)
    if old is None:
        share = weights / (new.pipeline * new.tensor)
        return [Parcel(STORAGE, places[rank], share) for rank in ranks], 0.0
    owners = defaultdict[tuple[int, int], list[tuple[int, int]]](list)
    for accelerator, rank in old.ranks.items():
        before, *cell = old.layout.position(rank)
        owners[cell[0], cell[1]].append((accelerator, before))
    goes_on = follows[pipeline]
    for rank in ranks:
        target, (_, stage, shard) = places[rank], new.position(rank)
        for s in range(old.layout.pipeline):
            for m in range(old.layout.tensor):
                share = _overlap(s, old.layout.pipeline, stage, new.pipeline)
                share *= _overlap(m, old.layout.tensor, shard, new.tensor)
                if share <= 0.0:
                    continue
                cell_owners = owners[s, m]
                own = [before for accelerator, before in cell_owners if accelerator == target]
                if own:
                    kept += share * weights
                else:
                    source = min(
                        (accelerator for accelerator, _ in cell_owners),
                        key=lambda a: (a // per_machine != target // per_machine, sent[a], a),
                        default=STORAGE,
                    )
                    sent[source] += share * weights
                    found.append(Parcel(source, target, share * weights))
                cache = share * old.caches[goes_on] if goes_on >= 0 else 0.0
                if cache and own == [goes_on]:
                    kept += cache
                elif cache:
                    source = next(accelerator for accelerator, before in cell_owners if before == goes_on)
                    sent[source] += cache
                    found.append(Parcel(source, target, cache))
    return found, kept

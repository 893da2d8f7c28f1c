"""Dynamic programmes of automatic parallelism: stages of layers on sub-meshes, decisions per layer, shares of work."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["LayerDecisions", "Slicing", "balance_shares", "decide_layers", "slice_stages"]


class Slicing(NamedTuple):
    """Stages ``(first layer, past the last, sub-mesh index)`` in order, and the pipeline's latency [s]."""

    stages: tuple[tuple[int, int, int], ...]
    seconds: float


def slice_stages(
    latency: Callable[[int, int, int], float], layers: int, meshes: Sequence[int], devices: int, microbatches: int
) -> Slicing:
    """Stages and sub-meshes that minimise Σ t_i + (m−1)·max t_i and use exactly all devices (Alpa eq. 2–4).

    Parameters
    ----------
    latency
        ``(first, past, mesh index) → seconds`` of one micro-batch of a stage; infinite where it does not fit.
    meshes
        Devices of each kind of sub-mesh.

    Returns
    -------
    Slicing
        Empty with infinite seconds where nothing fits.

    Notes
    -----
    For each candidate of the longest stage, F(k, d) is the least sum for the layers from k on with d devices and no
    stage above the candidate; candidates are tried in rising order until they alone exceed the best found.
    """
    times = np.full((layers, layers + 1, len(meshes)), np.inf)
    for first in range(layers):
        for past in range(first + 1, layers + 1):
            for mesh in range(len(meshes)):
                times[first, past, mesh] = latency(first, past, mesh)
    best = Slicing((), math.inf)
    for longest in np.unique(times[np.isfinite(times)]):
        if microbatches * longest >= best.seconds:
            break
        found = _least_sum(times, meshes, devices, float(longest))
        total = found.seconds + (microbatches - 1) * max((times[s] for s in found.stages), default=math.inf)
        if total < best.seconds:
            best = Slicing(found.stages, float(total))
    return best


def _least_sum(times: NDArray[np.float64], meshes: Sequence[int], devices: int, longest: float) -> Slicing:
    layers = times.shape[0]
    cost = np.full((layers + 1, devices + 1), np.inf)
    cost[layers, 0] = 0.0
    choice: dict[tuple[int, int], tuple[int, int]] = {}
    for first in range(layers - 1, -1, -1):
        for past in range(first + 1, layers + 1):
            for mesh, size in enumerate(meshes):
                seconds = times[first, past, mesh]
                if seconds > longest:
                    continue
                for left in range(size, devices + 1):
                    total = seconds + cost[past, left - size]
                    if total < cost[first, left]:
                        cost[first, left] = total
                        choice[first, left] = (past, mesh)
    stages, first, left = [], 0, devices
    while first < layers:
        if (first, left) not in choice:
            return Slicing((), math.inf)
        past, mesh = choice[first, left]
        stages.append((first, past, mesh))
        first, left = past, left - meshes[mesh]
    return Slicing(tuple(stages), float(cost[0, devices]))


class LayerDecisions(NamedTuple):
    """Strategy of each layer and the time of all [s]; empty with infinite time where the budget is too small."""

    chosen: tuple[int, ...]
    seconds: float


def decide_layers(
    seconds: Sequence[Sequence[float]],
    held: Sequence[Sequence[float]],
    change: Sequence[Sequence[float]],
    budget: float,
    grain: float = 0.0,
) -> LayerDecisions:
    """One strategy per layer, least time within a memory budget (Galvatron's dynamic programme).

    Parameters
    ----------
    seconds, held
        Time [s] and bytes of each layer under each strategy [layer][strategy].
    change
        Time to go from one strategy to another between layers [s] [from][to].
    budget
        Bytes for all layers together.
    grain
        Bytes are rounded up to multiples of it; 0 = a thousandth of the budget.
    """
    layers, ways = len(seconds), len(seconds[0])
    grain = grain or budget / 1000
    room = int(budget // grain)
    need = [[math.ceil(held[i][s] / grain - 1e-9) for s in range(ways)] for i in range(layers)]
    cost = np.full((layers, ways, room + 1), np.inf)
    back = np.full((layers, ways, room + 1), -1, dtype=np.int64)
    for s in range(ways):
        if need[0][s] <= room:
            cost[0, s, need[0][s] :] = seconds[0][s]
    moves = np.array(change, dtype=np.float64)
    for i in range(1, layers):
        for s in range(ways):
            if need[i][s] > room:
                continue
            before = cost[i - 1, :, : room + 1 - need[i][s]] + moves[:, s][:, None]
            back[i, s, need[i][s] :] = before.argmin(axis=0)
            cost[i, s, need[i][s] :] = before.min(axis=0) + seconds[i][s]
    last = int(cost[-1, :, room].argmin())
    total = float(cost[-1, last, room])
    if math.isinf(total):
        return LayerDecisions((), math.inf)
    chosen, left = [last], room
    for i in range(layers - 1, 0, -1):
        previous = int(back[i, chosen[-1], left])
        left -= need[i][chosen[-1]]
        chosen.append(previous)
    return LayerDecisions(tuple(reversed(chosen)), total)


def balance_shares(speeds: Sequence[float], caps: Sequence[float]) -> tuple[float, ...]:
    """Shares of the work over unequal devices: in proportion to speed, none above what its memory allows.

    Parameters
    ----------
    speeds
        FLOP/s (any unit) of each device.
    caps
        Largest share that each device's memory can take.

    Returns
    -------
    tuple of float
        Shares that sum to 1 and minimise the longest share/speed; all NaN where the caps sum to less than 1.
    """
    if sum(caps) < 1 - 1e-12:
        return tuple(math.nan for _ in speeds)
    shares = [0.0] * len(speeds)
    open_ = set(range(len(speeds)))
    left = 1.0
    while open_:
        rate = sum(speeds[i] for i in open_)
        full = [i for i in open_ if caps[i] <= left * speeds[i] / rate]
        if not full:
            for i in open_:
                shares[i] = left * speeds[i] / rate
            break
        for i in full:
            shares[i] = caps[i]
            left -= caps[i]
            open_.remove(i)
    return tuple(shares)

"""Dynamic programmes of automatic parallelism: stages of layers on sub-meshes, decisions per layer, shares of work."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cuts", "LayerDecisions", "Slicing", "balance_shares", "cut_layers", "decide_layers", "slice_stages"]


class Slicing(NamedTuple):
    """Stages ``(first layer, past the last, sub-mesh index)`` in order, and the pipeline's latency [s]."""

    stages: tuple[tuple[int, int, int], ...]
    seconds: float


def slice_stages(
    latency: Callable[[int, int, int, int], float],
    layers: int,
    meshes: Sequence[int],
    devices: int,
    microbatches: int,
    step: float = 0.0,
    most: int = 0,
) -> Slicing:
    """Stages and sub-meshes that minimise Σ t_i + (m−1)·max t_i and use exactly all devices (Alpa eq. 2–4).

    Parameters
    ----------
    latency
        ``(first, past, mesh index, stages behind) → seconds`` of one micro-batch of a stage; infinite where it does not
        fit: a stage with k stages behind it holds k + 1 micro-batches.
    meshes
        Devices of each kind of sub-mesh.
    step
        Candidates of the longest stage that are closer than this share to the one before are left out; 0 = exact.
    most
        Stages at most; 0 = as many as there are layers and devices.

    Returns
    -------
    Slicing
        Empty with infinite seconds where nothing fits.

    Notes
    -----
    For each candidate of the longest stage, F(s, k, d) is the least sum for the layers from k on in s stages with d
    devices and no stage above the candidate. Candidates are tried in rising order, from the first that leaves a way
    at all, until they alone exceed the best found.
    """
    most = min(most or layers, layers, devices // min(meshes))
    times = np.full((most, layers, layers + 1, len(meshes)), np.inf)
    for behind, first, mesh in itertools.product(range(most), range(layers), range(len(meshes))):
        for past in range(first + 1, layers + 1):
            times[behind, first, past, mesh] = latency(first, past, mesh, behind)
    candidates = thinned(np.unique(times[np.isfinite(times)]), step)
    best, low, high = Slicing((), math.inf), 0, len(candidates)
    while low < high:  # a longer limit never takes a way away
        middle = (low + high) // 2
        if math.isinf(_least_sum(times, meshes, devices, float(candidates[middle])).seconds):
            low = middle + 1
        else:
            high = middle
    for longest in candidates[low:]:
        if microbatches * longest * (1 - step) >= best.seconds:
            break
        found = _least_sum(times, meshes, devices, float(longest))
        count = len(found.stages)
        slowest = max(float(times[(count - 1 - i, *stage)]) for i, stage in enumerate(found.stages))
        total = found.seconds + (microbatches - 1) * slowest
        if total < best.seconds:
            best = Slicing(found.stages, total)
    return best


def thinned(values: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Rising values without those less than ``step`` (a share) above the one before; the last of such a run is kept."""
    if step <= 0 or not len(values):
        return values
    kept = np.floor(np.log(values) / math.log1p(step))
    last: NDArray[np.float64] = values[np.append(kept[1:] != kept[:-1], True)]
    return last


def _least_sum(times: NDArray[np.float64], meshes: Sequence[int], devices: int, longest: float) -> Slicing:
    most, layers = times.shape[:2]
    cost = np.full((most + 1, layers + 1, devices + 1), np.inf)
    cost[0, layers, 0] = 0.0
    choice = np.full((most + 1, layers, devices + 1, 2), -1, dtype=np.int64)
    for count in range(1, most + 1):
        allowed = np.where(times[count - 1] <= longest, times[count - 1], np.inf)
        for first, past, mesh in np.argwhere(np.isfinite(allowed)):
            if (size := meshes[mesh]) > devices:
                continue
            total = allowed[first, past, mesh] + cost[count - 1, past, : devices + 1 - size]
            held = cost[count, first, size:]
            better = total < held
            if better.any():
                held[better] = total[better]
                choice[count, first, size:][better] = (past, mesh)
    count = int(cost[:, 0, devices].argmin())
    seconds = float(cost[count, 0, devices])
    if math.isinf(seconds):
        return Slicing((), math.inf)
    stages, first, left = list[tuple[int, int, int]](), 0, devices
    while count:
        past, mesh = (int(v) for v in choice[count, first, left])
        stages.append((first, past, mesh))
        first, left, count = past, left - meshes[mesh], count - 1
    return Slicing(tuple(stages), seconds)


class Cuts(NamedTuple):
    """Layers of every stage, and the pipeline's latency [s]; empty with infinite time where no cut fits."""

    layers: tuple[int, ...]
    seconds: float


def cut_layers(times: NDArray[np.float64], microbatches: int, step: float = 0.0) -> Cuts:
    """Cuts of a chain of layers into given stages, in order, that minimise Σ t_i + (m−1)·max t_i.

    Parameters
    ----------
    times
        Seconds of one micro-batch of each stage if it holds the layers first .. past−1, infinite where that does not
        fit [stage, first, past].
    step
        As of :func:`slice_stages`.

    Notes
    -----
    The assignment of layers to unequal devices of AMP (arXiv 2210.07297) and, with no time before the first
    micro-batch, PipeDream's balanced chain.
    """
    stages, layers = times.shape[0], times.shape[1]
    if layers < stages:
        return Cuts((), math.inf)
    candidates = thinned(np.unique(times[np.isfinite(times)]), step)
    best, low, high = Cuts((), math.inf), 0, len(candidates)
    while low < high:
        middle = (low + high) // 2
        if math.isinf(_least_cuts(times, float(candidates[middle])).seconds):
            low = middle + 1
        else:
            high = middle
    for longest in candidates[low:]:
        if microbatches * longest * (1 - step) >= best.seconds:
            break
        found = _least_cuts(times, float(longest))
        ends = np.concatenate(([0], np.cumsum(found.layers)))
        slowest = max(float(times[s, ends[s], ends[s + 1]]) for s in range(stages))
        total = found.seconds + (microbatches - 1) * slowest
        if total < best.seconds:
            best = Cuts(found.layers, total)
    return best


def _least_cuts(times: NDArray[np.float64], longest: float) -> Cuts:
    stages, layers = times.shape[0], times.shape[1]
    cost = np.full(layers + 1, np.inf)
    cost[0] = 0.0
    before = list[NDArray[np.int64]]()
    for stage in range(stages):
        through = cost[:layers, None] + np.where(times[stage] <= longest, times[stage], np.inf)
        before.append(through.argmin(axis=0))
        cost = through.min(axis=0)
    if math.isinf(float(cost[layers])):
        return Cuts((), math.inf)
    ends = [layers]
    for cut in reversed(before):
        ends.append(int(cut[ends[-1]]))
    ends.reverse()
    return Cuts(tuple(b - a for a, b in itertools.pairwise(ends)), float(cost[layers]))


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

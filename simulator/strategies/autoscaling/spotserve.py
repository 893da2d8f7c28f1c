"""SpotServe: another parallel plan when instances come and go, and as little moved as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.registry import register

__all__ = ["Layout", "Migration", "SpotServe"]


@dataclass(frozen=True)
class Layout:
    """A parallel plan of a whole fleet: D pipelines of P stages of M tensor-parallel ranks.

    Attributes
    ----------
    throughput, latency
        Of the fleet [requests/s], of a request [s].
    """

    data: int
    pipeline: int
    tensor: int
    throughput: float = 0.0
    latency: float = 0.0

    @property
    def accelerators(self) -> int:
        """D · P · M."""
        return self.data * self.pipeline * self.tensor

    def position(self, rank: int) -> tuple[int, int, int]:
        """(pipeline, stage, shard) of a rank; shards are numbered first."""
        rest, shard = divmod(rank, self.tensor)
        return (*divmod(rest, self.pipeline), shard)


@dataclass(frozen=True)
class Migration:
    """Who takes which place.

    Attributes
    ----------
    places
        Accelerator of every rank of the new layout.
    reused, moved
        Bytes in place already, and to be fetched.
    seconds
        Until the accelerator that fetches most has all [s].
    """

    places: tuple[int, ...]
    reused: float
    moved: float
    seconds: float


def _overlap(a: int, of_a: int, b: int, of_b: int) -> float:
    """Length common to the a-th of ``of_a`` and the b-th of ``of_b`` equal parts of [0, 1)."""
    return max(0.0, min((a + 1) / of_a, (b + 1) / of_b) - max(a / of_a, b / of_b))


@register(
    "spotserve",
    kind="planner",
    area="serving",
    family="autoscaling",
    cites=("Miao et al. 2023 (SpotServe), arXiv 2311.15566",),
    catalogue=("SpotServe",),
    validated_by="closed_form",
)
class SpotServe:
    """Picks the layout for the accelerators left, maps it with the least migration, and decodes on as grace allows.

    Parameters
    ----------
    weights, cache
        Of the model, and of keys and values in one pipeline [B]; layers and shards have equal parts of both.
    bandwidth
        Into one accelerator while migrating [B/s].
    grace
        Notice before an instance goes [s]; 30 by default, as in the paper's set-up.
    """

    name: str

    def __init__(self, weights: float, cache: float, bandwidth: float, grace: float = 30.0) -> None:
        if weights <= 0.0 or cache < 0.0 or bandwidth <= 0.0 or grace < 0.0:
            raise ConfigError(
                f"spotserve needs weights and bandwidth above 0, cache and grace from 0 on: {weights:g} B, {cache:g} "
                f"B, {bandwidth:g} B/s, {grace:g} s"
            )
        self.weights, self.cache, self.bandwidth, self.grace = weights, cache, bandwidth, grace

    def choose(self, layouts: Sequence[Layout], accelerators: int, rate: float) -> Layout | None:
        """The lowest latency among those that keep up with ``rate`` [requests/s], else the highest throughput."""
        fitting = [layout for layout in layouts if layout.accelerators <= accelerators]
        enough = [layout for layout in fitting if layout.throughput >= rate]
        if enough:
            return min(enough, key=lambda layout: (layout.latency, layout.accelerators))
        return max(fitting, key=lambda layout: (layout.throughput, -layout.latency), default=None)

    def reuse(self, old: Layout, held: Sequence[int | None], new: Layout) -> NDArray[np.float64]:
        """Bytes that accelerator i has of what rank j of ``new`` needs [accelerators, ranks].

        ``held``: rank in ``old`` of every accelerator left, ``None`` for an empty one. Keys and values are of use in
        the pipeline of the same number only, which goes on with its requests.
        """
        found = np.zeros((len(held), new.accelerators))
        for i, rank in enumerate(held):
            if rank is None:
                continue
            pipeline, stage, shard = old.position(rank)
            for j in range(new.accelerators):
                wanted, next_stage, next_shard = new.position(j)
                share = _overlap(stage, old.pipeline, next_stage, new.pipeline)
                share *= _overlap(shard, old.tensor, next_shard, new.tensor)
                found[i, j] = share * (self.weights + (self.cache if wanted == pipeline else 0.0))
        return found

    def migrate(self, old: Layout, held: Sequence[int | None], new: Layout) -> Migration:
        """The mapping that reuses most: a maximum-weight bipartite matching (Kuhn–Munkres).

        Raises
        ------
        ConfigError
            If there are fewer accelerators than the new layout has ranks.
        """
        from scipy.optimize import linear_sum_assignment

        if len(held) < new.accelerators:
            raise ConfigError(
                f"{len(held)} accelerators are left for a layout of {new.accelerators}; choose a smaller one"
            )
        reuse = self.reuse(old, held, new)
        devices, ranks = linear_sum_assignment(reuse, maximize=True)
        places = [0] * new.accelerators
        missing = np.zeros(new.accelerators)
        for device, rank in zip(devices.tolist(), ranks.tolist(), strict=True):
            places[rank] = device
            missing[rank] = self._needs(old, new, rank) - reuse[device, rank]
        kept = float(reuse[devices, ranks].sum())
        return Migration(tuple(places), kept, float(missing.sum()), float(missing.max()) / self.bandwidth)

    def _needs(self, old: Layout, new: Layout, rank: int) -> float:
        """Bytes of a rank: its part of the weights, and of the keys and values of a pipeline that goes on."""
        goes_on = new.position(rank)[0] < old.data
        return (self.weights + (self.cache if goes_on else 0.0)) / (new.pipeline * new.tensor)

    def tokens_before(self, migration: Migration, iteration: float) -> int:
        """Decode iterations of so many seconds that fit the grace before the migration has to begin; they are kept."""
        return max(0, int((self.grace - migration.seconds) / iteration + 1e-9))

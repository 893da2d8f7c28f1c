"""STI: layer shards of mixed fidelity, loaded while earlier ones compute, under a deadline."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.errors import ConfigError
from simulator.hardware.types import Node
from simulator.registry import register
from simulator.strategies.serving_offload.streaming import WeightStream
from simulator.strategies.serving_offload.weights import WeightOffload
from simulator.strategies.settings import Settings
from simulator.workload.plan import Plan

__all__ = ["STI", "pipeline_seconds"]


def pipeline_seconds(load: Sequence[float], compute: Sequence[float], preloaded: int = 0) -> float:
    """End of a load-compute pipeline [s]: shard i computes once it is loaded and shard i − 1 is done.

    The first ``preloaded`` shards are in memory already.
    """
    loaded = done = 0.0
    for index, (io, work) in enumerate(zip(load, compute, strict=True)):
        if index >= preloaded:
            loaded += io
            done = max(done, loaded)
        done += work
    return done


@register(
    "sti",
    kind="planner",
    area="serving",
    family="serving_offload",
    cites=("Guo, Choe, Lin 2022 (STI), arXiv 2207.05022",),
    catalogue=("STI",),
    validated_by="closed_form",
)
class STI(WeightOffload):
    """Give every shard the most bits that the deadline allows, the most important first.

    In a deployment (keys ``bits``, the mean over the shards, and ``resident``, the share that is preloaded) the shards
    are read from the drive at that fidelity in every iteration, beside the computation of the ones before.
    """

    name: str
    keys = ("bits", "resident")
    quality = ""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings or Settings("offload", {}))
        self.tier = "nvme"

    def stream(
        self, weights: Sequence[float], layers: Sequence[int], plan: Plan, node: Node, neurons: float = 0.0
    ) -> WeightStream:  # fmt: skip
        """Shards at ``bits`` per weight of 16, but for those that are preloaded."""
        if node.nvme is None:
            raise ConfigError(f"{self.settings.where}: {node.name} has no NVMe to read shards from")
        share = self.settings.number("bits", low=1.0, high=16.0) / 16.0
        resident = self.settings.number("resident", 0.0, high=1.0)
        ranks = min(plan.accelerators, node.accelerators)
        moved = [one * (1.0 - resident) * share for one in weights]
        two = tuple(2.0 * one / max(1, count) for one, count in zip(weights, layers, strict=True))
        seconds = tuple(one * ranks / node.nvme.read for one in moved)
        return WeightStream(seconds, True, {"nvme": sum(moved)}, resident * share, two)

    def search(
        self, importance: Sequence[float], bytes_per_bit: Sequence[float], compute: Sequence[float], *, rate: float,
        deadline: float, bits: Sequence[int] = (2, 3, 4, 5, 6, 32), preload: float = 0.0,
    ) -> list[int] | None:  # fmt: skip
        """Bits per shard, or ``None`` where the lowest fidelity misses the deadline.

        Parameters
        ----------
        importance
            Of each shard; greater is served first.
        bytes_per_bit
            Size of each shard per bit of fidelity [B].
        compute
            Seconds of each shard.
        rate
            Of the storage [B/s].
        deadline
            [s]
        bits
            Fidelities there are, ascending.
        preload
            Memory for the first shards [B].
        """
        chosen = [bits[0]] * len(compute)

        def seconds(plan: Sequence[int]) -> float:
            sizes = [b * size for b, size in zip(plan, bytes_per_bit, strict=True)]
            held, room = 0, preload
            while held < len(sizes) and sizes[held] <= room:
                room -= sizes[held]
                held += 1
            return pipeline_seconds([size / rate for size in sizes], compute, held)

        if seconds(chosen) > deadline:
            return None
        for shard in sorted(range(len(chosen)), key=lambda i: -importance[i]):
            for candidate in bits[1:]:
                trial = [*chosen[:shard], candidate, *chosen[shard + 1 :]]
                if seconds(trial) > deadline:
                    break
                chosen = trial
        return chosen

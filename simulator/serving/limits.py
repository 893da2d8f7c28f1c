"""Sizes an engine is started with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from simulator.errors import ConfigError
from simulator.strategies.serving_protocols import IterationCost

__all__ = ["EngineLimits", "mean_limits", "one_each"]


@dataclass(frozen=True)
class EngineLimits:
    """Sizes an engine is started with.

    Attributes
    ----------
    kv_blocks, block_size
        KV cache: blocks, and tokens per block.
    max_num_batched_tokens
        Token budget of one iteration.
    max_num_seqs
        Requests that may hold KV blocks.
    max_model_len
        Longest prompt plus output [tokens]; 0 = no limit but the cache.
    pipeline_stages
        Micro-batches in flight.
    watermark
        Share of the blocks an admission leaves free.
    preemption
        ``recompute`` or ``swap``: what becomes of a request that the cache has no more room for.
    host_memory, host_bandwidth
        Room for swapped requests [B], and the copy rate of the host link, all accelerators of a replica together
        [B/s].
    kv_bytes_per_token
        Keys and values of one token, all accelerators together [B]; needed for swapping and cache tiers.

    Raises
    ------
    ConfigError
        If swapping is asked for without the size and rate it needs.
    """

    kv_blocks: int
    block_size: int = 16
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    max_model_len: int = 0
    pipeline_stages: int = 1
    watermark: float = 0.01
    preemption: Literal["recompute", "swap"] = "recompute"
    host_memory: float = 0.0
    host_bandwidth: float = 0.0
    kv_bytes_per_token: float = 0.0

    def __post_init__(self) -> None:
        if self.host_memory > 0.0 and not (self.host_bandwidth > 0.0 and self.kv_bytes_per_token > 0.0):
            raise ConfigError(
                "swapping to host memory needs host_bandwidth and kv_bytes_per_token, both above zero; have "
                f"{self.host_bandwidth:g} B/s and {self.kv_bytes_per_token:g} B"
            )
        if self.preemption == "swap" and self.host_memory <= 0.0:
            raise ConfigError("preemption 'swap' needs host_memory; give it or choose 'recompute'")

    @property
    def host_blocks(self) -> int:
        """KV blocks that host memory has room for."""
        return int(self.host_memory / (self.block_size * self.kv_bytes_per_token)) if self.host_memory > 0.0 else 0

    @property
    def host_block_seconds(self) -> float:
        """Time to copy one KV block over the host link [s]."""
        return self.block_size * self.kv_bytes_per_token / self.host_bandwidth if self.host_memory > 0.0 else 0.0


def one_each(
    cost: IterationCost | list[IterationCost], limits: EngineLimits | list[EngineLimits], replicas: int
) -> tuple[list[IterationCost], list[EngineLimits]]:
    """Cost and limits of every replica, given for all or for each."""
    costs = cost if isinstance(cost, list) else [cost] * replicas
    every = limits if isinstance(limits, list) else [limits] * replicas
    if not len(costs) == len(every) == replicas:
        raise ValueError(
            f"{len(costs)} costs and {len(every)} limits for {replicas} replicas; give one for all or each"
        )
    return costs, every


def mean_limits(limits: Sequence[EngineLimits]) -> EngineLimits:
    """What stands for replicas that may differ: the first one's, with the mean number of KV blocks and the least
    context limit."""
    first = limits[0]
    if all(one is first for one in limits):
        return first
    lengths = [one.max_model_len for one in limits if one.max_model_len]
    return replace(
        first, kv_blocks=round(sum(one.kv_blocks for one in limits) / len(limits)),
        max_model_len=min(lengths, default=0),
    )  # fmt: skip

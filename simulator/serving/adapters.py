"""Low-rank adapters in serving: bytes, seconds per iteration beside the backbone, and a cache of the adapters in use.

A batch of n sequences meets Σ_i 1 − (1 − p_i)^n different adapters in the mean, p_i being the popularity of adapter i.
That number depends on the batch's size alone, so a replica keeps its jumps.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from simulator.cost.device import DeviceCost
from simulator.errors import ConfigError
from simulator.registry import lookup
from simulator.serving.wrapped_cost import ServingBase, WrappedCost
from simulator.strategies.adapters.methods import AdapterMethod
from simulator.strategies.protocols import BatchShape, IterationCost
from simulator.strategies.settings import Settings
from simulator.workload.model import ModelSpec
from simulator.workload.ops import OpKind, Work

__all__ = ["AdapterCache", "AdapterCost", "Tenants", "adapter_bytes", "kv_blocks_left", "miss_share", "tenants_of"]

WIDTH = 2.0
"""Bytes of a value of an adapter and of its inputs: 16 bit."""


def _targets(model: ModelSpec, ranks: int = 1) -> list[tuple[int, int, int]]:
    """(inputs, outputs, layers) on one rank of the query, key, value and output projections of softmax attention."""
    found = []
    for layer, count in model.layers:
        a = layer.attention
        if a is None or a.kind not in ("full", "sliding"):
            continue
        heads, kv_heads = a.num_attention_heads // ranks, max(1, a.num_key_value_heads // ranks)
        found += [
            (model.hidden_size, heads * a.head_dim, count),
            (model.hidden_size, kv_heads * a.head_dim, count),
            (model.hidden_size, kv_heads * a.v_head_dim, count),
            (heads * a.v_head_dim, model.hidden_size, count),
        ]
    if not found:
        raise ConfigError(f"model '{model.name}' has no softmax attention, whose projections the adapters go with")
    return found


def adapter_bytes(model: ModelSpec, rank: int) -> float:
    """An adapter on the attention projections: Σ rank·(inputs + outputs) values of 16 bit [B] (LoRA, 2106.09685)."""
    return WIDTH * rank * sum(count * (inputs + outputs) for inputs, outputs, count in _targets(model))


@dataclass(frozen=True)
class Tenants:
    """Adapters of one deployment.

    Attributes
    ----------
    ranks
        Of every adapter.
    popularity
        Share of the requests that each gets; sums to 1.
    """

    ranks: tuple[int, ...]
    popularity: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.ranks) != len(self.popularity) or min(self.ranks, default=0) < 1:
            raise ConfigError("every adapter needs a rank of at least 1 and a popularity")
        if abs(sum(self.popularity) - 1.0) > 1e-6 or min(self.popularity) < 0.0:
            raise ConfigError(f"popularities are shares and sum to 1, not {sum(self.popularity):g}")

    @classmethod
    def zipf(cls, count: int, rank: int, exponent: float = 1.0) -> Tenants:
        """``count`` adapters of one rank, the i-th used in proportion to i^−exponent."""
        weights = np.arange(1, count + 1) ** -exponent
        return cls((rank,) * count, tuple((weights / weights.sum()).tolist()))

    def seen(self, sequences: int) -> NDArray[np.float64]:
        """Probability that each adapter is among those of so many sequences [adapters]."""
        return 1.0 - (1.0 - np.array(self.popularity)) ** sequences


def tenants_of(settings: Settings) -> Tenants:
    """Who uses adapters, from ``count``, ``rank`` (or a list ``ranks``) and ``popularity``, the exponent of a Zipf law.

    Raises
    ------
    ConfigError
        If a key is unknown, missing or out of its range.
    """
    settings.only(("count", "rank", "ranks", "popularity"))
    exponent = settings.number("popularity", 1.0)
    if "ranks" in settings:
        ranks = settings.counts("ranks")
        return Tenants(ranks, Tenants.zipf(len(ranks), 1, exponent).popularity)
    return Tenants.zipf(settings.count("count", low=1), settings.count("rank", 16, low=1), exponent)


def miss_share(tenants: Tenants, sequences: int, method: AdapterMethod) -> float:
    """Share of arriving requests whose adapter nobody of so many running sequences uses: Σ p_i·(1 − p_i)^n.

    Those it has to fetch; a method that keeps all adapters resident never does.
    """
    if not method.prefetches:
        return 0.0
    return float(np.array(tenants.popularity) @ (1.0 - tenants.seen(sequences)))


class AdapterCost(WrappedCost):
    """Iteration times with adapters beside the backbone.

    Parameters
    ----------
    base
        The backbone alone.
    device, model, tensor_parallel
        Prices and sizes of the adapters' kernels on one rank.
    tenants, method
        Who, and a registered name of family ``adapters`` or an object.
    miss_share
        Share of the requests whose adapter has to be fetched (see :class:`AdapterCache`).
    host_bandwidth
        Of the host link of a rank [B/s].

    Notes
    -----
    Shrink and expand are two kernels per projection. Under tensor parallelism the outputs of q, k, v and the inputs of
    the output projection are sharded, the other matrix is not; the messages of rank-sized activations are left out.
    """

    part = "adapters"

    def __init__(
        self, base: IterationCost, device: DeviceCost, model: ModelSpec, tenants: Tenants,
        method: str | AdapterMethod = "s-lora", *, tensor_parallel: int = 1, miss_share: float = 0.0,
        host_bandwidth: float = float("inf"),
    ) -> None:  # fmt: skip
        if not 0.0 <= miss_share <= 1.0:
            raise ConfigError(f"miss_share is a share from 0 to 1, not {miss_share}")
        super().__init__(cast(ServingBase, base))
        self.device, self.tenants = device, tenants
        self.method: AdapterMethod = lookup("adapters", method)() if isinstance(method, str) else method
        self._targets = _targets(model, tensor_parallel)
        ranks = np.array(tenants.ranks, dtype=float)
        self._ranks = np.full_like(ranks, ranks.max()) if self.method.padded else ranks
        mean = float(self._ranks @ np.array(tenants.popularity))
        self._fetch = miss_share * adapter_bytes(model, 1) * mean / tensor_parallel / host_bandwidth
        self._seconds = lru_cache(maxsize=4096)(self._adapter_seconds)

    def added(self, batch: BatchShape) -> float:
        """Kernels of the adapters of a batch [s]."""
        return self._seconds(batch.tokens, batch.decodes + len(batch.prefill))

    def iteration(self, batch: BatchShape) -> float:
        """Duration of one iteration [s], adapters on their way included."""
        seconds = self.base.iteration(batch) + self.added(batch)
        fetch = self._fetch * sum(context == 0 for _, context in batch.prefill)
        return max(seconds, fetch) if self.method.prefetches else seconds + fetch

    def _adapter_seconds(self, tokens: int, sequences: int) -> float:
        """Kernels of all adapters of a batch [s]."""
        seen = self.tenants.seen(sequences)
        distinct = float(seen.sum())
        groups = max(1, min(tokens, round(distinct)))
        rank = float(seen @ self._ranks) / distinct
        if self.method.grouped:
            return self._kernels(tokens, groups, rank)
        return groups * self._kernels(max(1, round(tokens / groups)), 1, rank)

    def _kernels(self, tokens: int, groups: int, rank: float) -> float:
        """Shrink and expand of every projection, ``groups`` adapters in one kernel [s]."""
        size = max(1, round(rank))
        return sum(
            count * (self._gemm(tokens, groups, size, inputs) + self._gemm(tokens, groups, outputs, size))
            for inputs, outputs, count in self._targets
        )

    def _gemm(self, rows: int, groups: int, columns: int, inner: int) -> float:
        moved = WIDTH * (groups * columns * inner + rows * (columns + inner))
        kind = OpKind.GROUPED_GEMM if groups > 1 else OpKind.GEMM
        work = Work(
            kind, "bf16", flops=2.0 * rows * columns * inner, bytes=moved, m=rows, n=columns, k=inner, groups=groups
        )
        return self.device.price(work).seconds


class AdapterCache:
    """Adapters in device memory, least recently used out first.

    Parameters
    ----------
    capacity
        [B].
    """

    def __init__(self, capacity: float) -> None:
        self.capacity, self.held = capacity, 0.0
        self.hits = self.misses = 0
        self._sizes: OrderedDict[int, float] = OrderedDict()

    def use(self, adapter: int, size: float) -> bool:
        """Whether the adapter was there; it is afterwards, if it fits at all."""
        if adapter in self._sizes:
            self._sizes.move_to_end(adapter)
            self.hits += 1
            return True
        self.misses += 1
        if size <= self.capacity:
            while self.held + size > self.capacity:
                self.held -= self._sizes.popitem(last=False)[1]
            self._sizes[adapter] = size
            self.held += size
        return False

    def replay(self, adapters: Iterable[int], sizes: Sequence[float]) -> float:
        """Share of misses over the adapters of a request list, in order of arrival."""
        hits, misses = self.hits, self.misses
        for adapter in adapters:
            self.use(adapter, sizes[adapter])
        total = self.hits + self.misses - hits - misses
        return (self.misses - misses) / total if total else 0.0


def kv_blocks_left(
    blocks: int, block_bytes: float, model: ModelSpec, tenants: Tenants, sequences: int, method: str | AdapterMethod
) -> int:
    """KV blocks that adapters leave, with ``sequences`` requests running.

    Unified paging holds the adapters in use, each in whole blocks; slots hold as many as there may be in use at
    once, at the largest rank where the method pads; a method without fetching holds all.

    Parameters
    ----------
    blocks, block_bytes
        KV blocks without adapters, and bytes of one over all accelerators [B].
    """
    how: AdapterMethod = lookup("adapters", method)() if isinstance(method, str) else method
    each = np.array([adapter_bytes(model, r) for r in tenants.ranks])
    if how.unified:
        taken = float(tenants.seen(sequences) @ np.ceil(each / block_bytes))
    elif how.prefetches:
        slots = min(sequences, len(each))
        largest = np.full(slots, each.max()) if how.padded else np.sort(each)[::-1][:slots]
        taken = float(largest.sum()) / block_bytes
    else:
        taken = float(each.sum()) / block_bytes
    return max(0, blocks - int(np.ceil(taken)))

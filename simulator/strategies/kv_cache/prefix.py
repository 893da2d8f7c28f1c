"""KV caches whose blocks outlive their request, for later requests that begin alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simulator.errors import ConfigError
from simulator.registry import register
from simulator.strategies.kv_cache.paged import Paged
from simulator.strategies.protocols import CacheTier

__all__ = ["PrefixLRU", "PromptCache", "TieredPrefix"]


def _tier(given: CacheTier | Mapping[str, Any]) -> CacheTier:
    if isinstance(given, CacheTier):
        return given
    try:
        return CacheTier(**given)
    except TypeError as error:
        raise ConfigError(
            f"cache tier {dict(given)}: {error}; it has name, capacity, bandwidth, latency, shared"
        ) from None


@register(
    "prefix-lru",
    kind="policy",
    area="serving",
    family="kv_cache",
    cites=(
        "Zheng et al., SGLang: Efficient Execution of Structured Language Model Programs (RadixAttention), "
        "arXiv:2312.07104",
        "vLLM V1 design document: automatic prefix caching",
    ),
    catalogue=("SGLang / RadixAttention, Prompt Cache", "PagedAttention / vLLM"),
    validated_by="published",
)
class PrefixLRU(Paged):
    """Paged blocks; those of prompts are shared by reference and stay, least recently used out first."""

    prefix_caching = True


@register(
    "prefix-tiered",
    kind="policy",
    area="serving",
    family="kv_cache",
    cites=(
        "Qin et al., Mooncake: Trading More Storage for Less Computation, FAST 2025, arXiv:2407.00079",
        "LMCache, https://github.com/LMCache/LMCache",
    ),
    catalogue=("MLLM/PD routers (Llumnix, Mooncake)",),
    validated_by="closed_form",
)
class TieredPrefix(PrefixLRU):
    """``prefix-lru`` with slower homes behind it: host memory, NVMe, a pool shared by all replicas.

    Computed prompts are written through to every tier, each with its own least-recently-used order, off the critical
    path. What is found only in a tier is loaded instead of computed: the iteration that admits the request waits for
    the bytes over the tier's bandwidth plus its latency, or runs beside the load where it is layer by layer.

    Parameters
    ----------
    tiers
        Nearest first; :class:`~simulator.strategies.protocols.CacheTier` or mappings of its fields.
    layerwise
        Whether loading overlaps with the computation of the same iteration (Mooncake).
    """

    def __init__(self, tiers: Sequence[CacheTier | Mapping[str, Any]] = (), layerwise: bool = True) -> None:
        self.tiers = tuple(_tier(t) for t in tiers)
        self.layerwise = layerwise


@register(
    "prompt-cache",
    kind="policy",
    area="serving",
    family="kv_cache",
    cites=("Gim et al., Prompt Cache: Modular Attention Reuse for Low-Latency Inference, arXiv:2311.04934",),
    catalogue=("SGLang / RadixAttention, Prompt Cache",),
    validated_by="closed_form",
)
class PromptCache(PrefixLRU):
    """Known modules are reused wherever they stand in the prompt, not only in an unbroken run from its start.

    Ids have to stand for a module whatever comes before it; with chained ids it finds what ``prefix-lru`` finds, and
    the tails of prefixes whose middle was dropped.
    """

    modular = True

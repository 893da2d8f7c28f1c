"""Paged KV cache: blocks on demand."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.kv_cache.base import NoReuse
from simulator.strategies.protocols import RequestState

__all__ = ["Paged"]


@register(
    "paged",
    kind="policy",
    area="serving",
    family="kv_cache",
    cites=("Kwon et al., Efficient Memory Management for Large Language Model Serving with PagedAttention, SOSP 2023",),
    catalogue=("PagedAttention / vLLM",),
    validated_by="published",
)
class Paged(NoReuse):
    """Blocks for the prompt at admission, then one more whenever the last is full; preemption by recomputation."""

    name: str
    grows = True

    def reserved_tokens(self, request: RequestState, max_model_len: int) -> int:
        """The prompt, and what had been produced before a preemption."""
        return request.prefill_target

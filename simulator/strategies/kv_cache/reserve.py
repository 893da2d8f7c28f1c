"""Contiguous KV caches that reserve a request's room when it is admitted (the systems before paging)."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.kv_cache.base import NoReuse
from simulator.strategies.protocols import RequestState

__all__ = ["ReserveExact", "ReserveMax", "ReservePowerOfTwo", "ReservePredicted"]

_VLLM = "Kwon et al., PagedAttention, SOSP 2023, section 6.1 (Orca baselines Max, Pow2, Oracle)"


@register(
    "reserve-max",
    kind="policy",
    area="serving",
    family="kv_cache",
    cites=("Yu et al., Orca, OSDI 2022", _VLLM),
    catalogue=("Orca",),
    validated_by="closed_form",
)
class ReserveMax(NoReuse):
    """The longest sequence the model allows; the request's own length where there is no limit."""

    name: str
    grows = False

    def reserved_tokens(self, request: RequestState, max_model_len: int) -> int:
        """``max_model_len``, or prompt plus output."""
        return max_model_len or request.input_tokens + request.output_tokens


@register(
    "reserve-pow2",
    kind="policy",
    area="serving",
    family="kv_cache",
    cites=(_VLLM,),
    validated_by="closed_form",
)
class ReservePowerOfTwo(NoReuse):
    """Prompt plus the output rounded up to a power of two: over-reserves at most twice the output."""

    name: str
    grows = False

    def reserved_tokens(self, request: RequestState, max_model_len: int) -> int:
        """Prompt plus the power of two, within ``max_model_len``."""
        tokens = request.input_tokens + (1 << (request.output_tokens - 1).bit_length())
        return min(tokens, max_model_len) if max_model_len else tokens


@register(
    "reserve-exact",
    kind="policy",
    area="serving",
    family="kv_cache",
    cites=(_VLLM,),
    validated_by="closed_form",
)
class ReserveExact(NoReuse):
    """Prompt plus the true output, as if it were known (an oracle)."""

    name: str
    grows = False

    def reserved_tokens(self, request: RequestState, max_model_len: int) -> int:
        """Prompt plus output."""
        return request.input_tokens + request.output_tokens


@register(
    "reserve-predicted",
    kind="policy",
    area="serving",
    family="kv_cache",
    cites=("Jin et al., S3, arXiv:2306.06000",),
    catalogue=("S³",),
    validated_by="closed_form",
)
class ReservePredicted(NoReuse):
    """Prompt plus the output length that the batching policy predicts; without a prediction the true one."""

    name: str
    grows = False

    def reserved_tokens(self, request: RequestState, max_model_len: int) -> int:
        """Prompt plus predicted output, and room for what was there before a restart."""
        predicted = request.data if isinstance(request.data, int) else request.output_tokens
        return max(request.input_tokens + predicted, request.prefill_target)

"""Definitions of metrics, in one place: pure functions of plain numbers.

The names are those of Megatron, MLPerf and vLLM; where a name is used with two meanings both are given.
"""

from __future__ import annotations

import math

__all__ = [
    "bubble_over_ideal", "bubble_over_total", "energy_per_token", "hfu", "mfu", "samples_per_second", "slo_met",
    "tokens_per_second_per_gpu", "tpot", "usd_per_million_tokens",
]  # fmt: skip


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan


def mfu(model_flops: float, seconds: float, accelerators: int, peak_flops: float) -> float:
    """Model FLOPs utilisation: FLOPs the model needs (recompute not counted) over what the peak could do.

    PaLM (arXiv 2204.02311) appendix B: attention without the causal saving; causal FLOPs give ``mfu_causal``.
    """
    return _ratio(model_flops, seconds * accelerators * peak_flops)


def hfu(executed_flops: float, seconds: float, accelerators: int, peak_flops: float) -> float:
    """Hardware FLOPs utilisation: FLOPs that were executed, recompute counted (Korthikanti 2022, arXiv 2205.05198)."""
    return _ratio(executed_flops, seconds * accelerators * peak_flops)


def bubble_over_ideal(total: float, busy: float) -> float:
    """Idle over *busy* pipeline time: (p−1)/m for 1F1B. The Megatron papers quote this one."""
    return _ratio(total - busy, busy)


def bubble_over_total(total: float, busy: float) -> float:
    """Idle over *total* pipeline time: (p−1)/(m+p−1) for 1F1B. Most other papers quote this one."""
    return _ratio(total - busy, total)


def tpot(ttft: float, e2e: float, output_tokens: int) -> float:
    """Time per output token after the first [s]: (e2e − ttft)/(output_tokens − 1); NaN for a single token (vLLM)."""
    return (e2e - ttft) / (output_tokens - 1) if output_tokens > 1 else math.nan


def slo_met(
    ttft: float, tpot: float, e2e: float, ttft_limit: float = 0.0, tpot_limit: float = 0.0, e2e_limit: float = 0.0
) -> bool:
    """Whether one request keeps every limit; a limit of 0 does not bind, nor does tpot for a single token (NaN)."""
    pairs = ((ttft, ttft_limit), (tpot, tpot_limit), (e2e, e2e_limit))
    return all(limit == 0 or math.isnan(value) or value <= limit for value, limit in pairs)


def samples_per_second(global_batch_size: int, seconds: float) -> float:
    """Sequences per second of training."""
    return _ratio(global_batch_size, seconds)


def tokens_per_second_per_gpu(tokens: float, seconds: float, accelerators: int) -> float:
    """Tokens per second and accelerator."""
    return _ratio(tokens, seconds * accelerators)


def usd_per_million_tokens(usd_per_second: float, tokens_per_second: float) -> float:
    """USD per million tokens of a machine that costs ``usd_per_second`` while it makes ``tokens_per_second``."""
    return 1e6 * _ratio(usd_per_second, tokens_per_second)


def energy_per_token(watts: float, tokens_per_second: float) -> float:
    """Joules per token."""
    return _ratio(watts, tokens_per_second)

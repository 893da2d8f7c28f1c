"""Seconds of attention over chosen tokens, and of the indexer that chooses them.

FlashMLA's sparse kernels run over every place of the top-k, filled or not (``indices`` of a fixed length, -1 where
there is nothing), and over a multiple of query heads:

    t = t0 + max(tokens · places · heads' · 2·(d_k + d_v) / (e·P), Q / (e_b·BW)).

The indexer's kernel multiplies in fp8 and writes a score per pair, which the selection reads again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from simulator.constants import Constant, Trust
from simulator.cost.kernels import SELECTION

if TYPE_CHECKING:
    from simulator.cost.device import DeviceCost

__all__ = ["SCORE_BYTES", "SparseRates", "padded_heads", "sparse_rates"]

SPARSE = Constant(
    "attention.sparse", 0.645, "", 0.1, Trust.MEASURED,
    "best of sparse prefill: 640 TFLOP/s on H800 (989), 1,450 on B200 (2,250): deepseek-ai/FlashMLA README, 2025-09-29",
)  # fmt: skip
"""Share of the 16-bit rate that the sparse kernels reach."""

SCORE_BYTES = 8.0
"""A score in fp32, written by the indexer and read by the selection."""

_HEADS = {"hopper": 64, "blackwell": 128}
"""Query heads that the sparse kernels take at once (``FlashMLASparseImpl`` of vLLM, ``forward_sparse_mla_kvcache_bf16``
of TensorRT-LLM)."""


class SparseRates(NamedTuple):
    """How fast a device is at it.

    Attributes
    ----------
    flops, bytes
        Of attention over chosen tokens [FLOP/s, B/s].
    scores
        Of the indexer's products [FLOP/s].
    selection
        Time of the highest scores of one row [s].
    launch
        Fixed time of one kernel [s].
    """

    flops: float
    bytes: float
    scores: float
    selection: float
    launch: float


def padded_heads(heads: int, architecture: str) -> int:
    """Query heads that the kernel computes for ``heads`` of a rank."""
    least = _HEADS.get(architecture.partition("+")[0], 1)
    return -(-heads // least) * least


def sparse_rates(device: DeviceCost, used: list[str]) -> SparseRates:
    """Rates of a device; ids of their constants are appended to ``used``."""
    accelerator = device.accelerator
    narrow = "fp8" if "fp8" in accelerator.peak_flops else "bf16"
    selection = device.shared(SELECTION, used) / accelerator.sm_count if accelerator.sm_count else 0.0
    return SparseRates(
        device.shared(SPARSE, used) * accelerator.rate("bf16"),
        device.share("attention_decode.bf16.memory", used) * accelerator.memory_bandwidth,
        device.share(f"gemm.{narrow}.compute", used) * accelerator.rate(narrow),
        selection,
        device.launch("attention_decode.bf16.launch", used),
    )

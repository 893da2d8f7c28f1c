"""Seconds of attention over chosen tokens, and of the indexer that chooses them.

FlashMLA's sparse kernels run over every place of the top-k, filled or not (``indices`` of a fixed length, -1 where
there is nothing), and over a multiple of query heads:

    t = t0 + max(tokens · places · heads' · 2·(d_k + d_v) / (e·P), Q / (e_b·BW)).

On Hopper one thread block computes the least heads of one token and occupies a multiprocessor: few tokens take as long
as one on every multiprocessor, and blocks come in waves. The indexer's kernel multiplies in fp8 and writes a score per
pair, which the selection reads again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from simulator.constants import Constant, Trust
from simulator.cost.kernels import SELECTION

if TYPE_CHECKING:
    from simulator.cost.device import DeviceCost

__all__ = ["SCORE_BYTES", "SparseRates", "own_constant", "padded_heads", "sparse_rates"]

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
    around
        Time of a layer's decode beyond the kernels that are counted [s].
    wave
        Tokens' worth of heads that the device computes at once, in thread blocks of the least heads; 0: not known.
    """

    flops: float
    bytes: float
    scores: float
    selection: float
    launch: float
    around: float = 0.0
    wave: int = 0

    def rounded(self, blocks: int) -> int:
        """Blocks that so many take the time of: whole waves."""
        return math.ceil(blocks / self.wave) * self.wave if self.wave else blocks


def padded_heads(heads: int, architecture: str) -> tuple[int, int]:
    """Thread blocks of one token for ``heads`` query heads of a rank, and the heads that each computes."""
    least = _HEADS.get(architecture.partition("+")[0], 1)
    return -(-heads // least), least


def own_constant(device: DeviceCost, key: str) -> Constant | None:
    """What the engine's own kernels have on the architecture of ``device``, if that was timed."""
    framework = device.framework
    architecture = device.accelerator.architecture.partition("+")[0]
    return framework.constants.get(f"{key}_{architecture}") if framework is not None else None


def sparse_rates(device: DeviceCost, used: list[str]) -> SparseRates:
    """Rates of a device; ids of their constants are appended to ``used``."""
    accelerator = device.accelerator
    narrow = "fp8" if "fp8" in accelerator.peak_flops else "bf16"
    selection = device.shared(SELECTION, used) / accelerator.sm_count if accelerator.sm_count else 0.0
    around = own_constant(device, "sparse_decode")
    return SparseRates(
        min(1.0, device.shared(own_constant(device, "sparse_share") or SPARSE, used)) * accelerator.rate("bf16"),
        device.share("attention_decode.bf16.memory", used) * accelerator.memory_bandwidth,
        device.share(f"gemm.{narrow}.compute", used) * accelerator.rate(narrow),
        selection,
        device.launch("attention_decode.bf16.launch", used),
        device.shared(around, used) if around else 0.0,
        accelerator.sm_count if accelerator.architecture.partition("+")[0] == "hopper" else 0,
    )

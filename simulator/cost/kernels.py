"""Shape effects and constants that belong to kernels rather than to one device."""

from __future__ import annotations

import math

from simulator.constants import Constant, Trust
from simulator.workload.ops import Work

__all__ = [
    "CAST_BYTES", "EAGER_LAUNCH", "GRAPH_LAUNCH", "LATENT_DECODE", "SELECTION", "SUMMED_IN_HALF",
    "UNPACKED_EXPERTS", "UNPACKED_EXPERT_BYTES", "UNPACKED_EXPERT_START", "VECTOR_ROWS", "attention_longest_block",
    "attention_waves", "expert_spread", "grouped_gemm_flops", "smooth_max",
    "unaligned_experts", "unpacked_experts",
]  # fmt: skip

CAST_BYTES = 4.0
"""Read in 16 bits, write in fp8 as it is and transposed: Hopper multiplies fp8 only with both operands along k, so that
the weight gradient needs transposes, and they are written with the cast (NVIDIA/TransformerEngine cublaslt_gemm.cu and
nvte_cast_transpose)."""

SUMMED_IN_HALF = "_half"
"""Ending of the type whose products are summed in 16 bits."""

VECTOR_ROWS = 8
"""Rows up to which llama.cpp multiplies a matrix by vectors (``MMVQ_MAX_BATCH_SIZE`` of ggml-cuda)."""

GRAPH_LAUNCH = Constant(
    "kernel.graph_launch",
    1.6e-6,
    "s",
    0.45,
    Trust.ASSUMED,
    "1-2.5 us per node of a CUDA graph, recalled; nodes that do nothing take 0.58 us on an RTX 5070 Ti Laptop "
    "(ahrefs/ocannl issue 488, CUDA 13.3)",
)
EAGER_LAUNCH = Constant(
    "kernel.eager_launch",
    5.7e-6,
    "s",
    0.35,
    Trust.ASSUMED,
    "4-8 us per eager CUDA kernel launch, recalled; 6.4 us for kernels that do nothing on an RTX 5070 Ti Laptop "
    "(ahrefs/ocannl issue 488, CUDA 13.3), 4 to 6 us of host calls on an RTX 5070 Ti (susun-blog.com, pegainfer 3)",
)

_UNPACKED = "MXFP4 experts of gpt-oss-120b on H100 and H200, vLLM 0.18 and TensorRT-LLM (InferenceX 2025-26)"
UNPACKED_EXPERTS = Constant(
    "kernel.unpacked_experts",
    0.28,
    "",
    0.3,
    Trust.FITTED,
    f"benchmarks/fits/first_token.py: times to first token of prompts of 8,192 tokens, {_UNPACKED}",
)
"""Share of the usual compute efficiency of a grouped GEMM whose fp4 weights are unpacked to 16 bit on the way."""

UNPACKED_EXPERT_BYTES = Constant(
    "kernel.unpacked_expert_bytes",
    12.0,
    "B",
    0.15,
    Trust.FITTED,
    f"benchmarks/fits/inferencex_decode.py: decode times, {_UNPACKED}",
)
"""Most that a multiprocessor unpacks per clock: unpacking is arithmetic, which faster memory does not speed up."""

UNPACKED_EXPERT_START = Constant(
    "kernel.unpacked_expert_start",
    15e-6,
    "s",
    0.4,
    Trust.FITTED,
    f"benchmarks/fits/inferencex_decode.py: decode times, {_UNPACKED}",
)
"""Time of the kernels around such a GEMM, which the fused ones of devices with fp4 units spare: rows are sorted by
expert before it, activations and sums follow."""

SELECTION = Constant(
    "kernel.selection",
    2.1e-6,
    "s",
    0.3,
    Trust.MEASURED,
    "torch.topk (sbtopk::gatherTopK, a thread block per row) over 4,096 rows of 256 scores on 132 multiprocessors: 66 "
    "us in deepseek-ai/profile-data @4496024 train.json; one source",
)
"""Time of one multiprocessor for the highest of one row of scores."""

LATENT_DECODE = Constant(
    "kernel.latent_decode",
    13.3e-6,
    "s",
    0.25,
    Trust.FITTED,
    "benchmarks/fits/latent_attention.py: decodes of DeepSeek-V3's attention in TensorRT-LLM on six devices, 10.5 to "
    "18.2 us (aiconfigurator-core 0.12.0)",
)
"""Time of a layer's absorbed latent attention in a decode beyond the Ops that are counted: products per head into the
latent space and out of it, joins, the write to the cache."""

_EXPERT_SPREAD = {
    ("hopper", "bf16"): 0.34, ("hopper", "fp8"): 0.35, ("blackwell", "bf16"): 0.24, ("blackwell", "fp8"): 0.02,
    ("blackwell", "fp4"): 0.16, ("blackwell-rtx", "bf16"): 0.34, ("blackwell-rtx", "fp8"): 0.27,
    ("blackwell-rtx", "fp4"): 0.01, ("ada", "bf16"): 0.01, ("ada", "fp8"): 0.01,
}  # fmt: skip
_EXPERT_SPREAD_ELSEWHERE = {"bf16": 0.25, "fp8": 0.06, "fp4": 0.16}
"""The sigmas that the fit prints, 0.01 where the GEMM curve's own is wide enough."""


def unpacked_experts(dense: Constant | None, architecture: str) -> Constant:
    """Share of the usual compute efficiency of experts whose fp4 weights are widened on the way.

    On Ampere an engine that states its share for ``dense`` weights of few bits has the same kernels (Marlin) for both.
    """
    return dense if dense is not None and architecture.partition("+")[0] == "ampere" else UNPACKED_EXPERTS


def expert_spread(architecture: str, dtype: str) -> Constant:
    """What expert kernels are off by beyond the GEMM curve: a factor of 1 with its sigma.

    They follow that curve less closely: engines and token counts choose between several kernels. Architectures differ:
    vLLM runs 16-bit experts by a Triton kernel on Hopper and by TensorRT-LLM's on Blackwell.
    """
    base = architecture.partition("+")[0]
    wide = _EXPERT_SPREAD_ELSEWHERE["bf16"]
    sigma = _EXPERT_SPREAD.get((base, dtype), _EXPERT_SPREAD_ELSEWHERE.get(dtype, wide))
    source = (
        "sigma that tables of expert kernels of the architecture, or the median one, need beyond the GEMM curve's "
        "(aiconfigurator-core 0.12.0): benchmarks/fits/intervals.py grouped"
    )
    return Constant(f"grouped_gemm.spread.{base}.{dtype}", 1.0, "", sigma, Trust.FITTED, source)


_UNALIGNED = {
    ("hopper", "bf16"): 5.5, ("blackwell", "bf16"): 1.6, ("blackwell", "fp8"): 7.5, ("blackwell", "fp4"): 3.0,
    ("ada", "bf16"): 1.24, ("ada", "fp8"): 15.0,
}  # fmt: skip
"""Medians that the fit prints; a device left out lies within 30 % of that of the others. 1 elsewhere."""


def unaligned_experts(architecture: str, dtype: str) -> Constant:
    """How many times as long a grouped GEMM takes whose widths are no multiple of 16 elements."""
    base = architecture.partition("+")[0]
    value = _UNALIGNED.get((base, dtype), 1.0)
    source = (
        "blocks of such widths over the curve of the others (aiconfigurator-core 0.12.0): benchmarks/fits/experts.py"
    )
    return Constant(f"grouped_gemm.unaligned.{base}.{dtype}", value, "", 0.4, Trust.FITTED, source)


_TILES = (64, 128, 256)
_SMALL_TILE = 16
"""Rows of the tiles that fused mixture kernels take where experts see few: ``BLOCK_SIZE_M`` 16 for no more tokens than
experts (``get_default_config`` of fused_moe in vllm-project/vllm and sgl-project/sglang)."""

_ROWS = (64, 128)
_TALL_ROWS = {"hopper": 128, "blackwell": 256}
"""Query rows of a thread block of kernels made for these: one wave of blocks takes the time of 120 and of 224 rows per
multiprocessor at the fitted rate (benchmarks/fits/attention_blocks.py); tiles are powers of two."""

MAX_WAVE_LOSS = 2.0


def smooth_max(a: float, b: float, sharpness: float) -> float:
    """(a^p + b^p)^(1/p): at least max(a, b), at most a + b for p >= 1."""
    high, low = max(a, b), min(a, b)
    if low <= 0.0:
        return high
    p = max(1.0, sharpness)
    return high * math.exp(math.log1p((low / high) ** p) / p)


def grouped_gemm_flops(work: Work, sm_count: int) -> float:
    """FLOPs that the multiprocessors spend on a grouped GEMM, idle and padded lanes included.

    Each group's ``m / groups`` rows are rounded up to whole tiles, and all tiles to whole waves over ``sm_count``
    multiprocessors; the best of nine tile shapes counts, with groups of at most 16 rows also of tiles that high.
    Without a known SM count only the padding does. The weight gradient of each group is a whole matrix, to which its
    ``k / groups`` rows add.
    """
    if work.m <= 0 or work.n <= 0 or work.k <= 0:
        return work.flops
    split = work.operator == "weight_gradient"
    groups = max(1, min(work.groups, work.k if split else work.m))
    rows, depth = (work.m, work.k / groups) if split else (work.m / groups, work.k)
    best = math.inf
    for tm in (_SMALL_TILE, *_TILES) if rows <= _SMALL_TILE else _TILES:
        for tn in _TILES:
            tiles = groups * math.ceil(rows / tm) * math.ceil(work.n / tn)
            if sm_count > 0:
                tiles = math.ceil(tiles / sm_count) * sm_count
            best = min(best, 2.0 * tiles * tm * tn * depth)
    return max(work.flops, best)


def attention_waves(work: Work, sm_count: int) -> float:
    """Lanes a fused attention kernel occupies over lanes with work, at least 1.

    A thread block takes 128 query rows of one head (64 where that grid still fits into one wave) and runs over all
    keys, so rows are rounded up to blocks and blocks to whole waves. Chunks of a prompt are the case that matters:
    on A100, 480 tokens over 32 heads take twice as long as 352. Above :data:`MAX_WAVE_LOSS` kernels split the keys.
    """
    grid = work.batch * work.heads
    if sm_count <= 0 or grid <= 0 or work.q_len <= 0:
        return 1.0
    small = math.ceil(work.q_len / _ROWS[0])
    rows = _ROWS[0] if grid * small <= sm_count else _ROWS[1]
    blocks = grid * math.ceil(work.q_len / rows)
    occupied = math.ceil(blocks / sm_count) * sm_count * rows
    return min(MAX_WAVE_LOSS, occupied / (grid * work.q_len))


def attention_longest_block(work: Work, length: float, architecture: str) -> float:
    """FLOPs of the block of rows that sees all ``length`` keys [FLOP]; 0 where keys are split among blocks.

    A causal kernel's last rows see all keys while the mean row sees half of them, and one multiprocessor works on a
    block from its first key to its last. The backward walks over all queries for a block of 128 keys. Kernels before
    Hopper have blocks small enough for :func:`attention_waves` alone; chunks with earlier context are split by engines.
    """
    rows = _TALL_ROWS.get(architecture.partition("+")[0], 0)
    if not work.causal or not rows or length > work.q_len * 1.01:
        return 0.0
    unit = 4.0 * length * work.head_dim
    return 2.5 * _ROWS[1] * unit if work.backward else min(rows, work.q_len) * unit

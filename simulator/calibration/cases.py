"""What the microbenchmarks time: kernels as the cost model asks for them, from few tokens to many.

Every case carries the :class:`~simulator.workload.ops.Work` that the simulator would price for it, made by the same
lowering, so a measured time and a predicted one mean the same thing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from simulator.calibration.builders import (
    Build,
    attention_call,
    decode_call,
    elementwise_call,
    gemm_call,
    optimizer_call,
)
from simulator.strategies.compile import compile_block
from simulator.workload.autodiff import differentiate
from simulator.workload.framework import Framework
from simulator.workload.framework_files import load_framework
from simulator.workload.lowering import LoweringContext, lower_embedding, lower_head, lower_layer
from simulator.workload.model import AttentionSpec, LayerSpec, MlpSpec, ModelSpec
from simulator.workload.ops import DTYPE_BYTES, Op, OpKind, Work
from simulator.workload.plan import Plan
from simulator.workload.work import work_of

__all__ = ["GROUPS", "Case", "all_cases", "eager_framework", "gpt_model", "halton", "llama_model", "moe_model"]

GROUPS = ("gemm", "attention", "elementwise", "optimizer", "grouped_gemm")
"""Groups of cases in the order in which they matter: when time runs out, the last are cut first."""

VOCABULARY = 8192
MOST_FLOPS = {"cpu": 9e9, "cuda": 6e12}
"""FLOPs of one call at most, so that no case eats the budget."""


def eager_framework(device: str) -> Framework:
    """The preset of plain PyTorch on ``device``."""
    return load_framework("pytorch-eager-cpu" if device == "cpu" else "pytorch-eager")


@dataclass(frozen=True)
class Case:
    """One kernel to time.

    Attributes
    ----------
    group
        One of :data:`GROUPS`.
    work
        What the cost model would be asked.
    build
        Makes the callable on a device; imports torch.
    """

    group: str
    work: Work
    build: Build

    @property
    def label(self) -> str:
        """Unique and stable: under it a partial table is resumed."""
        w = self.work
        sizes = (w.m, w.n, w.k, w.groups, w.batch, w.q_len, f"{w.kv_len:g}", w.heads, w.kv_heads, w.head_dim)
        return f"{w.kind.value}:{w.operator}:{w.dtype}:{int(w.backward)}:{'x'.join(map(str, sizes))}:{w.bytes:g}"


def halton(index: int, base: int) -> float:
    """Element of the van der Corput sequence: points that fill a range evenly, however many are taken."""
    result, share = 0.0, 1.0
    while index:
        share /= base
        result += share * (index % base)
        index //= base
    return result


def _between(low: float, high: float, share: float, step: int = 1) -> int:
    """A size between ``low`` and ``high`` on a logarithmic scale, as a multiple of ``step``."""
    size: float = low * (high / low) ** share
    return max(step, math.floor(size / step + 0.5) * step)


# -- models whose Ops are timed --------------------------------------------------------------------------------------


def _attention(hidden: int, kv_share: int, bias: bool = False) -> AttentionSpec:
    heads = max(1, hidden // 64)
    return AttentionSpec(
        "full", heads, max(1, heads // kv_share), 64, 64, qkv_bias=bias, output_bias=bias,
        position_embedding_type="none" if bias else "rope",
    )  # fmt: skip


def gpt_model(hidden: int, layers: int, vocab: int = VOCABULARY, positions: int = 2048) -> ModelSpec:
    """A GPT-2 block stack: layer norm, biases, GELU, learned positions, multi-head attention, tied head."""
    attention = _attention(hidden, 1, bias=True)
    layer = LayerSpec(attention, MlpSpec(4 * hidden, gated=False, bias=True), norm="layer")
    return ModelSpec(
        f"gpt-{hidden}x{layers}", "gpt", hidden, ((layer, layers),), vocab, positions, learned_positions=positions,
        tie_word_embeddings=True,
    )  # fmt: skip


def llama_model(hidden: int, layers: int, vocab: int = VOCABULARY) -> ModelSpec:
    """A Llama block stack: RMS norm, rotary embedding, SwiGLU, four query heads to a key head."""
    layer = LayerSpec(_attention(hidden, 4), MlpSpec(hidden * 8 // 3 // 64 * 64, gated=True))
    return ModelSpec(f"llama-{hidden}x{layers}", "llama", hidden, ((layer, layers),), vocab, 4096)


def moe_model(hidden: int, layers: int, experts: int = 8, per_token: int = 2, vocab: int = VOCABULARY) -> ModelSpec:
    """A Mixtral block stack: Llama's with routed experts."""
    mlp = MlpSpec(0, gated=True, num_experts=experts, num_experts_per_tok=per_token, moe_intermediate_size=hidden)
    layer = LayerSpec(_attention(hidden, 4), mlp)
    return ModelSpec(f"moe-{hidden}x{layers}", "mixtral", hidden, ((layer, layers),), vocab, 4096)


def _ops(model: ModelSpec, tokens: int, training: bool, dtype: str, device: str) -> Iterator[Op]:
    """Every Op of one layer, the embedding and the head, typed as they run."""
    framework = eager_framework(device)
    ctx = LoweringContext(model, 1, tokens, training, framework)
    for block in (lower_layer(model.layers[0][0], ctx), lower_embedding(ctx), lower_head(ctx)):
        if training:
            yield from compile_block(differentiate(block, "fp32"), Plan(precision=dtype), framework).ops
        else:
            yield from compile_block(block, Plan(precision="bf16"), framework, "serving").forward


# -- cases -----------------------------------------------------------------------------------------------------------


def elementwise_cases(
    hiddens: Sequence[int], tokens: Sequence[int], training: bool, dtype: str, device: str
) -> Iterator[Case]:
    """Norms, activations, rotations, additions, losses, lookups and routing of three kinds of model."""
    seen: set[tuple[str, float]] = set()
    for hidden in hiddens:
        for model in (gpt_model(hidden, 1), llama_model(hidden, 1), moe_model(hidden, 1)):
            for count in tokens:
                for op in _ops(model, count, training, dtype, device):
                    work = work_of(op, Plan().mesh)
                    key = (work.operator, work.bytes)
                    if op.kind is not OpKind.ELEMENTWISE or not work.operator or key in seen or not work.bytes:
                        continue
                    seen.add(key)
                    build = elementwise_call(work.operator, model, count, dtype, training, work.bytes)
                    if build is not None:
                        yield Case("elementwise", work, build)


def gemm_cases(count: int, dtype: str, rows: tuple[int, int], directions: Sequence[str], device: str) -> Iterator[Case]:
    """GEMMs of a model's three directions: square, skinny (decode) and tall (prefill)."""
    size, limit = DTYPE_BYTES[dtype], MOST_FLOPS[device.partition(":")[0]]
    most = (8192, 4096) if device == "cpu" else (16384, 16384)  # a head's rows are those of the vocabulary
    for index in range(1, count + 1):
        m = 1 if rows[0] == 1 and index % 4 == 0 else _between(*rows, halton(index, 2))  # one row runs other kernels
        n, k = (_between(256, top, halton(index, b), 64) for top, b in zip(most, (3, 5), strict=True))
        while 2.0 * m * n * k > limit:
            m, n, k = max(rows[0], m // 2), max(256, n * 3 // 4 // 64 * 64), max(256, k * 3 // 4 // 64 * 64)
        for direction in directions:
            # The sizes of C[m,n] = A[m,k]·B[k,n] as the lowering states them for each direction.
            a, b, c = {"forward": (m, n, k), "backward": (m, k, n), "weight_gradient": (k, n, m)}[direction]
            moved = (a * c + b * c) * size + (2 * 4.0 if direction == "weight_gradient" else size) * a * b
            work = Work(OpKind.GEMM, dtype, 2.0 * m * n * k, moved, a, b, c, operator=direction)
            yield Case("gemm", work, gemm_call(direction, work))


def grouped_cases(
    count: int, dtype: str, rows: tuple[int, int], directions: Sequence[str], device: str
) -> Iterator[Case]:
    """Experts' GEMMs: the rows of all experts together, evenly routed."""
    size, limit = DTYPE_BYTES[dtype], MOST_FLOPS[device.partition(":")[0]]
    for index in range(1, count + 1):
        groups = (2, 4, 8, 16)[index % 4]
        each = _between(*rows, halton(index, 2))
        # Experts' widths are multiples of 256, and such strides cost small GEMMs on CPUs up to a third.
        n, k = (_between(256, 2048, halton(index, b), 256) for b in (3, 5))
        m = groups * each
        while 2.0 * m * n * k > limit:
            n, k = max(256, n // 512 * 256), max(256, k // 512 * 256)
            m = m if n > 256 or k > 256 else m // 2 // groups * groups
        for direction in directions:
            a, b, c = {"forward": (m, n, k), "backward": (m, k, n), "weight_gradient": (k, n, m)}[direction]
            weights = groups * n * k * (8.0 if direction == "weight_gradient" else size)
            work = Work(
                OpKind.GROUPED_GEMM, dtype, 2.0 * m * n * k, weights + m * (n + k) * size, a, b, c, groups,
                operator=direction,
            )  # fmt: skip
            yield Case("grouped_gemm", work, gemm_call(direction, work))


def attention_cases(count: int, dtype: str, training: bool, device: str) -> Iterator[Case]:
    """Causal prefill (and its backward when training), multi-head and grouped-query."""
    size, longest = DTYPE_BYTES[dtype], 1024 if device == "cpu" else 16384
    for index in range(1, count + 1):
        batch = _between(1, 8, halton(index, 3))
        length = _between(32, longest, halton(index, 2), 32)
        heads = (4, 8, 16)[index % 3]
        kv_heads = heads if index % 2 else heads // 4
        width = 128 if index % 4 == 0 else 64
        while batch > 1 and 4.0 * batch * heads * length**2 * width > 2 * MOST_FLOPS[device.partition(":")[0]]:
            batch -= 1
        keys = (length + 1) / 2
        flops = 2.0 * batch * length * max(1, round(keys)) * heads * 2 * width
        rows = batch * length * width * size
        # Reads q, k, v; writes the context and, when training, the log-sum-exp of every row.
        moved = rows * (2 * heads + 2 * kv_heads) + (4.0 * batch * length * heads if training else 0.0)
        work = Work(
            OpKind.ATTENTION, dtype, flops, moved, batch=batch, q_len=length, kv_len=keys, heads=heads,
            kv_heads=kv_heads, head_dim=width, causal=True,
        )  # fmt: skip
        yield Case("attention", work, attention_call(work, training))
        if training:
            twice = replace(work, flops=2.5 * flops, bytes=2 * moved + rows * heads, backward=True)
            yield Case("attention", twice, attention_call(twice, training))


def decode_cases(count: int, dtype: str, device: str) -> Iterator[Case]:
    """One query token per sequence against a cache."""
    size, longest = DTYPE_BYTES[dtype], 4096 if device == "cpu" else 65536
    for index in range(1, count + 1):
        batch, context = _between(1, 32, halton(index, 2)), _between(16, longest, halton(index, 3))
        heads = (4, 8, 16)[index % 3]
        kv_heads = heads if index % 2 else heads // 4
        width = 64
        while batch > 1 and batch * context * kv_heads * width * size * 2 > 256e6:
            batch -= 1
        flops = 2.0 * batch * context * heads * 2 * width
        moved = 2.0 * batch * context * kv_heads * width * size + 2 * 2.0 * batch * heads * width
        work = Work(
            OpKind.ATTENTION, dtype, flops, moved, batch=batch, q_len=1, kv_len=context, heads=heads,
            kv_heads=kv_heads, head_dim=width,
        )  # fmt: skip
        yield Case("attention", work, decode_call(work))


def optimizer_cases(sizes: Sequence[int]) -> Iterator[Case]:
    """Gradient clipping and a fused AdamW step over fp32 parameters: 4 B of parameter and of gradient, 8 of states."""
    for count in sizes:
        clip = Work(OpKind.ELEMENTWISE, "fp32", flops=2.0 * count, bytes=4.0 * count, operator="clip")
        adam = Work(OpKind.ELEMENTWISE, "fp32", flops=8.0 * count, bytes=24.0 * count, operator="adam")
        yield Case("optimizer", clip, optimizer_call("clip", count))
        yield Case("optimizer", adam, optimizer_call("adam", count))


def all_cases(device: str, density: float = 1.0, serving: str = "bf16") -> list[Case]:
    """Every case for ``device``, interleaved by group so that a short budget still covers all of them.

    Parameters
    ----------
    device
        ``cpu`` trains in fp32 here, an accelerator in bf16.
    density
        Share of the usual number of sizes.
    serving
        Type of served weights and of the cache.
    """
    training = "fp32" if device == "cpu" else "bf16"

    def some(count: int) -> int:
        return max(4, math.ceil(count * density))

    three = ("forward", "backward", "weight_gradient")
    hiddens, tokens = ((256, 1024), (128, 512, 2048)) if device == "cpu" else ((1024, 4096), (512, 4096, 16384))
    # A layer of fewer than 512 would stay in the caches, as that of no served model does.
    served, sequences = ((512, 1024), (1, 4, 16, 64, 512)) if device == "cpu" else (hiddens, (1, 8, 64, 512))
    groups = [
        list(gemm_cases(some(40), training, (32, 2048), three, device)),
        list(gemm_cases(some(120), serving, (1, 512), ("forward",), device)),
        list(attention_cases(some(20), training, True, device)),
        list(attention_cases(some(12), serving, False, device)),
        list(decode_cases(some(40), serving, device)),
        list(elementwise_cases(hiddens, tokens, True, training, device)),
        list(elementwise_cases(served, sequences, False, serving, device)),
        list(optimizer_cases([1 << p for p in range(16, 25)])),
        list(grouped_cases(some(24), training, (16, 512), three, device)),
        list(grouped_cases(some(24), serving, (1, 64), ("forward",), device)),
    ]
    return _interleaved(groups)


def _interleaved(groups: Sequence[Sequence[Case]]) -> list[Case]:
    """All cases once, ordered by their place in their own group: any prefix covers every group in proportion."""
    placed = [((index + 0.5) / len(g), number, case) for number, g in enumerate(groups) for index, case in enumerate(g)]
    cases = [case for _, _, case in sorted(placed, key=lambda p: p[:2])]
    return list({case.label: case for case in cases}.values())

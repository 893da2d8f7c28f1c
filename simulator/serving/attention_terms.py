"""Attention seconds of one layer in serving: decode affine in the summed context, prefill chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from simulator.cost.device import DeviceCost
from simulator.cost.kernels import LATENT_DECODE
from simulator.cost.sparse_attention import own_constant
from simulator.registry import lookup
from simulator.strategies.decode_attention.kernels import Grid
from simulator.strategies.protocols import BatchShape
from simulator.strategies.serving_protocols import FOREVER
from simulator.strategies.sparsity.kept_context import ALL, KeptContext
from simulator.workload.lowering_attention import mean_context
from simulator.workload.model import AttentionSpec
from simulator.workload.ops import DTYPE_BYTES, OpKind, Work

__all__ = ["AttentionTerm", "attention_term"]

TEMPLATE_CONTEXT = 1024
"""Context of the work template; coefficients per token do not depend on it."""

KNOTS = 4
"""Mean contexts per doubling at which measured decode kernels are priced."""


class AttentionTerm(Protocol):
    """Seconds of one layer's mixer beyond its token-wise Ops."""

    constants: frozenset[str]

    @property
    def bounded(self) -> bool:
        """Whether seconds per token of context are not the same for every batch: a window or budget ends the growth."""

    def decode(self, decodes: int, context: float) -> tuple[float, float, int]:
        """(seconds now, growth per iteration, iterations for which that holds) for a decode batch."""

    def prefill(self, chunks: Sequence[tuple[int, int]]) -> float:
        """Seconds of ``(new tokens, tokens already cached)`` chunks in one kernel."""

    def floor(self, batch: BatchShape) -> float:
        """Roofline bound [s]."""

    def flops(self, batch: BatchShape) -> float:
        """FLOPs of the batch."""

    def bytes(self, batch: BatchShape) -> float:
        """HBM bytes of the batch."""


@dataclass
class SoftmaxTerm:
    """Full, sliding-window and latent attention.

    Latent attention decodes in absorbed form: one shared key/value head of kv_lora_rank + rope numbers that every rank
    keeps whole, and 2·heads·(2·kv_lora_rank + rope) FLOPs per token of context (DeepSeek-V2, arXiv 2405.04434 §2.1).
    Prompts are computed expanded: a chunk behind a cached context projects the latents of all that context up again and
    joins the rotary key to every head's (vLLM's ``_compute_prefill_context`` of its MLA backends).

    Attributes
    ----------
    queries
        Tokens per decoding sequence and iteration: more than one where drafts are verified. They share one read of the
        cache; FLOPs multiply.
    kv_dtype
        Type of the cache, which selects the decode kernel's curve.
    kept
        Which part of the context is attended.
    grid
        Thread blocks of the decode kernel; ``None``: as those the device's curve was measured on.
    arithmetic
        Type of the linear layers, in which latents are projected up.
    """

    spec: AttentionSpec
    device: DeviceCost
    heads: int
    kv_heads: int
    kv_bytes_per_token: float
    decode_flops_per_token: float
    queries: int = 1
    kv_dtype: str = "bf16"
    kept: KeptContext = ALL
    grid: Grid | None = None
    arithmetic: str = "bf16"
    constants: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        probe = self._decode_work(1, TEMPLATE_CONTEXT)
        self._constant, self._per_sequence, self._per_token = self.device.decode_attention_coefficients(probe)
        used = list[str]()
        around = own_constant(self.device, "latent_decode") or LATENT_DECODE
        self._around = self.device.shared(around, used) if self.spec.kind == "latent" else 0.0
        self._constant += self._around
        first = self.device.price(self._prefill_work(64, 0))
        self.constants = frozenset((*used, *first.constants, *self.device.price(probe).constants))
        self.constants |= {i for work in self._expansion(64) for i in self.device.price(work).constants}
        self.prefill_launch = self.device.price(self._prefill_work(16, 0)).seconds
        self._memo: dict[tuple[int, int], float] = {}
        self._knots: dict[tuple[int, int], float] = {}
        self._measured = self.grid is None and self.device.tabulated(probe)
        window = self.spec.sliding_window if self.spec.kind == "sliding" else 0
        self._cap = min((c for c in (window, self.kept.cap) if c), default=0)

    def _decode_work(self, batch: int, context: float) -> Work:
        spec = self.spec
        width = spec.kv_lora_rank + spec.qk_rope_head_dim if spec.kind == "latent" else spec.head_dim
        rows = batch * context
        moved = rows * self.kv_bytes_per_token * self.kept.volume
        moved += 2 * 2.0 * batch * self.queries * self.heads * width
        return Work(
            OpKind.ATTENTION,
            self.kv_dtype,
            rows * self.decode_flops_per_token * self.queries,
            moved,
            batch=batch,
            q_len=self.queries,
            kv_len=context,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=width,
        )

    def _prefill_work(self, chunk: int, cached: int) -> Work:
        spec = self.spec
        window = spec.sliding_window if spec.kind == "sliding" else 0
        keys = mean_context(chunk, chunk + cached, spec.causal, window)
        flops = 2.0 * chunk * keys * self.heads * (spec.head_dim + spec.v_head_dim) * self.kept.density
        seen = min(chunk + cached, window + chunk) if window else chunk + cached
        moved = seen * self.kv_bytes_per_token + 2.0 * chunk * self.heads * (spec.head_dim + spec.v_head_dim)
        return Work(
            OpKind.ATTENTION,
            "bf16",
            flops,
            moved,
            batch=1,
            q_len=chunk,
            kv_len=keys,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=spec.head_dim,
            causal=spec.causal,
            sinks=spec.sinks,
        )

    def _expansion(self, cached: int) -> tuple[Work, ...]:
        """What a chunk does to the latents in front of it: keys and values of every head, and the rotary key joined."""
        spec, rows = self.spec, self.heads * cached
        if spec.kind != "latent" or not cached:
            return ()
        depth, wide = spec.kv_lora_rank, self.heads * (spec.qk_nope_head_dim + spec.v_head_dim)
        moved = 2.0 * cached * (depth + wide) + DTYPE_BYTES[self.arithmetic] * depth * wide
        joined = 2.0 * rows * (spec.qk_nope_head_dim + spec.head_dim) + 2.0 * cached * spec.qk_rope_head_dim
        return (
            Work(OpKind.GEMM, self.arithmetic, 2.0 * cached * depth * wide, moved, cached, wide, depth),
            Work(OpKind.ELEMENTWISE, "bf16", bytes=joined),
        )

    @property
    def bounded(self) -> bool:
        """Whether a window or budget caps what is read, or the batch or its context decides how fast."""
        return self._cap > 0 or self.grid is not None or self._measured

    def _stretch(self, decodes: int) -> float:
        """Time of the cache's read over that of kernels which fill the device."""
        if self.grid is None:
            return 1.0
        return self.grid.stretch(decodes, self.heads, self.kv_heads, self.device.accelerator.sm_count)

    def attended(self, decodes: int, context: float) -> tuple[float, float, int]:
        """Rows of the cache a decode batch reads, their growth per iteration, iterations for which that holds.

        The cap of a window or budget is applied to the mean context of the batch.
        """
        ratio = self.kept.ratio
        rows = ratio * (context + (self.queries - 1) * decodes)
        most = self._cap * decodes
        if not most:
            return rows, ratio * decodes, FOREVER
        if rows >= most:
            return most, 0.0, FOREVER
        return rows, ratio * decodes, max(1, int((most - rows) // (ratio * decodes)))

    def decode(self, decodes: int, context: float) -> tuple[float, float, int]:
        """Affine in the summed context until a window or budget is full, or to the next knot of a measured kernel."""
        rows, growth, holds = self.attended(decodes, context)
        if self._measured:
            return self._between_knots(decodes, rows, growth, holds)
        fixed = self._constant + self._per_sequence * decodes
        per_token = self._per_token * self._stretch(decodes)
        return fixed + per_token * rows, per_token * growth, holds

    def _between_knots(self, decodes: int, rows: float, growth: float, holds: int) -> tuple[float, float, int]:
        """Kernels that were measured follow no line: their prices at a grid of mean contexts, and lines between."""
        mean = max(1.0, rows / decodes)
        at = math.floor(KNOTS * math.log2(mean) + 1e-9)
        low, high = _knot(at), _knot(at + 1)
        first, second = self._at_knot(decodes, at), self._at_knot(decodes, at + 1)
        slope = (second - first) / (decodes * (high - low))
        if growth > 0.0:
            holds = min(holds, max(1, int((decodes * high - rows) // growth)))
        return first + slope * (rows - decodes * low), slope * growth, holds

    def _at_knot(self, decodes: int, number: int) -> float:
        known = self._knots.get((decodes, number))
        if known is None:
            known = self._around + self.device.price(self._decode_work(decodes, _knot(number))).seconds
            self._knots[decodes, number] = known
        return known

    def prefill(self, chunks: Sequence[tuple[int, int]]) -> float:
        """One variable-length kernel: every chunk adds its work, the launch is paid once."""
        total = self.prefill_launch
        for chunk in chunks:
            total += self.chunk_seconds(*chunk)
        return total

    def chunk_seconds(self, chunk: int, cached: int) -> float:
        """What one chunk adds to its kernel beyond the launch [s]."""
        if (known := self._memo.get((chunk, cached))) is not None:
            return known
        alone = self.device.price(self._prefill_work(chunk, cached))
        seconds = max(alone.floor, alone.seconds - self.prefill_launch)
        seconds += sum(self.device.price(work).seconds for work in self._expansion(cached))
        if len(self._memo) < 1 << 18:
            self._memo[chunk, cached] = seconds
        return seconds

    def works(self, batch: BatchShape) -> list[Work]:
        """What the kernels of a batch do."""
        works = [self._prefill_work(*chunk) for chunk in batch.prefill]
        works += [work for _, cached in batch.prefill for work in self._expansion(cached)]
        if batch.decodes:
            rows = self.attended(batch.decodes, batch.decode_context)[0]
            works.append(self._decode_work(batch.decodes, rows / batch.decodes))
        return works

    def floor(self, batch: BatchShape) -> float:
        """Bytes and FLOPs of the batch over datasheet rates."""
        return sum(self.device.floor(work) for work in self.works(batch))

    def flops(self, batch: BatchShape) -> float:
        """FLOPs of the batch."""
        return sum(work.flops for work in self.works(batch))

    def bytes(self, batch: BatchShape) -> float:
        """Keys and values read, queries and outputs."""
        return sum(work.bytes for work in self.works(batch))


def _knot(number: int) -> float:
    return float(2.0 ** (number / KNOTS))


@dataclass
class RecurrentTerm:
    """A mixer with a state of fixed size: decoding reads and writes it once per sequence; prefill is token-wise
    work."""

    device: DeviceCost
    state_bytes: float
    constants: frozenset[str] = frozenset()

    @property
    def bounded(self) -> bool:
        """A state does not grow at all."""
        return False

    def _work(self, sequences: int) -> Work:
        return Work(OpKind.ELEMENTWISE, "bf16", bytes=2.0 * sequences * self.state_bytes)

    def decode(self, decodes: int, context: float) -> tuple[float, float, int]:
        """Independent of the context."""
        return self.device.price(self._work(decodes)).seconds, 0.0, FOREVER

    def prefill(self, chunks: Sequence[tuple[int, int]]) -> float:
        """The state is loaded and stored once per chunk."""
        return self.device.price(self._work(len(chunks))).seconds

    def floor(self, batch: BatchShape) -> float:
        """State traffic over bandwidth."""
        return self.device.floor(self._work(batch.decodes + len(batch.prefill)))

    def flops(self, batch: BatchShape) -> float:
        """Counted with the token-wise Ops."""
        return 0.0

    def bytes(self, batch: BatchShape) -> float:
        """The state, read and written."""
        return self._work(batch.decodes + len(batch.prefill)).bytes


def attention_term(
    spec: AttentionSpec, device: DeviceCost, ranks: int, kv_dtype: str, queries: int = 1, kept: KeptContext = ALL,
    grid: Grid | None = None, precision: str = "bf16",
) -> AttentionTerm:  # fmt: skip
    """The term of one mixer on one rank.

    Parameters
    ----------
    spec
        The mixer.
    device
        Cost of its kernels.
    ranks
        Over which heads are cut: query heads are split, KV heads are split and replicated once there are fewer
        heads than ranks, a latent cache is kept whole.
    kv_dtype
        Type of the cache.
    queries
        Tokens per decoding sequence and iteration.
    kept
        Part of the context that is attended.
    grid
        Thread blocks of the decode kernel.
    precision
        Of the plan: in what the linear layers are computed that project latents up.
    """
    heads = -(-spec.num_attention_heads // ranks)
    width = DTYPE_BYTES[kv_dtype]
    if spec.kind == "linear":
        state = max(1, spec.num_attention_heads // ranks) * spec.v_head_dim * (spec.state_size or spec.head_dim)
        return RecurrentTerm(device, state * 4.0)
    if spec.kind == "latent":
        cached = spec.kv_lora_rank + spec.qk_rope_head_dim
        flops = 2.0 * heads * (cached + spec.kv_lora_rank)
        wide = str(getattr(lookup("quantization", precision), "arithmetic", "bf16"))
        return SoftmaxTerm(spec, device, heads, 1, cached * width, flops, queries, kv_dtype, kept, grid, wide)
    kv_heads = max(1, -(-spec.num_key_value_heads // ranks))
    per_token = kv_heads * (spec.head_dim + spec.v_head_dim) * width
    flops = 2.0 * heads * (spec.head_dim + spec.v_head_dim)
    return SoftmaxTerm(spec, device, heads, kv_heads, per_token, flops, queries, kv_dtype, kept, grid)

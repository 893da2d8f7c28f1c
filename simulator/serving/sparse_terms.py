"""Attention over the tokens that an indexer chose (DeepSeek-V3.2, arXiv 2512.02556 §2.1).

An iteration scores every token of every context by the indexer's heads, picks the highest and attends to those. The
latents are read absorbed, in prompts as well: one shared key and value of kv_lora_rank + rope numbers per chosen token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from simulator.cost.sparse_attention import SCORE_BYTES, padded_heads, sparse_rates
from simulator.serving.attention_terms import SoftmaxTerm
from simulator.strategies.protocols import BatchShape
from simulator.strategies.serving_protocols import FOREVER
from simulator.strategies.sparsity.kept_context import KeptContext
from simulator.workload.counting import index_bytes
from simulator.workload.lowering_attention import mean_context
from simulator.workload.ops import OpKind, Work

__all__ = ["SparseTerm", "sparse_term"]

KERNELS = 2
"""Scores and their selection, beside attention itself."""


def sparse_term(dense: SoftmaxTerm) -> SparseTerm:
    """The term of latent attention over at most ``index_topk`` tokens, made of the one over all."""
    kept = dense.kept
    cap = min(c for c in (kept.cap, dense.spec.index_topk) if c)
    return SparseTerm(replace(dense, kept=replace(kept, cap=cap)))


@dataclass
class SparseTerm:
    """Indexer and sparse latent attention of one layer.

    Attributes
    ----------
    dense
        The same mixer read by dense kernels, no more than the chosen tokens per generated one: what prompts take that
        an engine computes without the indexer (``sparse_dense_tokens``), and decodes of one that hands the chosen
        places to a dense kernel (``sparse_decode``).
    """

    dense: SoftmaxTerm

    def __post_init__(self) -> None:
        device, spec, used = self.dense.device, self.dense.spec, list[str]()
        framework = device.framework
        self._short = framework.sparse_dense_tokens if framework is not None else 0
        self._by_dense = framework is not None and framework.sparse_decode == "dense"
        self._rates = sparse_rates(device, used)
        self.constants = self.dense.constants | frozenset(used)
        self._blocks, heads = padded_heads(self.dense.heads, device.accelerator.architecture)
        self._pair = 2.0 * (2 * spec.kv_lora_rank + spec.qk_rope_head_dim)
        self._block_seconds = spec.index_topk * heads * self._pair / self._rates.flops
        # A layer without an indexer of its own takes the places that one before it chose.
        chooses = spec.index_n_heads > 0
        self._extra, self._score_bytes = KERNELS * chooses, SCORE_BYTES * chooses
        self._selection = self._rates.selection * chooses
        self._score_flops = 2.0 * spec.index_n_heads * spec.index_head_dim
        self._key_bytes = float(index_bytes(spec))
        self.kv_bytes_per_token = self.dense.kv_bytes_per_token + self._key_bytes

    @property
    def kept(self) -> KeptContext:
        """Part of the context that is attended."""
        return self.dense.kept

    @property
    def bounded(self) -> bool:
        """What is read stops growing at the top-k."""
        return True

    # -- decodes -----------------------------------------------------------------------------------------------------

    def decode(self, decodes: int, context: float) -> tuple[float, float, int]:
        """Affine in the summed context until the top-k is full."""
        seconds, growth, holds = self._attend(decodes, context)
        queries = self.dense.queries
        moved = self._key_bytes + self._score_bytes * queries
        per_row = max(moved / self._rates.bytes, queries * self._score_flops / self._rates.scores)
        seconds += self._extra * self._rates.launch + per_row * context + decodes * queries * self._selection
        return seconds + self._rates.around, growth + per_row * decodes, holds

    def _attend(self, decodes: int, context: float) -> tuple[float, float, int]:
        if self._by_dense:
            return self.dense.decode(decodes, context)
        rows, growth, holds = self.dense.attended(decodes, context)
        compute = self._rates.rounded(decodes * self.dense.queries * self._blocks) * self._block_seconds
        per_row = self.dense.kv_bytes_per_token / self._rates.bytes
        if per_row * rows >= compute:
            return self._rates.launch + per_row * rows, per_row * growth, holds
        if growth > 0.0 and per_row * self.kept.cap * decodes > compute:  # memory takes over before the top-k is full
            holds = min(holds, max(1, int((compute / per_row - rows) // growth)))
        else:
            holds = FOREVER
        return self._rates.launch + compute, 0.0, holds

    # -- prompts -----------------------------------------------------------------------------------------------------

    def prefill(self, chunks: Sequence[tuple[int, int]]) -> float:
        """Seconds of ``(new tokens, tokens already cached)`` chunks."""
        if self._dense_prompts(chunks):
            return self.dense.prefill(chunks)
        rates, total = self._rates, (1 + self._extra) * self._rates.launch
        for work, scored in (self._prompt(*chunk) for chunk in chunks):
            tokens = work.q_len
            total += max(tokens * self._blocks * self._block_seconds, work.bytes / rates.bytes)
            total += max(scored.flops / rates.scores, scored.bytes / rates.bytes) + tokens * self._selection
        return total

    def _dense_prompts(self, chunks: Sequence[tuple[int, int]]) -> bool:
        """Whether the engine computes these prompts without choosing."""
        return bool(self._short) and max((sum(chunk) for chunk in chunks), default=0) <= self._short

    def _prompt(self, chunk: int, cached: int) -> tuple[Work, Work]:
        """Attention of a chunk over what is chosen, and the scores of the indexer."""
        spec, heads, seen = self.dense.spec, self.dense.heads, chunk + cached
        rows = chunk * mean_context(chunk, seen, spec.causal, spec.index_topk)
        moved = seen * self.dense.kv_bytes_per_token + chunk * heads * self._pair
        attended = Work(OpKind.ATTENTION, "bf16", rows * heads * self._pair, moved, q_len=chunk)
        pairs = chunk * mean_context(chunk, seen, spec.causal, 0)
        return attended, self._scores(pairs, seen, chunk)

    def _scores(self, pairs: float, keys: float, tokens: float) -> Work:
        dtype = "fp8" if "fp8" in self.dense.device.accelerator.peak_flops else "bf16"
        queries = tokens * self.dense.spec.index_n_heads * self.dense.spec.index_head_dim
        return Work(
            OpKind.ATTENTION,
            dtype,
            pairs * self._score_flops,
            keys * self._key_bytes + self._score_bytes * pairs + queries,
        )

    # -- what a batch does -------------------------------------------------------------------------------------------

    def _works(self, batch: BatchShape) -> list[Work]:
        if self._dense_prompts(batch.prefill):
            works = self.dense.works(BatchShape(batch.prefill, 0, 0))
        else:
            works = [work for chunk in batch.prefill for work in self._prompt(*chunk)]
        if batch.decodes:
            queries = self.dense.queries
            works += self.dense.works(BatchShape((), batch.decodes, batch.decode_context))
            works.append(self._scores(queries * batch.decode_context, batch.decode_context, 0.0))
        return works

    def floor(self, batch: BatchShape) -> float:
        """Bytes and FLOPs of the batch over datasheet rates."""
        return sum(self.dense.device.floor(work) for work in self._works(batch))

    def flops(self, batch: BatchShape) -> float:
        """FLOPs over chosen tokens and of the scores."""
        return sum(work.flops for work in self._works(batch))

    def bytes(self, batch: BatchShape) -> float:
        """Latents and keys read, scores written and read, queries and outputs."""
        return sum(work.bytes for work in self._works(batch))

"""Seconds of a serving iteration, from the same Ops, passes and cost as training.

An iteration over a batch is a sum of three terms:

* *linear*: everything that sees tokens one by one (projections, MLPs, norms, collectives, head). It depends on the
  number of tokens alone; it is priced at a grid of token counts and interpolated between them, or rounded up to the
  captured size where the engine replays CUDA graphs.
* *attention*: decode attention is affine in the summed context for a fixed batch; prefill chunks are priced one by one.
* *host*: launches and scheduling that the device waits for. An iteration that is not replayed from a CUDA graph takes
  as long as the host needs to launch its kernels at least (:mod:`simulator.serving.launches`): short prompts cost what
  long ones do, and decodes do not become faster with more ranks.

That decomposition makes the next iterations of an unchanged decode batch affine, which is what lets a replica jump.

A replica with ``data_parallel`` ranks has data-parallel attention: sequences are dealt out evenly over the ranks, which
run in step because their experts are shared; the fullest rank is priced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property

from simulator.cost.device import DeviceCost
from simulator.hardware.types import Fabric, Node
from simulator.serving.attention_terms import AttentionTerm, SoftmaxTerm, attention_term
from simulator.serving.launches import beside, decodes_beside
from simulator.serving.message_links import ALONE
from simulator.serving.separable import ChunkTerm, SeparableCost
from simulator.serving.sparse_terms import sparse_term
from simulator.serving.token_costs import LinearCost
from simulator.serving.token_wise import TokenWise
from simulator.strategies.decode_attention.kernels import Grid
from simulator.strategies.protocols import BatchShape, Segment
from simulator.strategies.serving_offload.streaming import RESIDENT, WeightStream
from simulator.strategies.serving_protocols import FOREVER
from simulator.strategies.sparsity.kept_context import ALL, KeptContext
from simulator.workload.framework import Framework
from simulator.workload.model import AttentionSpec, ModelSpec
from simulator.workload.plan import Plan

__all__ = ["ReplicaCost"]


class ReplicaCost(TokenWise):
    """Iteration times of one replica.

    Parameters
    ----------
    model, plan, framework
        What is served and how.
    node, fabric
        Where.
    kv_dtype
        Type of the cache.
    max_tokens
        Token budget of an iteration.
    scale
        Factors on constants by id.
    queries
        Tokens per decoding sequence and iteration; more than one where drafts are verified.
    kept
        Part of the context that attention reads.
    stream
        Weights that arrive from outside device memory in every iteration.
    grid
        Thread blocks of the decode attention kernel, where the deployment names one.
    """

    def __init__(
        self, model: ModelSpec, plan: Plan, framework: Framework, node: Node, fabric: Fabric, kv_dtype: str = "bf16",
        max_tokens: int = 8192, scale: Mapping[str, float] | None = None, *, queries: int = 1, kept: KeptContext = ALL,
        stream: WeightStream = RESIDENT, grid: Grid | None = None,
    ) -> None:  # fmt: skip
        super().__init__(model, plan, framework, node, fabric, max_tokens, scale, queries)
        self.kv_dtype, self.kept, self.stream, self.grid = kv_dtype, kept, stream, grid
        self._fixed_memo: dict[tuple[int, int], float] = {}

    @property
    def priced(self) -> list[ReplicaCost]:
        """Every model that is priced: this one."""
        return [self]

    # -- attention ---------------------------------------------------------------------------------------------------

    @cached_property
    def attention(self) -> list[list[tuple[AttentionTerm, int]]]:
        """Attention terms of every stage with the number of layers that have them."""
        terms: dict[AttentionSpec, AttentionTerm] = {}
        found = []
        for layers in self.layers_of_stage:
            counts: Counter[AttentionSpec] = Counter()
            for layer, count in layers.items():
                if layer.attention is not None:
                    counts[layer.attention] += count
            for spec in counts:
                if spec not in terms:
                    terms[spec] = self._term(spec)
                    self.used.update(terms[spec].constants)
            found.append([(terms[spec], count) for spec, count in counts.items()])
        return found

    def _term(self, spec: AttentionSpec) -> AttentionTerm:
        known, key = self._pricing.terms, (spec, self.kv_dtype, self.queries, self.kept, self.grid)
        if key not in known:
            known[key] = self.term_on(self.device, spec)
        return known[key]

    def term_on(self, device: DeviceCost, spec: AttentionSpec) -> AttentionTerm:
        """The attention of one layer at the prices of ``device``."""
        chosen = self.queries, self.kept, self.grid, self.plan.precision
        term = attention_term(spec, device, self.split.heads, self.kv_dtype, *chosen)
        return sparse_term(term) if spec.index_topk and isinstance(term, SoftmaxTerm) else term

    def _prefill_attention(self, stage: int, batch: BatchShape) -> float:
        chunks = self.attended(batch).prefill
        return sum(count * term.prefill(chunks) for term, count in self.attention[stage])

    def decode_attention(self, stage: int, batch: BatchShape) -> tuple[float, float, int]:
        """(seconds now, seconds more per iteration, iterations for which that holds) of a rank's decodes."""
        batch = self.attended(batch)
        decodes, context = batch.decodes, batch.decode_context
        per_token = self._per_token[stage]
        if per_token is not None:
            fixed = self._fixed_memo.get((stage, decodes))
            if fixed is None:
                fixed = sum(count * term.decode(decodes, 0.0)[0] for term, count in self.attention[stage])
                self._fixed_memo[stage, decodes] = fixed
            return fixed + per_token * context, per_token * decodes, FOREVER
        seconds = slope = 0.0
        valid = FOREVER
        for term, count in self.attention[stage]:
            now, growth, holds = term.decode(decodes, context)
            seconds += count * now
            slope += count * growth
            valid = min(valid, holds)
        return seconds, slope, valid

    @cached_property
    def _cache_wire(self) -> list[float]:
        """Seconds per token of context and iteration in which each stage reads its cache outside the device."""
        away = (1.0 - self.stream.cache) / self.stream.cache_rate
        if not away:
            return [0.0] * self.stages
        return [away * sum(n * getattr(t, "kv_bytes_per_token", 0.0) for t, n in terms) for terms in self.attention]

    @cached_property
    def _per_token(self) -> list[float | None]:
        """Seconds per token of context of each stage, where no window or budget ends the growth."""
        return [
            None
            if any(term.bounded for term, _ in terms)
            else sum(count * term.decode(1, 0.0)[1] for term, count in terms)
            for terms in self.attention
        ]

    # -- the protocol ------------------------------------------------------------------------------------------------

    @cached_property
    def _host(self) -> tuple[float, float]:
        return self._constant("host_per_step"), self._constant("host_per_sequence")

    def host_seconds(self, sequences: int) -> float:
        """Host seconds of an iteration over so many sequences."""
        fixed, each = self._host
        return fixed + each * sequences

    def device_times(self, batch: BatchShape) -> list[float]:
        """Device seconds of each stage, the arrival of streamed weights included."""
        mine = self.local(batch)
        tokens, rows, mixed = self.tokens(mine), self.rows(mine), bool(mine.prefill)
        times = []
        for stage in range(self.stages):
            device = self.linear_seconds(stage, tokens, rows, mixed)
            if mine.prefill:
                device += self._prefill_attention(stage, mine)
            if mine.decodes:
                device += self.decode_attention(stage, mine)[0]
            device = beside(device, self._launches(stage, tokens, mine.decodes, mixed), self._exposed)
            away = self._cache_wire[stage] * mine.decode_context / self.split.sequences
            times.append(max(device + self.stream.exposed(stage, tokens), self.stream.hidden(stage, tokens) + away))
        return times

    def stage_times(self, batch: BatchShape) -> list[float]:
        """Seconds each stage is occupied by ``batch``."""
        times = self.device_times(batch)
        host = self.host_seconds(batch.decodes + len(batch.prefill))
        if self.framework.async_scheduling:
            return [max(t, host) for t in times]
        times[0] += host
        return times

    def iteration(self, batch: BatchShape) -> float:
        """Duration of one iteration through all stages [s]."""
        return sum(self.stage_times(batch))

    def decode_segment(self, batch: BatchShape) -> Segment:
        """Durations of the next iterations of an unchanged decode batch."""
        mine = self.local(batch)
        tokens = rows = mine.decodes * self.queries
        host = self.host_seconds(batch.decodes)
        overlapped = self.framework.async_scheduling
        base = slope = 0.0
        valid = FOREVER
        for stage in range(self.stages):
            seconds, growth, holds = self.decode_attention(stage, mine)
            seconds += self.linear_seconds(stage, tokens, rows)
            launches = self._launches(stage, tokens, mine.decodes, False)
            seconds, growth, holds = decodes_beside(seconds, growth, holds, launches, self._exposed)
            seconds += self.stream.exposed(stage, tokens)
            valid = min(valid, holds)
            # The device waits for weights and a cache elsewhere, or for the host, until contexts have grown enough.
            wire = self._cache_wire[stage] / self.split.sequences
            wait, slower = self.stream.hidden(stage, tokens) + wire * mine.decode_context, wire * mine.decodes
            least = host if overlapped else 0.0
            if least > wait:
                valid = min(valid, max(1, int((least - wait) / slower) + 1)) if slower else valid
                wait, slower = least, 0.0
            lead, faster = abs(wait - seconds), growth - slower
            if seconds < wait:
                seconds, growth, faster = wait, slower, faster
            else:
                faster = -faster
            if faster > 0:
                valid = min(valid, max(1, int(lead / faster) + 1))
            base += seconds
            slope += growth
        return Segment(base if overlapped else base + host, slope, max(1, valid))

    def separate(self) -> SeparableCost | None:
        """The cost by terms; ``None`` with stages, ranks, drafts, windows, recurrent mixers or a stream that varies."""
        terms = [(term, count) for term, count in self.attention[0] if isinstance(term, SoftmaxTerm)]
        ranks = self.ranks * self.split.sequences
        plain = self.stages == 1 and ranks == 1 and self.queries == 1 and len(terms) == len(self.attention[0])
        per_token = self._per_token[0]
        fixed = type(self.stream) is WeightStream and self.stream.cache == 1.0 and not self.links.slow
        if not plain or not fixed or per_token is None:
            return None

        def decodes(count: int) -> tuple[float, float]:
            return self.linear_seconds(0, count, count), self.decode_attention(0, BatchShape((), count, 0))[0]

        return SeparableCost(
            lambda tokens: self._body_seconds(0, tokens, True), self._head_seconds, decodes,
            tuple(ChunkTerm(count, term.prefill_launch, term.chunk_seconds) for term, count in terms),
            self.layer_gaps(0), per_token, self.stream.exposed(0), self.stream.hidden(0), *self._host,
            self.framework.async_scheduling, *self._launching[0], self._exposed, *self._captured_sizes,
            self._pricing.tables_of((self.kv_dtype, self.kept, self.grid, self.costs.largest), len(terms))
            if self.links is ALONE else None,
        )  # fmt: skip

    def floor(self, batch: BatchShape) -> float:
        """Roofline bound of an iteration: Σ over its Ops of max(FLOPs/peak, bytes/bandwidth) [s]."""
        mine = self.local(batch)
        total = sum(count * linear.floor for count, linear in self._below(mine))
        mine = self.attended(mine)
        return total + sum(c * term.floor(mine) for terms in self.attention for term, c in terms)

    def flops(self, batch: BatchShape) -> float:
        """FLOPs of an iteration on one rank of each stage together."""
        mine = self.local(batch)
        total = sum(count * linear.flops for count, linear in self._below(mine))
        mine = self.attended(mine)
        return total + sum(c * term.flops(mine) for terms in self.attention for term, c in terms)

    def traffic(self, batch: BatchShape) -> dict[str, float]:
        """Bytes an iteration moves by link class, over one rank of each stage together."""
        mine = self.local(batch)
        moved = {"hbm": 0.0, "scale_up": 0.0, "scale_out": 0.0}
        for count, linear in self._below(mine):
            moved["hbm"] += count * linear.hbm
            moved["scale_up"] += count * linear.scale_up
            moved["scale_out"] += count * linear.scale_out
        moved["hbm"] += sum(c * term.bytes(self.attended(mine)) for terms in self.attention for term, c in terms)
        if self.stages > 1:
            inside = self.layout.inside_domain(self.layout.neighbour("pp"))
            sent = (self.stages - 1) * self.tokens(mine) * self.model.hidden_size * 2.0
            moved["scale_up" if inside else "scale_out"] += sent
        return moved | dict(self.stream.traffic)

    def breakdown(self, batch: BatchShape) -> dict[str, float]:
        """Where the seconds of a decode iteration go: they add up to :meth:`iteration`."""
        mine = self.local(batch)
        attention = sum(self.decode_attention(stage, mine)[0] for stage in range(self.stages)) if mine.decodes else 0.0
        attention += sum(self._prefill_attention(stage, mine) for stage in range(self.stages) if mine.prefill)
        gaps = sum(self.layer_gaps(stage) for stage in range(self.stages))
        tokens, rows, mixed = self.tokens(mine), self.rows(mine), bool(mine.prefill)
        linear = sum(self.linear_seconds(stage, tokens, rows, mixed) for stage in range(self.stages)) - gaps
        weights = sum(self.device_times(batch)) - attention - linear - gaps
        host = self.iteration(batch) - attention - linear - gaps - weights
        parts = {"attention": attention, "linear": linear, "host": host + gaps}
        waits = "host" if self.stream is RESIDENT else "weight_streaming"  # beside the kernels, for launches or weights
        return parts | {waits: parts.get(waits, 0.0) + weights}

    def _below(self, batch: BatchShape) -> list[tuple[int, LinearCost]]:
        """Every part with its count, at the grid size at or below a rank's batch: a bound from below."""
        tokens = self.tokens(batch)
        found = [(1, self.costs.below("embedding", tokens)), (1, self.costs.below("head", self.rows(batch)))]
        for layers in self.layers_of_stage:
            found += [(count, self.costs.below(layer, tokens)) for layer, count in layers.items()]
        return found

"""Seconds of a serving iteration, from the same Ops, passes and cost as training.

An iteration over a batch is a sum of three terms:

* *linear*: everything that sees tokens one by one (projections, MLPs, norms, collectives, head). It depends on the number
  of tokens alone; it is priced at a grid of token counts and interpolated between them (with CUDA graphs, rounded up to
  the captured size as the engine does).
* *attention*: decode attention is affine in the summed context for a fixed batch; prefill chunks are priced one by one.
* *host*: launches and scheduling that the device waits for.

That decomposition makes the next iterations of an unchanged decode batch affine, which is what lets a replica jump.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from simulator.cost.device import DeviceCost
from simulator.cost.network import NetworkCost
from simulator.cost.priced import Priced
from simulator.hardware.types import Fabric, Node
from simulator.serving.attention_terms import AttentionTerm, attention_term
from simulator.strategies.compile import compile_block
from simulator.strategies.protocols import BatchShape, Segment
from simulator.workload.framework import Framework
from simulator.workload.lowering import LoweringContext, lower_embedding, lower_head, lower_layer
from simulator.workload.model import AttentionSpec, LayerSpec, ModelSpec
from simulator.workload.ops import Block, Collective, Op, OpKind, Work
from simulator.workload.plan import Plan
from simulator.strategies.rank_layout import RankLayout
from simulator.workload.work import work_of

__all__ = ["ReplicaCost"]

FOREVER = 1 << 60


def _grid(limit: int) -> list[int]:
    """Token counts that are priced: CUDA-graph capture sizes of vLLM (1, 2, 4, 8, then every 8) and coarser beyond 256."""
    sizes = [1, 2, 4, *range(8, 257, 8), *range(288, 513, 32), *range(640, 2049, 128), *range(2560, 8193, 512)]
    while sizes[-1] < limit:
        sizes.append(sizes[-1] * 5 // 4)
    return sizes


CAPTURED = 512
"""Largest batch that engines capture as a CUDA graph (vLLM default)."""


class _Linear(NamedTuple):
    """Device seconds, roofline bound [s], FLOPs, and bytes by link class of the token-wise part."""

    seconds: float
    floor: float
    flops: float
    hbm: float
    scale_up: float
    scale_out: float


class ReplicaCost:
    """Iteration times of one replica.

    Parameters
    ----------
    model, plan, framework
        What is served and how.
    node, fabric
        Where.
    kv_dtype
        Type of the cache.
    scale
        Factors on constants by id.
    """

    def __init__(
        self,
        model: ModelSpec,
        plan: Plan,
        framework: Framework,
        node: Node,
        fabric: Fabric,
        kv_dtype: str = "bf16",
        max_tokens: int = 8192,
        scale: Mapping[str, float] | None = None,
    ) -> None:
        self.model, self.plan, self.framework, self.node, self.fabric = model, plan, framework, node, fabric
        self.kv_dtype, self.scale = kv_dtype, dict(scale or {})
        self.device = DeviceCost(node.accelerator, framework, self.scale)
        self.network = NetworkCost(node, fabric, framework, self.scale)
        self.layout = RankLayout(plan, node)
        self.mesh = plan.mesh
        self.stages = plan.pipeline_parallel
        self._sizes = _grid(max_tokens)
        self._knots: dict[tuple[int, int], _Linear] = {}
        self._linear_memo: dict[tuple[int, int, int], float] = {}
        self._decode_memo: dict[int, tuple[float, float]] = {}
        self.used: set[str] = set()

    # -- shape -----------------------------------------------------------------------------------------------------

    @cached_property
    def layers_of_stage(self) -> list[Counter[LayerSpec]]:
        """Distinct layers of every pipeline stage with their counts; stages differ by one layer at most."""
        layers = self.model.layer_list()
        share, rest = divmod(len(layers), self.stages)
        found, start = [], 0
        for stage in range(self.stages):
            size = share + (stage < rest)
            found.append(Counter(layers[start : start + size]))
            start += size
        return found

    @cached_property
    def parts(self) -> list[LayerSpec | str]:
        """Everything that is lowered: distinct layers, embedding, head."""
        return [*dict.fromkeys(self.model.layer_list()), "embedding", "head"]

    def block(self, part: LayerSpec | str, tokens: int) -> Block:
        """Compiled forward Ops of one part for ``tokens`` tokens."""
        ctx = LoweringContext(self.model, 1, tokens, False, self.framework)
        if part == "embedding":
            block = lower_embedding(ctx)
        elif part == "head":
            block = lower_head(ctx)
        else:
            assert isinstance(part, LayerSpec)
            block = lower_layer(part, ctx)
        return compile_block(block, self.plan, self.framework, "serving")

    # -- token-wise part ---------------------------------------------------------------------------------------------

    def _knot(self, index: int, tokens: int) -> _Linear:
        known = self._knots.get((index, tokens))
        if known is None:
            seconds = floor = flops = hbm = scale_up = scale_out = 0.0
            for op in self.block(self.parts[index], tokens).forward:
                if op.kind is OpKind.ATTENTION:
                    continue
                work, priced = self._price(op)
                seconds += priced.seconds
                self.used.update(priced.constants)
                if op.kind is OpKind.COLLECTIVE:
                    sent = self.layout.wire_bytes(op.collective, work.message, self.layout.group(op.axis))
                    scale_up += sent["scale_up"]
                    scale_out += sent["scale_out"]
                else:
                    floor += priced.floor
                    flops += work.flops
                    hbm += work.bytes
            known = self._knots[index, tokens] = _Linear(seconds, floor, flops, hbm, scale_up, scale_out)
        return known

    def _price(self, op: Op) -> tuple[Work, Priced]:
        if op.kind is OpKind.COLLECTIVE:
            group = self.layout.group(op.axis)
            work = work_of(op, self.mesh, group.ranks)
            return work, self.network.price(work, group)
        work = work_of(op, self.mesh)
        return work, self.device.price(work)

    def _part_seconds(self, index: int, tokens: int) -> float:
        """Token-wise seconds of one part, interpolated between grid sizes."""
        sizes = self._sizes
        at = bisect_left(sizes, tokens)
        if at >= len(sizes):
            last = self._knot(index, sizes[-1])
            return last.seconds * tokens / sizes[-1]
        high = self._knot(index, sizes[at])
        if sizes[at] == tokens or at == 0 or (self.framework.cuda_graphs and tokens <= CAPTURED):
            return high.seconds
        low = self._knot(index, sizes[at - 1])
        share = (tokens - sizes[at - 1]) / (sizes[at] - sizes[at - 1])
        return low.seconds + share * (high.seconds - low.seconds)

    def linear_seconds(self, stage: int, tokens: int, sequences: int) -> float:
        """Token-wise device seconds of a stage; ``sequences`` rows reach the head."""
        key = (stage, tokens, sequences if stage == self.stages - 1 else 0)
        known = self._linear_memo.get(key)
        if known is None:
            index = {part: i for i, part in enumerate(self.parts)}
            total = sum(
                count * self._part_seconds(index[layer], tokens) for layer, count in self.layers_of_stage[stage].items()
            )
            if stage == 0:
                total += self._part_seconds(index["embedding"], tokens)
            if stage == self.stages - 1:
                total += self._part_seconds(index["head"], sequences)
            else:
                total += self._send_seconds(tokens)
            known = self._linear_memo[key] = total + self._layer_gaps(stage)
        return known

    def _send_seconds(self, tokens: int) -> float:
        message = tokens * self.model.hidden_size * 2.0
        work = Work(OpKind.P2P, "bf16", collective=Collective.SEND_RECV.value, message=message, axis="pp", ranks=2)
        return self.network.price(work, self.layout.neighbour("pp")).seconds

    def _layer_gaps(self, stage: int) -> float:
        return self._constant("host_per_layer") * sum(self.layers_of_stage[stage].values())

    def _constant(self, key: str) -> float:
        constant = self.framework.constants.get(key)
        if constant is None:
            return 0.0
        self.used.add(constant.id)
        return constant.value * self.scale.get(constant.id, 1.0)

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
                    terms[spec] = attention_term(spec, self.device, self.mesh, self.kv_dtype)
                    self.used.update(terms[spec].constants)
            found.append([(terms[spec], count) for spec, count in counts.items()])
        return found

    def _prefill_attention(self, stage: int, chunks: Sequence[tuple[int, int]]) -> float:
        return sum(count * term.prefill(chunks) for term, count in self.attention[stage])

    def _decode_attention(self, stage: int, decodes: int, context: float) -> tuple[float, float, int]:
        """(seconds now, seconds more per iteration, iterations for which that holds)."""
        seconds = slope = 0.0
        valid = FOREVER
        for term, count in self.attention[stage]:
            now, growth, holds = term.decode(decodes, context)
            seconds += count * now
            slope += count * growth
            valid = min(valid, holds)
        return seconds, slope, valid

    # -- the protocol ------------------------------------------------------------------------------------------------

    @cached_property
    def host(self) -> float:
        """Host seconds per iteration, batch apart."""
        return self._constant("host_per_step")

    @cached_property
    def host_per_sequence(self) -> float:
        """Host seconds per sequence of the batch."""
        return self._constant("host_per_sequence")

    def _host_seconds(self, sequences: int) -> float:
        return self.host + self.host_per_sequence * sequences

    def stage_times(self, batch: BatchShape) -> list[float]:
        """Seconds each stage is occupied by ``batch``."""
        sequences = batch.decodes + len(batch.prefill)
        tokens = batch.tokens
        times = []
        for stage in range(self.stages):
            device = self.linear_seconds(stage, tokens, sequences)
            if batch.prefill:
                device += self._prefill_attention(stage, batch.prefill)
            if batch.decodes:
                device += self._decode_attention(stage, batch.decodes, batch.decode_context)[0]
            times.append(device)
        host = self._host_seconds(sequences)
        if self.framework.async_scheduling:
            times = [max(t, host) for t in times]
        else:
            times[0] += host
        return times

    def iteration(self, batch: BatchShape) -> float:
        """Duration of one iteration through all stages [s]."""
        return sum(self.stage_times(batch))

    def decode_segment(self, batch: BatchShape) -> Segment:
        """Durations of the next iterations of an unchanged decode batch."""
        n, context = batch.decodes, batch.decode_context
        host = self._host_seconds(n)
        base = slope = 0.0
        valid = FOREVER
        for stage in range(self.stages):
            seconds, growth, holds = self._decode_attention(stage, n, context)
            seconds += self.linear_seconds(stage, n, n)
            valid = min(valid, holds)
            if not self.framework.async_scheduling:
                seconds += host if stage == 0 else 0.0
            elif seconds < host:  # the device waits for the host until contexts have grown enough
                if growth > 0:
                    valid = min(valid, max(1, int((host - seconds) / growth) + 1))
                seconds, growth = host, 0.0
            base += seconds
            slope += growth
        return Segment(base, slope, max(1, valid))

    def floor(self, batch: BatchShape) -> float:
        """Roofline bound of an iteration: Σ over its Ops of max(FLOPs/peak, bytes/bandwidth) [s]."""
        total = sum(count * linear.floor for count, linear in self._below(batch))
        return total + sum(c * term.floor(batch) for terms in self.attention for term, c in terms)

    def flops(self, batch: BatchShape) -> float:
        """FLOPs of an iteration on one rank of each stage together."""
        total = sum(count * linear.flops for count, linear in self._below(batch))
        return total + sum(c * term.flops(batch) for terms in self.attention for term, c in terms)

    def traffic(self, batch: BatchShape) -> dict[str, float]:
        """Bytes an iteration moves by link class, over one rank of each stage together."""
        moved = {"hbm": 0.0, "scale_up": 0.0, "scale_out": 0.0}
        for count, linear in self._below(batch):
            moved["hbm"] += count * linear.hbm
            moved["scale_up"] += count * linear.scale_up
            moved["scale_out"] += count * linear.scale_out
        moved["hbm"] += sum(c * term.bytes(batch) for terms in self.attention for term, c in terms)
        if self.stages > 1:
            inside = self.layout.inside_domain(self.layout.neighbour("pp"))
            moved["scale_up" if inside else "scale_out"] += (
                (self.stages - 1) * batch.tokens * self.model.hidden_size * 2.0
            )
        return moved

    def _below(self, batch: BatchShape) -> list[tuple[int, _Linear]]:
        """Every part with its count, at the grid size at or below the batch: a bound from below."""
        index = {part: i for i, part in enumerate(self.parts)}
        found = [(1, self._at_or_below(index["embedding"], batch.tokens))]
        found.append((1, self._at_or_below(index["head"], batch.decodes + len(batch.prefill))))
        for layers in self.layers_of_stage:
            found += [(count, self._at_or_below(index[layer], batch.tokens)) for layer, count in layers.items()]
        return found

    def _at_or_below(self, index: int, tokens: int) -> _Linear:
        at = max(0, bisect_left(self._sizes, tokens + 1) - 1)
        return self._knot(index, self._sizes[at])

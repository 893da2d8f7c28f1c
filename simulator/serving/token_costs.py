"""Token-wise work of the parts of a served model: everything but attention over the cache.

A part is a distinct layer, the embedding or the head. Its Ops are lowered, rewritten by the plan's passes and priced
at a grid of token counts; in between the seconds are interpolated, or rounded up to the captured size where an engine
replays CUDA graphs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from simulator.constants import Trust
from simulator.cost.priced import Priced
from simulator.cost.sensitivity import by_trust
from simulator.serving.message_links import ALONE, Away, together
from simulator.serving.pricing import Pricing
from simulator.strategies.compile import compile_block
from simulator.strategies.rank_layout import RankLayout
from simulator.workload.expert_blocks import as_expert_blocks
from simulator.workload.framework import Framework
from simulator.workload.lowering import LoweringContext, lower_embedding, lower_head, lower_layer
from simulator.workload.lowering_apart import operators_apart
from simulator.workload.model import LayerSpec, ModelSpec
from simulator.workload.ops import Block, Collective, Op, OpKind, Work
from simulator.workload.plan import Plan
from simulator.workload.work import work_of

__all__ = ["LinearCost", "Part", "TokenCosts", "grid", "layers_of_stage", "served_block"]

Part = LayerSpec | str

_NARROW = ("fp8", "int8", "fp6", "fp4", "int4")
"""Types of arithmetic for which a kernel of its own converts activations."""

_FEW = 512
"""Tokens of the batch whose Ops are counted; their number does not depend on it."""


class LinearCost(NamedTuple):
    """Of token-wise Ops: device seconds, roofline bound [s], FLOPs, bytes by link class, seconds of all-to-alls, and
    the messages that leave domains."""

    seconds: float
    floor: float
    flops: float
    hbm: float
    scale_up: float
    scale_out: float
    messages: float = 0.0
    away: tuple[Away, ...] = ()


def grid(limit: int) -> list[int]:
    """Token counts that are priced: the CUDA-graph capture sizes of vLLM (1, 2, 4, multiples of 8 to 256, of 16 to
    512), coarser beyond."""
    sizes = [1, 2, 4, *range(8, 257, 8), *range(272, 513, 16), *range(640, 2049, 128), *range(2560, 8193, 512)]
    while sizes[-1] < limit:
        sizes.append(sizes[-1] * 5 // 4)
    return sizes


def layers_of_stage(model: ModelSpec, stages: int) -> list[tuple[LayerSpec, ...]]:
    """The layers of every pipeline stage in order; stages differ by one layer at most, the first are the fuller
    ones."""
    layers = model.layer_list()
    share, rest = divmod(len(layers), stages)
    found, start = [], 0
    for stage in range(stages):
        size = share + (stage < rest)
        found.append(layers[start : start + size])
        start += size
    return found


def served_block(part: Part, model: ModelSpec, plan: Plan, framework: Framework, tokens: int) -> Block:
    """Compiled forward Ops of one part for ``tokens`` tokens."""
    ctx = LoweringContext(model, 1, tokens, False, framework)
    if part == "embedding":
        block = lower_embedding(ctx)
    elif part == "head":
        block = lower_head(ctx)
    else:
        assert isinstance(part, LayerSpec)
        block = lower_layer(part, ctx)
    if framework.operators_apart:
        block = operators_apart(block)
    compiled = compile_block(block, plan, framework, "serving")
    return as_expert_blocks(compiled) if framework.expert_kernels else compiled


def _token_wise(op: Op) -> bool:
    """Attention over the cache is priced apart; no token meets the projection of an encoder's keys and values."""
    return op.kind is not OpKind.ATTENTION and not (op.kind is OpKind.GEMM and not op.flops())


class TokenCosts:
    """Prices the parts of a model on one rank.

    Parameters
    ----------
    model, plan, framework
        What is served and how.
    pricing, layout
        Prices and places of the Ops.
    max_tokens
        Largest iteration that is priced exactly [tokens]; beyond, the grid goes on geometrically.

    Attributes
    ----------
    used
        Ids of the constants the prices rest on.
    links
        What messages between domains meet there.
    """

    def __init__(
        self, model: ModelSpec, plan: Plan, framework: Framework, pricing: Pricing, layout: RankLayout, max_tokens: int
    ) -> None:
        self.model, self.plan, self.framework = model, plan, framework
        self.device, self.network, self.layout = pricing.device, pricing.network, layout
        self.used: set[str] = set()
        self.links = ALONE
        self._sizes = grid(max_tokens)
        self._knots: dict[tuple[int, int], LinearCost] = {}
        self._priced, self._blocks = pricing.knots, pricing.blocks

    @property
    def largest(self) -> int:
        """Tokens beyond which seconds grow in proportion."""
        return self._sizes[-1]

    @cached_property
    def parts(self) -> list[Part]:
        """Everything that is lowered: distinct layers, embedding, head."""
        return [*dict.fromkeys(self.model.layer_list()), "embedding", "head"]

    @cached_property
    def _index(self) -> dict[Part, int]:
        return {part: i for i, part in enumerate(self.parts)}

    def _ops(self, part: Part, tokens: int) -> tuple[Op, ...]:
        """Forward Ops of one part."""
        model, plan, framework = self.model, self.plan, self.framework
        made = self._blocks.at(self._index[part], tokens, lambda: served_block(part, model, plan, framework, tokens))
        return made.forward

    def price(self, op: Op) -> tuple[Work, Priced]:
        """Local work and time of one Op."""
        if op.kind is OpKind.COLLECTIVE:
            group = self.layout.group(op.axis)
            work = work_of(op, self.plan.mesh, group.ranks)
            return work, self.network.price(work, group)
        work = work_of(op, self.plan.mesh)
        return work, self.device.price(work)

    def seconds(self, part: Part, tokens: int, *, captured: bool) -> float:
        """Seconds of one part; ``captured``: padded to the next size instead of interpolated."""
        links = self.links
        return self._at(part, tokens, captured, lambda knot: knot.seconds + links.added(knot.away))

    def messages(self, part: Part, tokens: int, *, captured: bool) -> float:
        """Seconds of :meth:`seconds` in which rows travel between experts, on links that nobody else uses."""
        return self._at(part, tokens, captured, lambda knot: knot.messages)

    def away(self, part: Part, tokens: int, *, captured: bool) -> list[Away]:
        """Messages of one part that leave a scale-up domain."""
        known = self._knot(self._index[part], self._sizes[0]).away

        def at(number: int, value: Callable[[Away], float]) -> float:
            return self._at(part, tokens, captured, lambda knot: value(knot.away[number]))

        return [
            a._replace(size=at(i, lambda one: one.size), seconds=at(i, lambda one: one.seconds))
            for i, a in enumerate(known)
        ]

    def _at(self, part: Part, tokens: int, captured: bool, value: Callable[[LinearCost], float]) -> float:
        index, sizes = self._index[part], self._sizes
        at = bisect_left(sizes, tokens)
        if at >= len(sizes):
            return value(self._knot(index, sizes[-1])) * tokens / sizes[-1]
        high = value(self._knot(index, sizes[at]))
        if sizes[at] == tokens or at == 0 or captured:
            return high
        low = value(self._knot(index, sizes[at - 1]))
        share = (tokens - sizes[at - 1]) / (sizes[at] - sizes[at - 1])
        return low + share * (high - low)

    def by_trust(self, part: Part, tokens: int) -> dict[Trust, float]:
        """Seconds of the Ops of one part at the next grid size, by trust of their constants."""
        size = self._sizes[min(bisect_left(self._sizes, tokens), len(self._sizes) - 1)]
        found: dict[Trust, float] = {}
        for op in self._ops(part, size):
            if _token_wise(op):
                for trust, seconds in self._op_by_trust(op).items():
                    found[trust] = found.get(trust, 0.0) + seconds
        return found

    def _op_by_trust(self, op: Op) -> dict[Trust, float]:
        work, priced = self.price(op)
        if op.kind is OpKind.COLLECTIVE:
            group, network = self.layout.group(op.axis), self.network
            known = network.constants.entries
            return by_trust(
                lambda scale: (network.moved(scale) if scale else network).price(work, group).seconds,
                [known[name] for name in priced.constants],
            )
        device = self.device
        known = device.constants.entries
        return by_trust(
            lambda scale: (device.moved(scale) if scale else device).price(work).seconds,
            [known[name] for name in priced.constants],
        )

    def launches(self, part: Part, tokens: int = _FEW) -> int:
        """Kernels of one part that a host launches outside a CUDA graph: its Ops, and the conversion of the activations
        of every GEMM in fewer than 16 bits. Those of an engine whose operators are kernels of their own are counted."""
        if self.framework.operators_apart:
            return self.kernels(part, tokens)
        ops = self._ops(part, tokens)
        return len(ops) + sum(op.dtype in _NARROW and op.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM) for op in ops)

    def pieces(self, layer: LayerSpec, tokens: int = _FEW) -> int:
        """Launches of a layer where graphs are replayed piece by piece: its piece, and the kernels between two of them.

        Those are the attention kernel (``splitting_ops`` of vLLM) and, where attention is latent, all that is before
        the projection of its output (``mla_custom_op_inplace`` of TensorRT-LLM's ``piecewise_optimizer``).
        """
        if layer.attention is None or layer.attention.kind != "latent":
            return 2 if layer.attention else 0
        ops = served_block(layer, self.model, self.plan, self.framework, tokens).forward
        between = ops[1 : 1 + next(i for i, op in enumerate(ops) if op.kind is OpKind.ATTENTION)]
        return 1 + len(between) + sum(op.dtype in _NARROW and op.kind is OpKind.GEMM for op in between)

    def stage_launches(self, layers: Sequence[Mapping[LayerSpec, int]], stage: int, tokens: int = _FEW) -> int:
        """The same of a stage, whose distinct layers are counted; the first embeds and the last has the head."""
        ends = ["embedding"] * (stage == 0) + ["head"] * (stage == len(layers) - 1)
        body = sum(n * self.launches(layer, tokens) for layer, n in layers[stage].items())
        return body + sum(self.launches(end, tokens) for end in ends)

    def unpacks(self, layer: LayerSpec) -> bool:
        """Whether weights of a layer's experts are widened on their way to the products (MXFP4 before Blackwell)."""
        if "fp4" in self.device.accelerator.peak_flops:
            return False
        ops = self._ops(layer, _FEW)
        return any(op.kind is OpKind.GROUPED_GEMM and op.dtype == "fp4" for op in ops)

    def kernels(self, part: Part, tokens: int) -> int:
        """Kernels that the engine launches for one part, attention over the cache included."""
        ops = self._ops(part, tokens)
        return sum(self.device.engine.launched(work_of(op, self.plan.mesh)) for op in ops)

    def below(self, part: Part, tokens: int) -> LinearCost:
        """Cost at the grid size at or below ``tokens``: a bound from below."""
        at = max(0, bisect_left(self._sizes, tokens + 1) - 1)
        return self._knot(self._index[part], self._sizes[at])

    def _knot(self, index: int, tokens: int) -> LinearCost:
        known = self._knots.get((index, tokens))
        if known is None:
            if (index, tokens) not in self._priced:
                self._priced[index, tokens] = self._price_part(self.parts[index], tokens)
            known, used = self._priced[index, tokens]
            self._knots[index, tokens] = known
            self.used |= used
        return known

    def _price_part(self, part: Part, tokens: int) -> tuple[LinearCost, frozenset[str]]:
        used: set[str] = set()
        seconds = floor = flops = hbm = scale_up = scale_out = messages = 0.0
        away: list[Away] = []
        for op in self._ops(part, tokens):
            if not _token_wise(op):
                continue
            work, priced = self.price(op)
            seconds += priced.seconds
            used.update(priced.constants)
            if op.kind is OpKind.COLLECTIVE:
                group = self.layout.group(op.axis)
                if not self.layout.inside_domain(group):
                    away.append(Away(op.axis, str(work.collective), work.message, priced.seconds))
                sent = self.layout.wire_bytes(op.collective, work.message, group)
                scale_up += sent["scale_up"]
                scale_out += sent["scale_out"]
                messages += priced.seconds * (op.collective is Collective.ALL_TO_ALL)
            else:
                floor += priced.floor
                flops += work.flops
                hbm += work.bytes
        return LinearCost(seconds, floor, flops, hbm, scale_up, scale_out, messages, together(away)), frozenset(used)

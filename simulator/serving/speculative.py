"""Iteration times with speculative decoding, behind the same protocol as plain iterations.

One engine iteration drafts, verifies q tokens per sequence and yields a > 1 of them on average. The replica counts one
token per sequence and iteration, so an iteration here is 1/a of an engine's: its decodes take (verification +
drafts)/a, and prompts beside them add all they cost. Prompts wait for the engine's iteration to its end, however: one
with prompts lasts longer by :meth:`SpeculativeCost.ahead` and yields a tokens per sequence on average. Either way the
device does exactly the engine's work over a run. Token conservation, block accounting and affine segments stay as they
are. What is averaged away is the burst: tokens of one verification arrive together, here they are spread evenly, so
gaps between tokens are means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from simulator.hardware.types import Fabric, Node
from simulator.serving.iteration import ReplicaCost
from simulator.serving.message_links import Away
from simulator.strategies.decode_attention.kernels import Grid
from simulator.strategies.protocols import BatchShape, Segment
from simulator.strategies.serving_offload.streaming import RESIDENT, WeightStream
from simulator.strategies.sparsity.kept_context import ALL, KeptContext
from simulator.strategies.speculation.base import Draft, Speculation
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan

__all__ = ["SpeculativeCost", "draft_plan"]

_Quantity = Callable[[ReplicaCost, BatchShape], float]


def draft_plan(plan: Plan, draft: ModelSpec) -> Plan:
    """How a draft model runs beside a target: on the tensor-parallel ranks of its last stage, its experts where the
    target's are, in 16 bit."""
    experts = any(layer.mlp is not None and layer.mlp.is_moe for layer, _ in draft.layers)
    ranks = plan.expert_parallel if experts else 1
    return Plan(tensor_parallel=plan.tensor_parallel, data_parallel=plan.data_parallel, expert_parallel=ranks)


class SpeculativeCost:
    """A target that verifies what a draft proposes.

    Parameters
    ----------
    speculation
        The strategy: tokens verified and yielded per iteration, and who drafts.
    model, plan, framework, node, fabric, kv_dtype, max_tokens, scale, kept, stream, grid
        Of the target, as in :class:`~simulator.serving.iteration.ReplicaCost`.
    """

    def __init__(
        self, speculation: Speculation, model: ModelSpec, plan: Plan, framework: Framework, node: Node, fabric: Fabric,
        kv_dtype: str = "bf16", max_tokens: int = 8192, scale: Mapping[str, float] | None = None, *,
        kept: KeptContext = ALL, stream: WeightStream = RESIDENT, grid: Grid | None = None,
    ) -> None:  # fmt: skip
        self.speculation = speculation
        self.yielded = speculation.expected_tokens
        self.target = ReplicaCost(
            model, plan, framework, node, fabric, kv_dtype, max_tokens, scale, queries=speculation.verify_tokens,
            kept=kept, stream=stream, grid=grid,
        )  # fmt: skip
        draft = speculation.draft(model)
        self.draft: Draft | None = draft
        self.passes: list[ReplicaCost] = []
        if draft is not None:
            beside = draft_plan(plan, draft.model)
            by_queries = {
                n: ReplicaCost(draft.model, beside, framework, node, fabric, kv_dtype, max_tokens, scale, queries=n)
                for n in dict.fromkeys(draft.steps)
            }
            self.passes = [by_queries[n] for n in draft.steps]
        self.framework, self.node, self.stages = framework, node, self.target.stages

    @property
    def priced(self) -> list[ReplicaCost]:
        """The target and the distinct draft passes."""
        return [self.target, *dict.fromkeys(self.passes)]

    @property
    def used(self) -> set[str]:
        """Ids of the constants the times rest on."""
        return set().union(*(cost.used for cost in self.priced))

    # -- drafts ------------------------------------------------------------------------------------------------------

    def draft_seconds(self, batch: BatchShape) -> float:
        """Device seconds of all draft passes over the decodes of ``batch``; the host prepares them with the
        iteration."""
        decodes = BatchShape((), batch.decodes, batch.decode_context, batch.decode_max_context)
        return sum(sum(cost.device_times(decodes)) for cost in self.passes) if batch.decodes else 0.0

    def _draft_prompts(self, batch: BatchShape) -> float:
        """Device seconds of the draft over the prompts of ``batch``."""
        if not batch.prefill or self.draft is None or not self.draft.reads_prompts:
            return 0.0
        return sum(self.passes[0].device_times(BatchShape(batch.prefill, 0, 0)))

    # -- the protocol ------------------------------------------------------------------------------------------------

    def stage_times(self, batch: BatchShape) -> list[float]:
        """Seconds each stage is occupied; drafts run on the last one."""
        decodes = BatchShape((), batch.decodes, batch.decode_context, batch.decode_max_context)
        verify = self.target.stage_times(decodes) if batch.decodes else [0.0] * self.stages
        times = [time / self.yielded for time in verify]
        times[-1] += self.draft_seconds(batch) / self.yielded
        if batch.prefill:
            whole = self.target.stage_times(batch)
            times = [time + max(0.0, w - v) for time, w, v in zip(times, whole, verify, strict=True)]
            times[-1] += self._draft_prompts(batch)
        return times

    def iteration(self, batch: BatchShape) -> float:
        """Duration of one iteration through all stages [s]."""
        return sum(self.stage_times(batch))

    def ahead(self, batch: BatchShape) -> float:
        """Verification and drafts of the engine's iteration for the tokens beyond the first [s]."""
        decodes = BatchShape((), batch.decodes, batch.decode_context, batch.decode_max_context)
        return (self.yielded - 1.0) * self.iteration(decodes) if batch.decodes else 0.0

    def decode_segment(self, batch: BatchShape) -> Segment:
        """Durations of the next iterations of an unchanged decode batch, one token per sequence each."""
        base, slope, valid = self.target.decode_segment(batch)
        for cost in self.passes:
            mine = cost.local(batch)
            base += sum(cost.device_times(batch))
            _, growth, holds = cost.decode_attention(0, mine)
            slope += growth
            valid = min(valid, holds)
        return Segment(base / self.yielded, slope / self.yielded, valid)

    def floor(self, batch: BatchShape) -> float:
        """Roofline bound: that of the verification and drafts over the tokens yielded."""
        decodes = BatchShape((), batch.decodes, batch.decode_context, batch.decode_max_context)
        alone = self._floor(decodes) / self.yielded if batch.decodes else 0.0
        if not batch.prefill:
            return alone
        # Prompts share the weights' way from memory with the verification: only what the whole takes is certain.
        verify = sum(self.target.stage_times(decodes)) if batch.decodes else 0.0
        return max(alone, self.target.floor(batch) - verify * (1.0 - 1.0 / self.yielded))

    def _floor(self, batch: BatchShape) -> float:
        return self.target.floor(batch) + sum(cost.floor(batch) for cost in self.passes)

    def flops(self, batch: BatchShape) -> float:
        """FLOPs of an iteration on one rank of each stage together."""
        return self._shared(batch, lambda cost, part: cost.flops(part))

    def traffic(self, batch: BatchShape) -> dict[str, float]:
        """Bytes an iteration moves by link class, over one rank of each stage together."""

        def on(link: str) -> _Quantity:
            return lambda cost, part: cost.traffic(part).get(link, 0.0)

        return {link: self._shared(batch, on(link)) for link in self.target.traffic(batch)}

    def away(self, batch: BatchShape) -> tuple[Away, ...]:
        """What an iteration sends between domains."""

        def size(axis: str, collective: str) -> _Quantity:
            return lambda cost, part: sum(a.size for a in cost.away(part) if a[:2] == (axis, collective))

        def seconds(axis: str, collective: str) -> _Quantity:
            return lambda cost, part: sum(a.seconds for a in cost.away(part) if a[:2] == (axis, collective))

        kinds = dict.fromkeys((a.axis, a.collective) for cost in self.priced for a in cost.away(batch))
        return tuple(
            Away(*kind, self._shared(batch, size(*kind)), self._shared(batch, seconds(*kind))) for kind in kinds
        )

    def _shared(self, batch: BatchShape, quantity: _Quantity) -> float:
        """A quantity of the decodes over the tokens yielded, plus what the prompts add."""
        decodes = BatchShape((), batch.decodes, batch.decode_context, batch.decode_max_context)
        verify = quantity(self.target, decodes) if batch.decodes else 0.0
        drafts = sum(quantity(cost, decodes) for cost in self.passes) if batch.decodes else 0.0
        added = max(0.0, quantity(self.target, batch) - verify) if batch.prefill else 0.0
        return (verify + drafts) / self.yielded + added

    def breakdown(self, batch: BatchShape) -> dict[str, float]:
        """Where the seconds of a decode iteration go: they add up to :meth:`iteration`."""
        parts = {name: part / self.yielded for name, part in self.target.breakdown(batch).items()}
        return parts | {"draft": self.draft_seconds(batch) / self.yielded}

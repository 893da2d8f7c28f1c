"""K-FAC in the bubbles of a pipeline (PipeFisher): how often the curvature is fresh, and what every step pays for it.

Each linear map Y = X·W of a layer has two factors, XᵀX and its counterpart of the output gradients. A refresh computes
them for every micro-batch of a step, as soon as its forward or backward has ended, then inverts them; all of this goes
into bubbles, over as many steps as it takes. Multiplying the gradients by the inverses follows every step (Osawa et
al., PipeFisher, arXiv 2211.14133).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from simulator.results.estimate import MemoryLedger
from simulator.strategies.pipeline.orders import BW, B, F
from simulator.training.pipeline_fill import FillJob, fill_bubbles
from simulator.training.pipeline_timeline import PipelineTimeline
from simulator.workload.ops import DTYPE_BYTES, Block, OpKind, TensorClass, Tier, Work
from simulator.workload.work import work_of

if TYPE_CHECKING:
    from simulator.training.block_time import BlockPricer
    from simulator.training.pipelined import PipelinedJob

__all__ = ["LayerWork", "SecondOrder", "layer_work", "second_order", "with_factors"]

LONGEST = 1000
"""Steps after which a refresh counts as never done."""

PANEL = 1024
"""Columns that an inversion works on before other kernels may run: blocked algorithms go from panel to panel."""


@dataclass(frozen=True)
class LayerWork:
    """Second-order work of one layer.

    Attributes
    ----------
    inputs, outputs
        Seconds of the two kinds of factors of each linear map, for one micro-batch.
    inversions
        Seconds of the parts of all inversions.
    precondition
        Seconds of the gradients' products with the inverses, once per step.
    size
        Bytes of factors and inverses in fp32.
    """

    inputs: tuple[float, ...] = ()
    outputs: tuple[float, ...] = ()
    inversions: tuple[float, ...] = ()
    precondition: float = 0.0
    size: float = 0.0

    def total(self, microbatches: int) -> float:
        """Seconds of one refresh."""
        return microbatches * sum((*self.inputs, *self.outputs)) + sum(self.inversions)


@dataclass(frozen=True)
class SecondOrder:
    """What filling the bubbles achieves.

    Attributes
    ----------
    refresh_steps
        Steps from one set of inverses to the next; infinite where some work fits into no bubble.
    filled
        Share of the bubbles of the rank with most work that is used.
    precondition
        Seconds that every step is longer.
    """

    refresh_steps: float
    filled: float
    precondition: float


def layer_work(block: Block, pricer: BlockPricer) -> LayerWork:
    """Of a transformer layer's linear maps; embedding and head have none: a factor of vocabulary² elements.

    Notes
    -----
    2·T·d² FLOPs per factor of T tokens, d³ per inversion (Cholesky factor d³/3, inverse from it 2d³/3: LAPACK potrf
    and potri), 2·n·k·(n + k) to precondition a k×n gradient; priced as matrix products of that shape.
    """
    found = LayerWork()
    if block.name != "layer":
        return found

    def product(m: int, n: int, k: int, dtype: str) -> float:
        size = DTYPE_BYTES[dtype] * (m * n + m * k + n * k)
        return pricer.device.price(Work(OpKind.GEMM, dtype, 2.0 * m * n * k, size, m, n, k)).seconds

    def inversion(d: int) -> list[float]:
        parts = math.ceil(d / PANEL)
        return [product(d, d, math.ceil(d / 2), "fp32") / parts] * parts

    for op in block.forward:
        if op.kind is not OpKind.GEMM or not any(t.cls is TensorClass.PARAM and t.trainable for t in op.reads):
            continue
        work = work_of(op, pricer.mesh)
        tokens, inward, outward = work.m, work.k, work.n
        found = LayerWork(
            (*found.inputs, product(inward, inward, tokens, work.dtype)),
            (*found.outputs, product(outward, outward, tokens, work.dtype)),
            (*found.inversions, *(part for d in (inward, outward) for part in inversion(d))),
            found.precondition
            + product(outward, inward, outward, work.dtype)
            + product(outward, inward, inward, work.dtype),
            found.size + 2 * DTYPE_BYTES["fp32"] * (inward**2 + outward**2),
        )
    return found


def second_order(pipeline: PipelinedJob, timeline: PipelineTimeline) -> SecondOrder | None:
    """Fill the bubbles of the rank with most work; None where the schedule asks for nothing of the kind."""
    if not pipeline.traits.second_order:
        return None
    works = [_of_rank(pipeline, rank) for rank in range(pipeline.ranks)]
    precondition = max(sum(w.precondition for w in held) for held in works)
    rank = int(np.argmax([sum(w.total(pipeline.microbatches) for w in held) for held in works]))
    idle = timeline.makespan - float(timeline.busy[rank])
    jobs, total, steps = _factors(timeline, rank, works[rank]), 0.0, 0
    inversions = [seconds for w in works[rank] for seconds in w.inversions]
    while jobs and steps < LONGEST:
        steps += 1
        result = fill_bubbles(timeline, jobs)
        placed = ~np.isnan(result.start)
        if not placed.any() and steps > 1:
            return SecondOrder(math.inf, total / (idle * steps) if idle else 0.0, precondition)
        total += float(result.filled.sum())
        late = [replace(job, ready=0.0) for job, done in zip(jobs, placed, strict=True) if not done]
        if not late and inversions:  # the last factor is complete: what follows starts with the next step
            late, inversions = [FillJob(rank, seconds) for seconds in inversions], []
        jobs = late
    return SecondOrder(
        math.inf if jobs else float(steps), total / (idle * steps) if steps and idle else 0.0, precondition
    )


def with_factors(ledger: MemoryLedger, pipeline: PipelinedJob) -> MemoryLedger:
    """The ledger with factors and inverses among the optimizer's states."""
    if not pipeline.traits.second_order:
        return ledger
    stages = []
    for stage in ledger.stages:
        if stage.tier is Tier.HBM:
            key = TensorClass.OPTIM.value
            size = sum(w.size for w in _of_rank(pipeline, stage.stage))
            stage = replace(stage, by_class={**stage.by_class, key: stage.by_class.get(key, 0.0) + size})
        stages.append(stage)
    return MemoryLedger(tuple(stages))


def _of_rank(pipeline: PipelinedJob, rank: int) -> list[LayerWork]:
    """Of every layer that a rank holds."""
    pricer = pipeline.pricer(rank)
    blocks = [(b, count) for chunk in pipeline.chunks_of_rank[rank] for b, count in chunk.blocks if b.name == "layer"]
    return [work for block, count in blocks for work in [layer_work(block, pricer)] * count]


def _factors(timeline: PipelineTimeline, rank: int, works: list[LayerWork]) -> list[FillJob]:
    """Factors of every micro-batch, one job per linear map, ready when its forward or backward has ended."""
    program, jobs = timeline.program, list[FillJob]()
    for task in range(program.offsets[rank], program.offsets[rank + 1]):
        kind, ready = program.order.kind[task], float(timeline.end[task])
        if kind == F:
            jobs += [FillJob(rank, seconds, ready) for w in works for seconds in w.inputs]
        elif kind in (B, BW):
            jobs += [FillJob(rank, seconds, ready) for w in works for seconds in w.outputs]
    return jobs

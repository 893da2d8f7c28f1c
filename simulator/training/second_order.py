"""K-FAC in the bubbles of a pipeline (PipeFisher): how often the curvature is fresh, and what every step pays for it.

Each linear map Y = X·W of a layer has two factors, XᵀX and its counterpart of the output gradients. A refresh computes
them for every micro-batch of a step, as soon as its forward or backward has ended, and inverts a factor when it is
complete; all of this goes into bubbles, over as many steps as it takes. Multiplying the gradients by the inverses
follows every step (Osawa et al., PipeFisher, arXiv 2211.14133, and its auto_schedule.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from simulator.constants import Constant, Trust
from simulator.results.estimate import MemoryLedger
from simulator.strategies.pipeline.orders import BW, B, F
from simulator.training.pipeline_fill import FillJob, fill_bubbles
from simulator.training.pipeline_timeline import PipelineTimeline
from simulator.workload.ops import DTYPE_BYTES, Block, Op, OpKind, TensorClass, Tier, Work
from simulator.workload.work import work_of

if TYPE_CHECKING:
    from simulator.training.block_time import BlockPricer
    from simulator.training.pipelined import PipelinedJob

__all__ = ["COLUMN", "INVERSION", "LayerWork", "SecondOrder", "layer_work", "second_order", "with_factors"]

LONGEST = 1000
"""Steps after which a refresh counts as never done."""

_PROFILES = "github.com/kazukiosawa/pipe-fisher prof/*_time_memory_*.csv @16ee8db: P100, V100 and RTX 3090, two models"

COLUMN = Constant(
    "kfac.inversion.column", 2.09e-6, "s", 0.16, Trust.FITTED, f"benchmarks/fits/inversions.py on {_PROFILES}"
)
"""Time of one column of a Cholesky factorisation and of the inverse from it: the panels do not fill a device."""

INVERSION = Constant(
    "kfac.inversion.compute", 0.185, "", 0.2, Trust.FITTED, f"benchmarks/fits/inversions.py on {_PROFILES}"
)
"""Share of the fp32 peak that the products of an inversion reach."""

PANEL = 1024
"""Columns that an inversion works on before other kernels may run: blocked algorithms go from panel to panel."""


@dataclass(frozen=True)
class LayerWork:
    """Second-order work of one layer.

    Attributes
    ----------
    inputs, outputs
        Seconds of the two kinds of factors of each linear map, for one micro-batch.
    inverted
        Seconds of the parts of the inversions: of the factors of each map's input, then of each map's output.
    precondition
        Seconds of the gradients' products with the inverses, once per step.
    size
        Bytes of factors and inverses in fp32.
    """

    inputs: tuple[float, ...] = ()
    outputs: tuple[float, ...] = ()
    inverted: tuple[tuple[float, ...], ...] = ()
    precondition: float = 0.0
    size: float = 0.0

    @property
    def inversions(self) -> float:
        """Seconds of all inversions."""
        return sum(map(sum, self.inverted))

    def total(self, microbatches: int) -> float:
        """Seconds of one refresh."""
        return microbatches * sum((*self.inputs, *self.outputs)) + self.inversions


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

    Maps that run as one kernel (query, key and value) have factors of their own.

    Notes
    -----
    2·T·d² FLOPs per factor of T tokens and 2·n·k·(n + k) to precondition a k×n gradient, priced as matrix products in
    the type of the layer and, of the inverses, in fp32. An inversion is d³ FLOPs (Cholesky factor d³/3, inverse from it
    2d³/3: LAPACK potrf and potri), most of whose time is its panels': see :data:`COLUMN`.
    """
    if block.name != "layer":
        return LayerWork()
    maps = [
        (work.m, work.k, outward, work.dtype)
        for op in block.forward
        if op.kind is OpKind.GEMM and any(t.cls is TensorClass.PARAM and t.trainable for t in op.reads)
        for work in [work_of(op, pricer.mesh)]
        for outward in _parts(op, work.n)
    ]

    def product(m: int, n: int, k: int, dtype: str) -> float:
        size = DTYPE_BYTES[dtype] * (m * n + m * k + n * k)
        return pricer.device.price(Work(OpKind.GEMM, dtype, 2.0 * m * n * k, size, m, n, k)).seconds

    inverted = {d: _inversion(d, pricer) for _, k, n, _ in maps for d in (k, n)}
    return LayerWork(
        inputs=tuple(product(k, k, tokens, dtype) for tokens, k, _, dtype in maps),
        outputs=tuple(product(n, n, tokens, dtype) for tokens, _, n, dtype in maps),
        inverted=(*(inverted[k] for _, k, _, _ in maps), *(inverted[n] for _, _, n, _ in maps)),
        precondition=sum(product(n, k, n, dtype) + product(n, k, k, dtype) for _, k, n, dtype in maps),
        size=2 * DTYPE_BYTES["fp32"] * sum(k**2 + n**2 for _, k, n, _ in maps),
    )


def _parts(op: Op, outward: int) -> list[int]:
    """Columns of each map that a kernel computes at once."""
    sizes = [units * unit for units, unit in op.writes[0].dims[-1].parts]
    return [round(outward * size / sum(sizes)) for size in sizes]


def _inversion(size: int, pricer: BlockPricer) -> tuple[float, ...]:
    """Seconds of the parts of one inversion."""
    constants = pricer.device.constants
    constants.add(COLUMN)
    constants.add(INVERSION)
    rate = constants[INVERSION.id] * pricer.device.accelerator.peak("fp32")
    parts = math.ceil(size / PANEL)
    return ((constants[COLUMN.id] * size + size**3 / rate) / parts,) * parts


def second_order(pipeline: PipelinedJob, timeline: PipelineTimeline) -> SecondOrder | None:
    """Fill the bubbles of the rank with most work; None where the schedule asks for nothing of the kind."""
    if not pipeline.traits.second_order:
        return None
    works = [_of_rank(pipeline, rank) for rank in range(pipeline.ranks)]
    precondition = max(sum(w.precondition for w in held) for held in works)
    rank = int(np.argmax([sum(w.total(pipeline.microbatches) for w in held) for held in works]))
    idle = timeline.makespan - float(timeline.busy[rank])
    refresh, total, steps = _Refresh(timeline, rank, works[rank]), 0.0, 0
    while refresh.left and steps < LONGEST:
        steps += 1
        filled = refresh.step()
        total += filled
        if not filled:
            break
    return SecondOrder(
        math.inf if refresh.left else float(steps), total / (idle * steps) if steps and idle else 0.0, precondition
    )


class _Refresh:
    """What is left of a refresh on one rank: products of every factor, and the inversion that waits for them."""

    def __init__(self, timeline: PipelineTimeline, rank: int, works: list[LayerWork]) -> None:
        self.timeline, self.rank = timeline, rank
        self.products: list[tuple[int, FillJob]] = []
        self.inversions: list[tuple[int, FillJob]] = []
        ends: dict[bool, list[float]] = {True: [], False: []}
        program, last = timeline.program, float(timeline.end.max())
        for task in range(program.offsets[rank], program.offsets[rank + 1]):
            if (kind := program.order.kind[task]) in (F, B, BW):
                ends[kind == F].append(float(timeline.end[task]))
        factor = 0
        for work in works:
            for forward, products in ((True, work.inputs), (False, work.outputs)):
                for place, seconds in enumerate(products, factor):
                    self.products += [(place, FillJob(rank, seconds, at, last)) for at in ends[forward]]
                factor += len(products)
            first = factor - len(work.inverted)
            for place, parts in enumerate(work.inverted, first):
                self.inversions += [(place, FillJob(rank, seconds)) for seconds in parts]

    @property
    def left(self) -> bool:
        """Whether there is still something to do."""
        return bool(self.products or self.inversions)

    def step(self) -> float:
        """Fill the bubbles of one step: products first, as far as they are ready, then inversions; seconds filled."""
        start = fill_bubbles(self.timeline, [job for _, job in self.products]).start
        waiting, complete = set[int](), dict[int, float]()
        for (factor, job), at in zip(self.products, start, strict=True):
            if math.isnan(at):
                waiting.add(factor)
            else:
                complete[factor] = max(complete.get(factor, 0.0), float(at) + job.seconds)
        possible = [
            (f, replace(job, ready=complete.get(f, 0.0))) for f, job in self.inversions if f not in waiting
        ]  # fmt: skip
        jobs = [*self.products, *possible]
        result = fill_bubbles(self.timeline, [job for _, job in jobs])
        late = [(f, replace(j, ready=0.0)) for (f, j), at in zip(jobs, result.start, strict=True) if math.isnan(at)]
        products = len(self.products)
        missing = [bool(math.isnan(at)) for at in result.start]
        self.products = late[: sum(missing[:products])]
        self.inversions = [*late[sum(missing[:products]) :], *(i for i in self.inversions if i[0] in waiting)]
        return float(result.filled.sum())


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

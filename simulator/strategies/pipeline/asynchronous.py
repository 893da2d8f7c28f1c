"""Pipelines without a flush: what differs is which weights a micro-batch sees, and how many versions are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from simulator.registry import Claim, register
from simulator.strategies.pipeline.checks import exact_chunks, only_one_chunk, positive
from simulator.strategies.pipeline.one_f_one_b import one_f_one_b_order
from simulator.strategies.pipeline.orders import loop_placement, warmup_order
from simulator.strategies.protocols import Action, ScheduleTraits
from simulator.workload.plan import Plan

__all__ = ["Asynchronous", "HetPipe", "PipeDream", "PipeDream2BW", "PipeMare", "SpecTrain", "WPipe", "XPipe"]

Indices = NDArray[np.int64]


class Asynchronous(ABC):
    """A schedule that runs many updates without a flush between them."""

    name: str
    updates_each: ClassVar[bool] = False
    """Every micro-batch is followed by an update, not only the last of a step."""
    staleness: ClassVar[str]
    """Which weights a micro-batch meets, and what the schedule does about it."""

    @abstractmethod
    def versions(self, rank: int, ranks: int) -> float:
        """Versions of its weights a rank keeps."""

    def traits(self) -> ScheduleTraits:
        """No flush."""
        return ScheduleTraits(
            virtual_stage=loop_placement, weight_versions=self.versions, flush=False,
            updates=self.updates, reductions=self.reductions,
        )  # fmt: skip

    def updates(self, microbatches: int) -> int:
        """Updates of a rank's weights in a step."""
        return microbatches if self.updates_each else 1

    def reductions(self, microbatches: int) -> int:
        """Exchanges of gradients with its replicas in a step."""
        return self.updates(microbatches)

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """Staleness is a cost in quality that time and memory do not show."""
        if plan.pipeline_parallel == 1:
            return ()
        return (
            f"{self.name}: {self.staleness}; tokens to a target loss are those of synchronous training unless "
            "goal.extra_tokens says otherwise",
        )

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Any number of ranks and micro-batches; one chunk."""
        return positive(ranks, microbatches, chunks) or only_one_chunk(self.name, chunks, "wpipe")

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of one update from an empty pipeline."""
        return self.steps_order(ranks, microbatches, chunks, 1)

    def steps_order(self, ranks: int, microbatches: int, chunks: int, steps: int) -> Sequence[Sequence[Action]]:
        """Tasks of ``steps`` updates of ``microbatches`` each; micro-batches are numbered through."""
        return one_f_one_b_order(ranks, microbatches * steps)


@register(
    "pipedream",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Narayanan et al., PipeDream: Generalized Pipeline Parallelism for DNN Training, SOSP 2019",),
    catalogue=("PipeDream",),
    validated_by="closed_form",
)
class PipeDream(Asynchronous):
    """Updates after every micro-batch; each backward uses the stashed weights of its forward."""

    name = "pipedream"
    updates_each = True
    staleness = "rank i computes with weights p − 1 − i updates old, an update follows every micro-batch"

    def versions(self, rank: int, ranks: int) -> float:
        """As many as micro-batches in flight."""
        return ranks - rank


@register(
    "hetpipe",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Park et al. 2020 (HetPipe), arXiv 2005.14038",),
    catalogue=("HetPipe, FTPipe, Varuna",),
    validated_by="closed_form",
)
class HetPipe(PipeDream):
    """Virtual workers of unlike devices: updates of its own after every micro-batch, one exchange per wave of them.

    A step is one wave. A pipeline runs at the pace of its slowest stage, so the layers are worth cutting by the
    devices' speeds (planner ``mixed-devices``).
    """

    name = "hetpipe"
    staleness = (
        "a micro-batch misses the updates of its own wave, and those of other virtual workers since their last exchange"
    )

    def reductions(self, microbatches: int) -> int:
        """Once per wave (wave synchronous parallel)."""
        return 1


@register(
    "pipedream-2bw",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Narayanan et al., Memory-Efficient Pipeline-Parallel DNN Training, arXiv 2006.09503",),
    catalogue=("PipeDream-2BW",),
    claims=(Claim("two weight versions, gradients one update late, m >= p", "reference catalogue 2b [2bw]"),),
    validated_by="closed_form",
)
class PipeDream2BW(Asynchronous):
    """Gradients of m micro-batches make one update; two buffered weight versions are enough."""

    name = "pipedream-2bw"
    staleness = "gradients are applied one update late (arXiv 2006.09503)"

    def versions(self, rank: int, ranks: int) -> float:
        """The newest and the one before."""
        return 2

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """One update must last at least as long as the pipeline is deep."""
        return super().check(ranks, microbatches, chunks) or _at_least(
            self.name, microbatches, ranks, "pipeline_parallel"
        )


@register(
    "pipemare",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Yang et al., PipeMare: Asynchronous Pipeline Parallel DNN Training, arXiv 1910.05124",),
    catalogue=("PipeMare",),
    validated_by="closed_form",
)
class PipeMare(Asynchronous):
    """Keeps one weight version: forward and backward of a micro-batch may see different weights.

    The learning rate is rescheduled and the discrepancy corrected; the cost in convergence is an input, not a result.
    """

    name = "pipemare"
    staleness = (
        "forward and backward of a micro-batch see different weights; learning-rate rescheduling and discrepancy "
        "correction (arXiv 1910.05124) are its answer"
    )

    def versions(self, rank: int, ranks: int) -> float:
        """Only the newest."""
        return 1


@register(
    "spectrain",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Chen et al., Efficient and Robust Parallel DNN Training (SpecTrain), arXiv 1809.02839",),
    catalogue=("XPipe, SpecTrain",),
    validated_by="closed_form",
)
class SpecTrain(Asynchronous):
    """PipeDream without stashed weights: momentum predicts the weights of the update a micro-batch will meet.

    A prediction reads the rank's weights and momentum once per micro-batch; its time is not part of the order.
    """

    name = "spectrain"
    updates_each = True
    staleness = (
        "weights are predicted up to p − 1 updates ahead; the prediction reads weights and momentum once per "
        "micro-batch, which is not priced"
    )

    def versions(self, rank: int, ranks: int) -> float:
        """Only the newest; the predicted weights are made on the fly."""
        return 1


@register(
    "xpipe",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Guan et al., XPipe: Efficient Pipeline Model Parallelism for Multi-GPU DNN Training, arXiv 1911.04610",),
    catalogue=("XPipe, SpecTrain",),
    validated_by="closed_form",
)
class XPipe(SpecTrain):
    """Weight prediction from Adam's moments, once per mini-batch: its micro-batches share the predicted weights."""

    name = "xpipe"
    updates_each = False
    staleness = (
        "weights are predicted for each mini-batch; the prediction reads weights and moments once, which is not priced"
    )


@register(
    "wpipe",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=(
        "Yang et al., Group-based Interleaved Pipeline Parallelism for Large-scale DNN Training (WPipe), ICLR 2022",
    ),
    catalogue=("WPipe",),
    claims=(Claim("half the redundant weights and half the stale gradients of 2BW", "reference catalogue 2b [wpipe]"),),
    validated_by="closed_form",
)
class WPipe(Asynchronous):
    """Two groups of partitions: the first group's next forward moves before its own update, the second's does not.

    Per update a rank runs all m forwards of its part of group 0, then of group 1; backwards group 1 first. Forwards
    run ahead so that the backwards of group 1 pair with the next forwards of group 0: group 0 sees weights one
    update old (two versions), group 1 the newest.
    """

    name = "wpipe"
    staleness = "half of the weights are one update old, the other half new (ICLR 2022)"

    def versions(self, rank: int, ranks: int) -> float:
        """Two of group 0, one of group 1: half of 2BW's redundancy."""
        return 1.5

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Two chunks, and updates long enough that group 1 is updated before its next forward."""
        return (
            positive(ranks, microbatches, chunks)
            or exact_chunks(self.name, chunks, 2)
            or _at_least(self.name, microbatches, max(ranks, 2 * (ranks - 1)), "2(pipeline_parallel − 1)")
        )

    def steps_order(self, ranks: int, microbatches: int, chunks: int, steps: int) -> Sequence[Sequence[Action]]:
        """Tasks of ``steps`` updates."""
        m = microbatches

        def forward(k: Indices) -> tuple[Indices, Indices]:
            return k // (2 * m) * m + k % m, k % (2 * m) // m

        def backward(k: Indices) -> tuple[Indices, Indices]:
            microbatch, chunk = forward(k)
            return microbatch, 1 - chunk

        return warmup_order(2 * (ranks - 1 - np.arange(ranks)) + m, 2 * m * steps, forward, backward)


def _at_least(name: str, microbatches: int, least: int, what: str) -> str:
    if microbatches >= least:
        return ""
    return f"{name} needs at least {what} = {least} micro-batches per update, have {microbatches}: use {least}"

"""1F1B and its interleaved form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from simulator.registry import Claim, register
from simulator.strategies.pipeline.checks import multiple_of, only_one_chunk, positive
from simulator.strategies.pipeline.orders import BW, F, TaskOrder, loop_placement, warmup_order
from simulator.strategies.protocols import Action, ScheduleTraits

__all__ = ["Interleaved1F1B", "OneFOneB", "OverlappedInterleaved1F1B", "one_f_one_b_order"]

Indices = NDArray[np.int64]


def one_f_one_b_order(ranks: int, microbatches: int) -> Sequence[Sequence[Action]]:
    """1F1B: rank i starts with p−1−i forwards, then alternates forward and backward."""

    def item(k: Indices) -> tuple[Indices, Indices]:
        return k, np.zeros_like(k)

    return warmup_order(ranks - 1 - np.arange(ranks), microbatches, item, item)


@register(
    "1f1b",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=(
        "Narayanan et al., Memory-Efficient Pipeline-Parallel DNN Training (PipeDream-Flush), arXiv 2006.09503",
        "Fan et al., DAPPLE, arXiv 2007.01045",
    ),
    catalogue=("1F1B / PipeDream-Flush, DAPPLE",),
    validated_by="closed_form",
)
class OneFOneB:
    """One forward, one backward in turn after a short warm-up (also PipeDream-Flush, DAPPLE)."""

    name = "1f1b"

    def traits(self) -> ScheduleTraits:
        """One chunk per rank, flushed at every step."""
        return ScheduleTraits(virtual_stage=loop_placement)

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Any number of ranks and micro-batches; one chunk."""
        return positive(ranks, microbatches, chunks) or only_one_chunk(self.name, chunks, "interleaved-1f1b")

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Tasks of every rank."""
        return one_f_one_b_order(ranks, microbatches)


@register(
    "interleaved-1f1b",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Narayanan et al., Efficient Large-Scale Language Model Training (Megatron-LM), arXiv 2104.04473",),
    catalogue=("Megatron interleaved 1F1B",),
    claims=(
        Claim(
            "bubble share (p−1)/(v m+p−1), activations × (1+(p−1)/(p v))",
            "Megatron-LM theoretical_memory_usage.py (memory factor); reference catalogue 2a",
        ),
    ),
    validated_by="closed_form",
)
class Interleaved1F1B:
    """1F1B over v model chunks per rank: the bubble shrinks by v, messages grow by v."""

    name = "interleaved-1f1b"
    ahead = 0
    """Forwards of a rank before its first backward, beyond those that the pipeline needs."""

    def traits(self) -> ScheduleTraits:
        """Chunks loop over the ranks."""
        return ScheduleTraits(virtual_stage=loop_placement)

    def check(self, ranks: int, microbatches: int, chunks: int) -> str:
        """Needs v >= 2 and micro-batches that are a multiple of the ranks."""
        if reason := positive(ranks, microbatches, chunks):
            return reason
        if chunks < 2:
            return f"{self.name} needs virtual_stages >= 2, have {chunks}: set 2 or more, or use schedule 1f1b"
        return multiple_of(self.name, microbatches, ranks)

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """Groups of p micro-batches pass chunk after chunk; rank i warms up with 2(p−1−i) + (v−1)p forwards."""
        group = ranks * chunks

        def forward(k: Indices) -> tuple[Indices, Indices]:
            return k // group * ranks + k % ranks, k % group // ranks

        def backward(k: Indices) -> tuple[Indices, Indices]:
            microbatch, chunk = forward(k)
            return microbatch, chunks - 1 - chunk

        return warmup_order(self.warmup(ranks, chunks), microbatches * chunks, forward, backward)

    def warmup(self, ranks: int, chunks: int) -> Indices:
        """Forwards before the first backward [rank], if there are as many."""
        return 2 * (ranks - 1 - np.arange(ranks)) + (chunks - 1) * ranks + self.ahead


@register(
    "interleaved-1f1b-overlapped",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("NVIDIA/Megatron-LM megatron/core/pipeline_parallel/schedules.py, overlap_moe_expert_parallel_comm",),
    catalogue=("Megatron interleaved 1F1B",),
    validated_by="closed_form",
)
class OverlappedInterleaved1F1B(Interleaved1F1B):
    """Interleaved 1F1B whose forwards run beside the backward that follows, to hide the all-to-all of experts.

    Every rank runs one forward more before its first backward, so that the two of a pair never wait for each other
    (Megatron-Core's ``--overlap-moe-expert-parallel-comm``). Messages of tensor parallelism hide as well here, which
    Megatron keeps among the computation.
    """

    name = "interleaved-1f1b-overlapped"
    ahead = 1

    def order(self, ranks: int, microbatches: int, chunks: int) -> Sequence[Sequence[Action]]:
        """As interleaved, with the pairs of the steady phase marked.

        A rank that warms up with all of its forwards has none: its last one must not wait for a backward.
        """
        plain = TaskOrder.of(super().order(ranks, microbatches, chunks))
        pairs = np.zeros(len(plain.kind), dtype=bool)
        pairs[:-1] = (plain.kind[:-1] == F) & (plain.kind[1:] == BW)
        pairs &= np.repeat(self.warmup(ranks, chunks) < microbatches * chunks, np.diff(plain.offsets))
        pairs[plain.offsets[1:] - 1] = False
        same = (plain.microbatch[:-1] == plain.microbatch[1:]) & (plain.chunk[:-1] == plain.chunk[1:])
        pairs[:-1] &= ~same
        return replace(plain, with_next=pairs)

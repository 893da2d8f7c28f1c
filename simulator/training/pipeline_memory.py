"""Peak memory of every rank of a pipeline: it depends on the order of each rank's tasks only, so nothing is timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from simulator.results.estimate import MemoryLedger
from simulator.training.memory import ChunkMemory, memory_ledger
from simulator.training.pipeline import PipelineCosts, run_program
from simulator.training.pipeline_program import with_costs
from simulator.training.pipeline_timeline import PipelineTimeline
from simulator.training.second_order import with_factors
from simulator.training.update import updates_on_device
from simulator.workload.ops import Tier

if TYPE_CHECKING:
    from simulator.training.pipelined import PipelinedJob

__all__ = ["pipeline_memory"]


def pipeline_memory(pipeline: PipelinedJob) -> MemoryLedger:
    """Ledger of every rank and tier [B]."""
    memory, traits = pipeline.chunk_memories, pipeline.traits
    stages, pieces = len(pipeline.chunks), traits.items_per_microbatch
    untimed = PipelineCosts(
        forward=np.ones(stages), backward=np.ones(stages),
        input_gradient=np.ones(stages), weight_gradient=np.ones(stages),
        activation_bytes=np.array([m.activations for m in memory]) / pieces,
        weight_gradient_bytes=np.array([m.weight_gradient_activations for m in memory]) / pieces,
    )  # fmt: skip
    program = with_costs(pipeline.layout, untimed)
    timeline = (
        run_program(program)
        if program.detached.any()
        else PipelineTimeline(program, np.zeros(len(program.rank)), np.zeros(len(program.rank)))
    )
    versions = [traits.weight_versions(r, pipeline.ranks) for r in range(pipeline.ranks)]
    ledger = memory_ledger(
        timeline, pipeline.chunks_of_rank, memory, [p.mesh for p in pipeline.pricers], pipeline.node_of_rank,
        pipeline.framework, versions, _evicted_peaks(pipeline, memory, untimed), pipeline.plan.accelerators,
        traits.replicas, updates_on_device(pipeline.plan),
    )  # fmt: skip
    return with_factors(ledger, pipeline)


def _evicted_peaks(
    pipeline: PipelinedJob, memory: Sequence[ChunkMemory], untimed: PipelineCosts
) -> dict[Tier, list[float]]:
    """Peak of evicted activations by tier and rank [B]."""
    pieces = pipeline.traits.items_per_microbatch
    peaks: dict[Tier, list[float]] = {}
    for tier in {t: None for m in memory for t in m.evicted}:
        evicted = np.array([m.evicted.get(tier, 0.0) for m in memory]) / pieces
        costs = replace(untimed, activation_bytes=evicted, weight_gradient_bytes=None)
        timeline = run_program(with_costs(pipeline.layout, costs))
        peaks[tier] = timeline.activations.peak.tolist()
    return peaks

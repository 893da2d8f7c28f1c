"""Recomputation by stage: the limits are no and full recomputation, and memory lies between them layer by layer."""

from __future__ import annotations

from typing import Any

import pytest
from memory_jobs import LAYERS, estimate, job

from simulator.results.estimate import Estimate
from simulator.workload.ops import Tier

STAGES = 2
EACH = LAYERS // STAGES


def run(**plan: Any) -> Estimate:
    return estimate(job(batch=(32, 4), pipeline_parallel=STAGES, **plan))


def activations(result: Estimate) -> list[float]:
    return [s.by_class["activation"] for s in result.memory.stages if s.tier is Tier.HBM]


@pytest.mark.parametrize(("count", "name"), [(0, "none"), (EACH, "full")])
def test_none_and_all_are_the_known_strategies(count: int, name: str) -> None:
    ours, known = run(recompute="per-stage", recomputed_layers=(count,) * STAGES), run(recompute=name)
    assert ours.seconds == known.seconds
    assert activations(ours) == activations(known)


@pytest.mark.parametrize("counts", [(4, 0), (1, 3), (2, 2)])
def test_each_recomputed_layer_frees_its_share_and_costs_a_forward(counts: tuple[int, ...]) -> None:
    """Merak (arXiv 2206.04959): a stage keeps 2·s·b·h of a recomputed layer and everything of the others."""
    none, full = run(recompute="none"), run(recompute="full")
    ours = run(recompute="per-stage", recomputed_layers=counts)
    for kept, dropped, held, count in zip(activations(none), activations(full), activations(ours), counts, strict=True):
        assert held == pytest.approx(kept + (dropped - kept) * count / EACH, rel=1e-9)
    if len(set(counts)) == 1:  # equal stages: the step is longer by as many forwards
        grown = full.time.parts["recompute"] * sum(counts) / LAYERS
        assert ours.time.parts["recompute"] == pytest.approx(grown, rel=1e-9)

"""Prompts in chunks over pipeline stages."""

from __future__ import annotations

import pytest

from simulator.strategies.protocols import BatchShape
from simulator.validation.serving_runs import prompt_seconds
from simulator.workload.plan import Plan
from tests.serving_deployments import replica


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_chunks_follow_each_other_through_the_stages(stages: int) -> None:
    """All stages as slow as the slowest is an upper bound, (chunks + stages - 1) of them; the sum of all the other."""
    plan = Plan(pipeline_parallel=stages)
    cost = replica("llama-3.1-8b", "llama-cpp", plan=plan)
    times = [cost.stage_times(BatchShape(((512, done),), 0, 0)) for done in range(0, 2048, 512)]
    seconds, _ = prompt_seconds(cost, 512, 1, 2048)
    slowest = max(t for chunk in times for t in chunk)
    assert max(sum(column) for column in zip(*times, strict=True)) <= seconds <= (4 + stages - 1) * slowest
    whole = sum(sum(chunk) for chunk in times)
    assert seconds == pytest.approx(whole) if stages == 1 else seconds < 0.8 * whole

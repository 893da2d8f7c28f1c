"""A pipeline with moved constants keeps what does not rest on them: bit for bit as one that is priced from scratch."""

from __future__ import annotations

import pytest

from simulator.training.pipelined import PipelinedJob
from simulator.workload.plan import Plan
from tests.unit.strategies.training_cases import FRAMEWORK, cluster, job

CASES = {
    "tensor": (Plan(tensor_parallel=4, data_parallel=4, zero_stage=1), "llama-3.1-8b"),
    "zero-3": (Plan(data_parallel=16, zero_stage=3, recompute="full"), "llama-3.1-8b"),
    "offload": (Plan(data_parallel=16, zero_stage=3, offload="zero-infinity"), "llama-3.1-8b"),
    "dualpipe": (
        Plan(pipeline_parallel=2, data_parallel=8, expert_parallel=8, schedule="dualpipe"),
        "deepseek-v2-lite",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_kept_times_are_those_of_a_fresh_pipeline(name: str) -> None:
    plan, model = CASES[name]
    base = PipelinedJob(job(plan, FRAMEWORK, model, 64), cluster())
    base.run()
    moving = sorted(set().union(*(t.constants for t in (*base.forward_times, *base.backward_times))))
    assert len(moving) > 5
    for constant in moving:
        scale = {constant: 1.3}
        kept, fresh = base.moved(scale), PipelinedJob(base.job, base.cluster, scale, slow=base.slow)
        assert kept.forward_times == fresh.forward_times, constant
        assert kept.backward_times == fresh.backward_times, constant
        if name == "dualpipe":
            assert kept.pair_time(0, 0) == fresh.pair_time(0, 0), constant


def test_moves_add_up() -> None:
    plan, model = CASES["tensor"]
    base = PipelinedJob(job(plan, FRAMEWORK, model, 64), cluster())
    name = sorted(base.forward_times[0].constants)[0]
    twice = base.moved({name: 1.2}).moved({name: 1.5})
    assert twice.forward_times == PipelinedJob(base.job, base.cluster, {name: 1.2 * 1.5}, slow=base.slow).forward_times


def test_an_unrolled_lookup_reads_rows_not_the_table() -> None:
    """An embedding whose parameters are gathered ahead is unrolled; each copy still reads a row per token."""
    plan, model = CASES["zero-3"]
    base = PipelinedJob(job(plan, FRAMEWORK, model, 64), cluster())
    sharded = base.chunks[0].blocks[0][0]
    assert sharded.name == "embedding" and sharded.gather_forward
    whole = PipelinedJob(job(plan.with_(zero_stage=1), FRAMEWORK, model, 64), cluster())
    unsharded = whole.chunks[0].blocks[0][0]
    moved = base.pricer(0).forward(sharded).traffic["hbm"] - sum(
        base.pricer(0).op_traffic(op).get("hbm", 0.0) for op in sharded.gather_forward
    )
    assert moved == pytest.approx(whole.pricer(0).forward(unsharded).traffic["hbm"])

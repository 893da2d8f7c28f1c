"""What holds for every registered recomputation, precision and offload strategy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from memory_jobs import estimate, job, on_tier, single

from simulator.hardware import load_node
from simulator.registry import StrategyRecord, strategies
from simulator.results.estimate import Estimate
from simulator.training.pipelined import PipelinedJob
from simulator.training.stages import compiled_layers
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.ops import OpKind, Phase, Tier
from simulator.workload.plan import Plan

FAMILIES = ("recompute", "precision", "offload")
RECORDS = [record for family in FAMILIES for record in strategies("training", family)]

SHAPES: dict[str, dict[str, Any]] = {
    "zero-infinity": {"zero_stage": 3, "data_parallel": 2},
    "mpress": {"pipeline_parallel": 2},
    "mobius": {"pipeline_parallel": 2, "virtual_stages": 2, "schedule": "breadth-first"},
    "every-k": {"recompute_num_layers": 3},
    "revolve": {"recompute_slots": 3},
    "per-stage": {"recomputed_layers": (5,)},
}
LAYERED = ("stronghold", "patrickstar", "angel-ptm")


def shaped(record: StrategyRecord, chosen: bool = True) -> TrainingJob:
    """A job that uses the strategy and makes it act, or the same job without it."""
    shape = dict(SHAPES.get(record.name, {}))
    if record.name in LAYERED:
        shape["resident_layers"] = 3
    if chosen:
        shape |= {record.family: record.name, "activation_share": 0.4}
    return job(batch=(16, 2), framework="megatron-lm-2021", **shape)


@pytest.fixture(scope="module", params=RECORDS, ids=lambda r: f"{r.family}-{r.name}")
def case(request: pytest.FixtureRequest) -> tuple[StrategyRecord, Estimate, Estimate]:
    """A strategy, its step, and the step without it."""
    record: StrategyRecord = request.param
    return record, estimate(shaped(record)), estimate(shaped(record, chosen=False))


def test_answers_in_time_memory_and_traffic(case: tuple[StrategyRecord, Estimate, Estimate]) -> None:
    record, result, _ = case
    assert result.feasible, result.reason
    assert result.time.total == pytest.approx(result.seconds, rel=1e-9)
    assert result.floor <= result.seconds
    assert all(value >= -1e-9 for value in result.time.parts.values())
    assert all(size >= 0 for size in result.traffic.by_link.values())
    assert all(s.peak <= s.capacity for s in result.memory.stages)
    evicted = sum(s.peak for s in result.memory.stages if s.tier is not Tier.HBM)
    moved = sum(result.traffic.by_link.get(link, 0.0) for link in ("host", "nvme", "scale_up"))
    assert (evicted > 0) == (record.family == "offload")
    assert moved > 0 or record.family != "offload"


def test_forward_flops_are_conserved(case: tuple[StrategyRecord, Estimate, Estimate]) -> None:
    record = case[0]
    node = single(load_node("dgx-a100-640"))

    def forward(work: TrainingJob) -> float:
        chunks = PipelinedJob(work, node).chunks
        return sum(
            count * op.flops()
            for chunk in chunks
            for block, count in chunk.blocks
            for op in (*block.forward, *(o for o in block.backward if o.phase is not Phase.RECOMPUTE))
            if op.kind is not OpKind.ELEMENTWISE
        )

    assert forward(shaped(record)) == forward(shaped(record, chosen=False))


def test_memory_strategies_do_not_need_more_device_memory(case: tuple[StrategyRecord, Estimate, Estimate]) -> None:
    record, result, base = case
    if record.family == "precision":
        pytest.skip("a wider type needs more")
    held = ("activation", "param", "grad", "optim")
    ours, theirs = (sum(on_tier(e, Tier.HBM, c) for c in held) for e in (result, base))
    assert ours <= theirs * (1 + 1e-9)
    assert record.name == "none" or ours < theirs


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: f"{r.family}-{r.name}")
def test_rows_served_are_rows_of_the_catalogue(record: StrategyRecord, shared: Path) -> None:
    catalogue = (shared / "reference" / "strategy_catalogue.md").read_text(encoding="utf-8")
    for row in record.catalogue:
        assert f"| {row}" in catalogue
    assert record.validated_by != "none"
    assert record.cites or record.name == "none"


def test_decisions_are_options_of_the_plan() -> None:
    """A settled plan can be printed, hashed and run again without deciding anew."""
    run = PipelinedJob(job(recompute="checkmate", activation_share=0.3), single(load_node("dgx-a100-640")))
    decided = run.plan.option("recompute_tensors")
    assert isinstance(decided, tuple)
    assert len(decided) > 0
    assert hash(run.plan) == hash(PipelinedJob(run.job, run.cluster).plan)


def test_elementwise_recomputation_drops_norms_and_the_product() -> None:
    """Llama: outputs of two norms and the gated product, 2·(h + h + f) bytes per token; GEMMs run once."""
    model, kept = load_model("llama-2-7b"), {}
    for recompute in ("none", "elementwise"):
        base = job(batch=(1, 1), framework="megatron-core-0.8")
        chosen = replace(base, model=model, plan=Plan(recompute=recompute))
        block = next(b for b in compiled_layers(chosen) if b.name == "layer")
        gemms = sum(op.flops() for op in block.ops if op.kind is OpKind.GEMM)
        kept[recompute] = sum(t.bytes() for t in block.saved), gemms
    tokens = base.batch.sequence_length
    assert kept["none"][0] - kept["elementwise"][0] == 2 * tokens * (2 * 4096 + 11008)
    assert kept["none"][1] == kept["elementwise"][1]
    compiled = replace(load_framework("megatron-core-0.8"), recomputes_elementwise=True)
    unasked = replace(base, model=model, plan=Plan(), framework=compiled)
    block = next(b for b in compiled_layers(unasked) if b.name == "layer")
    assert sum(t.bytes() for t in block.saved) == kept["elementwise"][0]

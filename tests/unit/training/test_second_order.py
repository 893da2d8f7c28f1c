"""K-FAC in the bubbles: the work it is, where it goes, what a step pays and holds for it."""

from __future__ import annotations

import math

import pytest

from simulator.constants import Trust
from simulator.cost.device import DeviceCost
from simulator.cost.priced import Priced
from simulator.training.pipelined import PipelinedJob
from simulator.training.second_order import COLUMN, INVERSION, layer_work
from simulator.workload.ops import TensorClass, Work
from simulator.workload.plan import Plan
from tests.unit.strategies.training_cases import cluster, estimate, job

HIDDEN, LAYERS, STAGES = 2048, 24, 4
PLAN = Plan(pipeline_parallel=STAGES, data_parallel=4)


def view(schedule: str = "pipefisher", batch: int = 32, plan: Plan = PLAN) -> PipelinedJob:
    return PipelinedJob(job(plan.with_(schedule=schedule), batch=batch), cluster())


def test_the_work_of_a_layer_is_that_of_its_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_flops(self: DeviceCost, work: Work) -> Priced:
        return Priced(work.flops, work.flops, "compute", (), Trust.ASSUMED)

    work = view()
    monkeypatch.setattr(DeviceCost, "price", by_flops)
    block = next(b for b, _ in work.chunks[1].blocks if b.name == "layer")
    found = layer_work(block, view().pricer(0))
    h, tokens = HIDDEN, 1024
    shapes = [(h, h)] * 4 + [(h, 4 * h), (4 * h, h)]  # query, key, value and output, then the two of the MLP
    assert sum(found.inputs) == 2 * tokens * sum(a * a for a, _ in shapes)
    assert sum(found.outputs) == 2 * tokens * sum(b * b for _, b in shapes)
    rate = INVERSION.value * work.pricer(0).device.accelerator.peak("fp32")
    assert found.inversions == pytest.approx(sum(COLUMN.value * d + d**3 / rate for pair in shapes for d in pair))
    assert found.precondition == sum(2 * a * b * (a + b) for a, b in shapes)
    assert found.size == 8 * sum(a * a + b * b for a, b in shapes)


@pytest.mark.parametrize("batch", [16, 32])
def test_all_work_of_a_refresh_goes_into_bubbles(batch: int) -> None:
    work = view(batch=batch)
    run = work.run()
    found = run.second_order
    assert found is not None
    layers = [layer_work(b, work.pricer(0)) for b, n in work.chunks[0].blocks if b.name == "layer" for _ in range(n)]
    total = sum(w.total(work.microbatches) for w in layers)
    idle = run.timeline.makespan - run.timeline.busy[0]
    assert found.filled * idle * found.refresh_steps == pytest.approx(total)
    assert found.refresh_steps >= total / idle
    assert 0 < found.filled <= 1


def test_a_step_pays_for_the_products_with_the_inverses_only() -> None:
    plain, filled = view("1f1b").run(), view().run()
    assert filled.second_order is not None
    assert plain.second_order is None
    assert filled.timeline.makespan == plain.timeline.makespan
    assert filled.seconds - plain.seconds == pytest.approx(filled.second_order.precondition)


def test_factors_and_inverses_are_held() -> None:
    plain, filled = (estimate(PLAN.with_(schedule=s)) for s in ("1f1b", "pipefisher"))
    more = [
        b.by_class[TensorClass.OPTIM.value] - a.by_class[TensorClass.OPTIM.value]
        for a, b in zip(plain.memory.stages, filled.memory.stages, strict=True)
    ]
    assert more == [pytest.approx(LAYERS / STAGES * 8 * 42 * HIDDEN**2)] * STAGES
    assert 0 < filled.metrics["bubble_filled"] <= 1
    assert "bubble_filled" not in plain.metrics


def test_without_bubbles_the_curvature_is_never_fresh() -> None:
    work = view(plan=Plan(data_parallel=16), batch=64).run()
    assert work.second_order is not None
    assert math.isinf(work.second_order.refresh_steps)
    assert work.second_order.filled == 0

"""What planners of the literature chose, read in their source, against the plans that are possible and best here."""

from __future__ import annotations

from dataclasses import replace

import pytest
from memory_jobs import gpt, single

from simulator.hardware import load_node
from simulator.strategies.planner.problem import PlanProblem
from simulator.strategies.planner.varuna import VarunaPlanner
from simulator.training.plan_evaluator import PlanEvaluator
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch

VARUNA = {27: (12, 14), 18: (10, 12), 9: (2, 6), 6: (2, 4)}
"""Stages: micro-batch that Varuna runs, and one that must not fit."""


@pytest.mark.parametrize("ranks", VARUNA)
def test_varuna_runs_the_largest_micro_batches_that_fit(ranks: int) -> None:
    """Table micro_batch of varuna/auto_config.py (microsoft/varuna @0ebede8): 12, 10, 2, 2 at 27, 18, 9, 6 stages.

    GPT-2 2.5B there: boundaries of 1024 × 1920 elements, 54 cut points. The micro-batch is the largest by memory; the
    device is not stated, V100 with 16 GB are assumed. Deep pipelines reach that limit within one; at 9 and 6 stages 5
    and 3 fit here.
    """
    taken, too_much = VARUNA[ranks]
    cluster = single(load_node("v100-16gb-8x"), (ranks + 7) // 8)
    batch = Batch(taken * too_much * 4, 1, 1024)
    problem = PlanProblem(
        gpt(54, 1920, 20, positions=1024), load_framework("deepspeed-2022"), cluster, batch, accelerators=ranks,
        pipeline_parallel=(ranks,), micro_batch_size=(taken, too_much), zero_stage=(0,), precision=("fp16",),
    )  # fmt: skip
    evaluate = PlanEvaluator(problem.model, problem.framework, problem.cluster, problem.batch)
    found = VarunaPlanner().search(problem, evaluate)
    assert found.considered == 2 and found.reasons["memory"] == 1
    assert found.best[0].option("micro_batch_size") == taken
    assert found.best[0].pipeline_parallel == ranks
    more = replace(problem, micro_batch_size=(2 * too_much,), batch=Batch(8 * too_much, 1, 1024))
    assert not VarunaPlanner().search(more, evaluate)

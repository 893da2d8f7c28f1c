"""Stages of a plan in YAML: what they become, what is wrong with them and where, what is done with them."""

from __future__ import annotations

from typing import Any

import pytest

import simulator
from simulator.errors import ConfigError
from simulator.scenario.deploy.writing import export_plan
from simulator.scenario.load import load_scenario
from simulator.scenario.recommend_training import plan_changes
from simulator.workload.plan import Plan
from simulator.workload.stage import LayerGroup, Stage


def scenario(*stages: dict[str, Any], **plan: Any) -> dict[str, Any]:
    return {
        "cluster": {"nodes": [{"profile": "dgx-h100", "count": 1}, {"profile": "dgx-a100-640", "count": 1}]},
        "workloads": [
            {
                "training": "pretrain", "model": "gpt3-1.3b", "framework": "megatron-core-0.8",
                "batch": {"global_batch_size": 32, "micro_batch_size": 1, "sequence_length": 1024},
                "plan": {**plan, "stages": list(stages)},
            }
        ],
    }  # fmt: skip


FAST = {"layers": 16, "tensor_parallel": 2, "data_parallel": 4, "accelerator": "h100-sxm"}
SLOW = {"layers": 8, "tensor_parallel": 4, "data_parallel": 2, "accelerator": "dgx-a100-640"}


def plan_of(document: dict[str, Any]) -> Plan:
    return load_scenario(document).training[0].plan


def test_stages_become_a_plan_of_as_many_ranks() -> None:
    plan = plan_of(scenario(FAST, SLOW, zero_stage=1))
    assert (plan.pipeline_parallel, plan.data_parallel, plan.accelerators) == (2, 4, 16)
    assert [p.tensor_parallel for p in plan.stage_plans] == [2, 4]
    assert [p.zero_stage for p in plan.stage_plans] == [1, 1]
    assert str(plan).endswith("stages[16 tp2 dp4 on h100-sxm; 8 tp4 dp2 on dgx-a100-640]")


def test_a_data_degree_that_no_stage_names_takes_what_is_left() -> None:
    assert plan_of(scenario({"layers": 12}, {"layers": 12})).data_parallel == 8
    plan = plan_of(scenario({"layers": 12, "tensor_parallel": 2}, {"layers": 12, "data_parallel": 8}))
    assert [p.data_parallel for p in plan.stage_plans] == [4, 8]
    assert plan.data_parallel == 8  # what micro-batches are counted by: the largest


def test_ranges_of_layers_are_parts_of_the_model_in_its_order() -> None:
    plan = plan_of(scenario({"layers": ["0-3", "12-17"]}, {"layers": ["4-11", "18-23"]}, schedule="mixed-pipe"))
    assert plan.stages == (Stage((4, 6), (0, 2)), Stage((8, 6), (1, 3)))
    assert plan.virtual_stages == 2
    assert plan_of(scenario({"layers": [6, 6]}, {"layers": [6, 6]})).schedule == "interleaved-1f1b"


@pytest.mark.parametrize(
    "stages",
    [
        (Stage((16,), tensor_parallel=2, data_parallel=4, accelerator="h100-sxm"), Stage((8,), data_parallel=8)),
        (Stage((12,), groups=(LayerGroup(2, recompute="full"), LayerGroup(10))), Stage((12,), recompute="full")),
        (Stage((4, 6), (0, 2)), Stage((8, 6), (1, 3))),
    ],
)
def test_a_plan_is_written_as_it_is_read(stages: tuple[Stage, ...]) -> None:
    places = any(s.places for s in stages)
    plan = Plan(
        pipeline_parallel=2, data_parallel=8, virtual_stages=2 if places else 1,
        schedule="mixed-pipe" if places else "1f1b", stages=stages,
    )  # fmt: skip
    document = scenario()
    document["workloads"][0]["plan"] = plan_changes(plan)
    assert plan_of(document) == plan


@pytest.mark.parametrize(
    ("stages", "path", "said"),
    [
        ([{**FAST, "layers": 15}, SLOW], "plan.stages", "23 layers, which are not the 24 of the model; 16 layers"),
        ([{**FAST, "tensor_parallel": 3}, SLOW], "plan.stages", "12 + 8 = 20 accelerators"),
        ([FAST, {**SLOW, "tensor_parallel": 6}], "stages[1].tensor_parallel", "16 attention heads"),
        ([FAST, {**SLOW, "accelerator": "a100"}], "plan.stages", "asks for a100, which the cluster has not"),
        ([{**FAST, "accelerator": "a100-sxm-80gb"}, SLOW], "plan.stages", "0 are left for it"),
        ([FAST, {**SLOW, "layers": "8"}], "stages[1].layers", "a number of layers, a list"),
        ([FAST, {**SLOW, "recompute": "ful"}], "stages[1].recompute", "did you mean 'full'"),
        ([{"layers": ["0-11"]}, {"layers": ["13-23"]}], "plan.stages", "layers 12-12 are in no stage"),
        ([{"layers": ["0-12"]}, {"layers": ["12-23"]}], "plan.stages", "layer 12 is in two"),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(stages: list[dict[str, Any]], path: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_scenario(scenario(*stages))
    assert any(path in str(issue) and said in str(issue) for issue in raised.value.issues), str(raised.value)


def test_an_unequal_plan_that_does_not_fit_names_the_stage_and_what_would_fit() -> None:
    big = scenario({**FAST, "layers": 36, "tensor_parallel": 1, "data_parallel": 8}, {**SLOW, "layers": 4})
    big["workloads"][0]["model"] = "gpt3-13b"
    found = simulator.run(big).of("pretrain")
    assert not found["feasible"]
    assert found["reason"].startswith("out of memory: stage 0 needs")
    assert "the nearest plan that fits: stages of " in found["reason"]


def test_an_engine_with_one_mesh_refuses_the_plan_and_says_why() -> None:
    with pytest.raises(ConfigError, match="gives every pipeline stage the same mesh"):
        export_plan(scenario(FAST, SLOW), engine="megatron")


def test_bound_step_and_run_of_an_unequal_plan_agree() -> None:
    document = scenario(FAST, SLOW, zero_stage=1)
    bound, step = (simulator.estimate(document, depth=d).of("pretrain") for d in ("estimate", "step"))
    ran = simulator.run(document).of("pretrain")
    assert bound["training_seconds"] <= step["training_seconds"]
    assert step["training_seconds"] == pytest.approx(ran["training_seconds"], rel=1e-9)

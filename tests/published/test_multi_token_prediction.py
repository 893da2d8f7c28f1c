"""Modules for multi-token prediction: counts that DeepSeek states, and what they add to a training step.

README_WEIGHTS.md of deepseek-ai/DeepSeek-V3 @0b39205: the module has 11.5 B parameters of its own beside the shared
embedding and head (0.9 B each), and 2.4 B that one token visits with them; README.md: 14 of 685 B on Hugging Face.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

import simulator
from simulator.training.pipelined import PipelinedJob
from simulator.training.stages import prediction_modules
from simulator.workload.counting import forward_flops_per_token, parameters
from simulator.workload.counting_prediction import prediction_flops_per_token, prediction_parameters
from simulator.workload.hf_config import from_hf_config
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.ops import OpKind, Tensor, TensorClass
from simulator.workload.plan import Plan
from tests.unit.strategies.training_cases import FRAMEWORK, cluster

V3 = load_model("deepseek-v3")
SHARED = 2 * V3.vocab_size * V3.hidden_size


def test_published_counts() -> None:
    own = prediction_parameters(V3)
    assert own == pytest.approx(11.5e9, rel=0.01)
    assert round((own + SHARED) / 1e9) in (13, 14)
    assert round((parameters(V3) + own + SHARED) / 1e9) == pytest.approx(685, abs=1)
    # Ours are 2.54 B: the published 2.4 B leaves out what the projection has, 0.1 B.
    assert prediction_parameters(V3, active=True) + SHARED == pytest.approx(2.4e9, rel=0.06)


def test_glm_counts_its_module_in_the_total_of_the_paper() -> None:
    """arXiv 2508.06471, table 1: 355 B with the layer for multi-token prediction."""
    glm = load_model("glm-4.6")
    assert round((parameters(glm) + prediction_parameters(glm)) / 1e9) == pytest.approx(355, abs=2)


def test_the_key_of_hugging_face() -> None:
    config = {"model_type": "deepseek_v3", "num_nextn_predict_layers": 2}
    assert from_hf_config(config, "two").num_nextn_predict_layers == 2
    assert from_hf_config({"model_type": "deepseek_v3"}, "none").num_nextn_predict_layers == 0


def view(plan: Plan, modules: int) -> PipelinedJob:
    model = replace(load_model("deepseek-v2-lite"), num_nextn_predict_layers=modules)
    return PipelinedJob(TrainingJob("job", model, FRAMEWORK, Batch(64, 1, 4096), plan), cluster())


ALONE = Plan(data_parallel=16, expert_parallel=8)
PIPED = Plan(pipeline_parallel=2, data_parallel=8, expert_parallel=8)


def elements(work: PipelinedJob) -> float:
    """Elements of all parameters that a rank of each stage keeps, the experts of the others included."""

    def whole(tensor: Tensor) -> float:
        return tensor.elements() if tensor.cls is TensorClass.PARAM else 0.0

    return sum(count * whole(t) for c in work.chunks for block, count in c.blocks for t in block.states)


@pytest.mark.parametrize("modules", [1, 2])
def test_every_parameter_of_a_module_is_lowered_once(modules: int) -> None:
    model = view(ALONE, modules).job.model
    added = elements(view(ALONE, modules)) - elements(view(ALONE, 0))
    # The router of DeepSeek-V2 has no bias and its norms of queries and latents are among the layer's.
    assert added == prediction_parameters(model)


def test_an_embedding_on_another_rank_is_copied() -> None:
    added = elements(view(PIPED, 1)) - elements(view(PIPED, 0))
    model = view(PIPED, 1).job.model
    assert added == prediction_parameters(model) + model.vocab_size * model.hidden_size
    assert view(PIPED, 1).forward_times[0].seconds == view(PIPED, 0).forward_times[0].seconds
    both = PIPED.with_(schedule="dualpipe")  # each rank has the first and the last stage
    assert elements(view(both, 1)) - elements(view(both, 0)) == prediction_parameters(model)


def test_flops_are_those_of_a_layer_a_projection_and_a_head() -> None:
    def products(modules: int) -> float:
        work = view(ALONE, modules)
        ops = [(op, n) for c in work.chunks for block, n in c.blocks for op in block.forward]
        return sum(n * op.flops({}) for op, n in ops if op.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM, OpKind.ATTENTION))

    model = view(ALONE, 1).job.model
    wanted = 4096 * prediction_flops_per_token(model, 4096, causal=True)
    assert products(1) - products(0) == pytest.approx(wanted, rel=1e-6)
    last, head = model.layers[-1][0], 2.0 * model.vocab_size * model.hidden_size
    two = replace(model, layers=((last, 2),))
    one = replace(model, layers=((last, 1),))
    layer = forward_flops_per_token(two, 4096) - forward_flops_per_token(one, 4096)
    assert prediction_flops_per_token(model, 4096) == pytest.approx(layer + 4 * model.hidden_size**2 + head)


def test_it_sits_behind_the_head_of_the_last_stage_or_takes_a_place() -> None:
    names = [block.name for block, _ in view(PIPED, 1).chunks[-1].blocks]
    assert names[-4:] == ["head", "prediction", "layer", "head"]
    assert [c.layer_count for c in view(PIPED, 1).chunks] == [c.layer_count for c in view(PIPED, 0).chunks]
    counted = PIPED.with_(account_for_mtp_in_pipeline_split=True)
    assert [c.layer_count for c in view(counted, 1).chunks] == [14, 13]


def test_the_plan_says_how_many_are_trained() -> None:
    off = view(ALONE.with_(mtp_num_layers=0), 1)
    assert off.run().seconds == view(ALONE, 0).run().seconds
    assert prediction_modules(V3, ALONE) == 1
    assert view(ALONE, 1).run().seconds > off.run().seconds


def test_published_job_of_deepseek_trains_it() -> None:
    job = simulator.load("deepseek-v3-h800").training[0]
    assert prediction_modules(job.model, job.plan) == 1

"""Memory of nanotron's pipelines on H100, from the sweep of the Ultra-Scale Playbook.

Published: ``mem_alloc`` of rank 0, the first stage, in GiB (gkarfakis19/Rapid-LLM @317a2cb,
validation_scripts/huggingface_data/bench_final2_mfu2.csv): its peak after the backward, when activations and 16-bit
gradients are gone. Rows without tensor parallelism and without ZeRO, whose states are all of it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.hardware.profiles import load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.results.estimate import MemoryLedger
from simulator.training.pipelined import PipelinedJob
from simulator.validation.models import llama_model
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.plan import Plan

GIB = 2.0**30
MODELS = {
    "1.34B": llama_model("1.34B", 16, 2048, 32, 32, 8192, 131072, 4096, tied=True),
    "3.57B": llama_model("3.57B", 28, 3072, 32, 32, 8192, 131072, 4096, tied=True),
    "8.86B": llama_model("8.86B", 32, 4096, 32, 32, 14336, 131072, 4096, tied=False),
}
NODE = load_node("aws-p5")


def job_of(model: str, plan: Plan, micro: int = 1, steps: int = 64) -> TrainingJob:
    batch = Batch(plan.data_parallel * micro * steps, micro, 4096)
    return TrainingJob("run", MODELS[model], load_framework("nanotron"), batch, plan)


def pipeline_of(job: TrainingJob) -> PipelinedJob:
    nodes = -(-job.plan.accelerators // NODE.accelerators)
    return PipelinedJob(job, Cluster("p5", (NodeGroup(NODE, nodes),), Fabric("fat-tree", NODE.nic)))


@pytest.mark.parametrize(
    ("model", "stages", "replicas", "layers", "published"),
    [
        ("1.34B", 2, 64, 10, 17.57),
        ("1.34B", 4, 64, 5, 11.32),
        ("3.57B", 2, 64, 16, 41.33),
        ("3.57B", 4, 64, 8, 24.44),
        ("3.57B", 8, 1, 4, 14.41),
        ("8.86B", 8, 1, 5, 29.46),
        ("8.86B", 16, 1, 3, 21.30),
    ],
)
def test_states_of_the_first_stage(model: str, stages: int, replicas: int, layers: int, published: float) -> None:
    plan = Plan(pipeline_parallel=stages, data_parallel=replicas)
    pipeline = pipeline_of(job_of(model, plan))
    first = pipeline.memory().stages[0].by_class
    half_gradients = sum(
        count * t.bytes(plan.mesh)
        for block, count in pipeline.chunks[0].blocks
        for t in block.states
        if t.name.endswith(".half_grad")
    )
    kept = first["param"] + first["grad"] + first["optim"] - half_gradients
    assert pipeline.chunks[0].layer_count == layers
    assert 0.0 < published - kept / GIB < 0.1  # library workspaces


def held(ledger: MemoryLedger, other: MemoryLedger) -> list[float]:
    return [a.peak - b.peak for a, b in zip(ledger.stages, other.stages, strict=True)]


@pytest.mark.parametrize("stages", [2, 4, 8])
def test_what_the_warm_up_handed_to_communicators_stays_reserved(stages: int) -> None:
    plan = Plan(tensor_parallel=4, pipeline_parallel=stages, sequence_parallel=True)
    job = job_of("3.57B", plan, micro=2)
    pipeline = pipeline_of(job)
    without = replace(job, framework=replace(job.framework, holds_handed_over="no"))
    found = held(pipeline.memory(), pipeline_of(without).memory())
    whole = 2 * 4096 * 3072 * 2  # micro-batch × sequence × hidden in 16 bit, before it is scattered
    for stage, chunk in enumerate(pipeline.chunks):
        forwards = stages - stage  # in flight, so many follow each other at the start
        outputs = 2 * chunk.layer_count + (stage == 0)  # attention and MLP of every layer, and the embedding
        assert found[stage] == pytest.approx(max(0, forwards - 2) * outputs * whole)
    assert found[-1] == 0.0


def test_one_forward_stays_reserved_where_every_message_is_waited_for() -> None:
    plan = Plan(tensor_parallel=4, sequence_parallel=True)
    job = job_of("3.57B", plan)
    job = replace(job, framework=replace(job.framework, holds_handed_over="forward"))
    without = replace(job, framework=replace(job.framework, holds_handed_over="no"))
    [found] = held(pipeline_of(job).memory(), pipeline_of(without).memory())
    assert found == pytest.approx((2 * 28 + 1) * 4096 * 3072 * 2 + 4096 * 4)  # and the loss of every token in fp32

"""A host that reads the loss of every micro-batch keeps the device waiting before each backward."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.cost.host import OPERATOR
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.training.pipelined import PipelinedJob
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan

CLUSTER = Cluster("one node", (NodeGroup(load_node("dgx-h100"), 1),), Fabric("fat-tree", load_link("ndr400")))
OPERATORS = 40


def step(read: bool, micro_batches: int, **plan: object) -> float:
    framework = replace(load_framework("megatron-core-0.8"), operators_behind_loss=OPERATORS if read else 0)
    layout = Plan(**plan)  # type: ignore[arg-type]
    batch = Batch(micro_batches * layout.data_parallel, 1, 4096)
    job = TrainingJob("reads", load_model("llama-3.2-1b"), framework, batch, layout)
    return PipelinedJob(job, CLUSTER).run().seconds


@pytest.mark.parametrize("micro_batches", [1, 5])
def test_a_wait_per_micro_batch(micro_batches: int) -> None:
    waited = step(True, micro_batches, data_parallel=8) - step(False, micro_batches, data_parallel=8)
    assert waited == pytest.approx(micro_batches * OPERATORS * OPERATOR.value, rel=1e-6)


def test_only_the_stage_with_the_loss_waits() -> None:
    """The first stage goes on while the last waits: a step is at most that much longer."""
    plan = {"data_parallel": 4, "pipeline_parallel": 2}
    waited = step(True, 8, **plan) - step(False, 8, **plan)
    assert 0 < waited <= 8 * OPERATORS * OPERATOR.value * (1 + 1e-6)

"""Passes whose kernels wait for their launches, because the host has just waited for the device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.cost.host import COLLECTIVE, OPERATOR
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.training.drained_queues import begins_empty
from simulator.training.pipelined import PipelinedJob
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan

CLUSTER = Cluster("one node", (NodeGroup(load_node("dgx-h100"), 1),), Fabric("fat-tree", load_link("ndr400")))


def pipeline(drains: bool, scale: dict[str, float] | None = None, stages: int = 2) -> PipelinedJob:
    framework = replace(load_framework("megatron-core-0.8"), drains_at_messages=drains)
    plan = Plan(data_parallel=8 // stages, pipeline_parallel=stages)
    batch = Batch(8 * plan.data_parallel, 1, 4096)
    return PipelinedJob(TrainingJob("waits", load_model("llama-3.2-1b"), framework, batch, plan), CLUSTER, scale or {})


def test_messages_come_before_a_forward_behind_the_first_stage_and_a_backward_before_the_last() -> None:
    found = pipeline(True, stages=4)
    pricer = found.pricer(0)
    for phase, empty in (
        ("forward", [False, True, True, True]),
        ("backward", [True, True, True, False]),
        ("input_gradient", [True, True, True, False]),
        ("weight_gradient", [False] * 4),
    ):
        assert [begins_empty(pricer, phase, p, 4) for p in range(4)] == empty
    assert not begins_empty(pipeline(False, stages=4).pricer(0), "forward", 1, 4)


def test_only_passes_behind_a_message_take_longer_and_by_less_than_their_launches() -> None:
    plain, drained = pipeline(False), pipeline(True)
    for before, now, behind in (
        (plain.forward_times[0], drained.forward_times[0], False),
        (plain.forward_times[1], drained.forward_times[1], True),
        (plain.backward_times[0], drained.backward_times[0], True),
        (plain.backward_times[1], drained.backward_times[1], False),
    ):
        waited = now.seconds - before.seconds
        assert (waited > 0) is behind
        assert sum(now.parts.values()) == pytest.approx(now.seconds)
        if behind:  # the first kernel at least, and less than all launches of a layer
            assert 1e-6 < waited < 70 * OPERATOR.value
    assert drained.run().seconds > plain.run().seconds


def test_a_host_without_cost_is_waited_for_by_nobody() -> None:
    nothing = {OPERATOR.id: 1e-9, COLLECTIVE.id: 1e-9}
    assert pipeline(True, nothing).run().seconds == pytest.approx(pipeline(False, nothing).run().seconds, rel=1e-9)


def test_one_stage_has_no_messages() -> None:
    assert pipeline(True, stages=1).run().seconds == pipeline(False, stages=1).run().seconds

"""What jobs put on the network, against an implementation of its own, and how steps stretch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import simulator
from simulator.cluster.contention import step_stretch
from simulator.network.links import KINDS
from simulator.network.topology import build
from simulator.training.link_phases import job_phases, link_loads
from simulator.training.pipelined import PipelinedJob

PLANS: list[tuple[str, dict[str, Any]]] = [
    ("llama-3.1-8b", {"tensor_parallel": 4, "pipeline_parallel": 2, "data_parallel": 8}),
    ("mixtral-8x7b", {"tensor_parallel": 2, "pipeline_parallel": 2, "expert_parallel": 8, "data_parallel": 16}),
    ("llama-3.1-8b", {"tensor_parallel": 8, "pipeline_parallel": 4, "virtual_stages": 2, "data_parallel": 2,
                      "schedule": "interleaved-1f1b"}),
]  # fmt: skip


def job(model: str, plan: dict[str, Any]) -> tuple[PipelinedJob, Any]:
    scenario = simulator.load(
        {
            "cluster": {
                "nodes": {"profile": "dgx-h100", "count": 8},
                "fabric": {"topology": "fat-tree", "options": {"nodes_per_leaf": 2}},
            },
            "workloads": [
                {"training": "j", "model": model, "framework": "megatron-core-0.8",
                 "batch": {"global_batch_size": 64, "sequence_length": 4096},
                 "plan": {"sequence_parallel": True, "zero_stage": 1, **plan}}
            ],
        }
    )  # fmt: skip
    return PipelinedJob(scenario.training[0], scenario.cluster_of("j")), build(scenario.cluster)


@pytest.mark.parametrize(("model", "plan"), PLANS)
def test_phases_carry_the_bytes_of_the_step(model: str, plan: dict[str, Any]) -> None:
    """Link by link the bytes that the heat map of the network finds by its own way."""
    pipeline, topology = job(model, plan)
    carried = np.zeros(len(topology.links))
    for _, phase in job_phases(pipeline, topology, range(topology.accelerator_count)):
        carried[phase.way.links] += phase.way.shares * phase.size
    expected = link_loads(pipeline, topology)
    for kind in ("nic", "leaf_spine"):
        mine = topology.links.kind == KINDS.index(kind)
        assert carried[mine].sum() > 0
        assert carried[mine] == pytest.approx(expected[mine], rel=1e-9)


@pytest.mark.parametrize(("model", "plan"), PLANS[:2])
def test_no_phase_is_faster_than_the_ports_it_passes(model: str, plan: dict[str, Any]) -> None:
    pipeline, topology = job(model, plan)
    for _, phase in job_phases(pipeline, topology, range(topology.accelerator_count)):
        assert (phase.peak * phase.way.shares <= topology.links.capacity[phase.way.links] * (1 + 1e-9)).all()


def test_a_step_stretches_as_the_executor_says() -> None:
    """Exactly 1 undisturbed; on the grid it is the executed step; between, it lies on the chord of a convex curve."""
    pipeline, topology = job(*PLANS[0])
    axes = [axis for axis, _ in job_phases(pipeline, topology, range(topology.accelerator_count))]
    stretch = step_stretch(pipeline, axes)
    assert stretch([1.0] * len(axes)) == 1.0
    for slow in (2.0, 8.0):
        executed = PipelinedJob(pipeline.job, pipeline.cluster, settled=True, slow=dict.fromkeys(axes, slow)).run()
        assert stretch([slow] * len(axes)) == pytest.approx(executed.seconds / pipeline.run().seconds, rel=1e-12)
    low, middle, high = (stretch([s] * len(axes)) for s in (8.0, 9.0, 10.0))
    assert low < middle < high
    assert middle <= (low + high) / 2 * (1 + 1e-9)

"""What jobs put on the network, against an implementation of its own, and how steps stretch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import simulator
from simulator.cluster.contention import step_stretch
from simulator.network.collectives import collective_traffic
from simulator.network.links import KINDS
from simulator.network.topology import build
from simulator.training.link_phases import job_phases, link_loads
from simulator.training.pipelined import PipelinedJob
from simulator.training.step_traffic import Sent, scale_out
from simulator.workload.plan import base_axis

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
def test_phases_carry_what_the_collectives_send(model: str, plan: dict[str, Any]) -> None:
    """Over all ports of nodes together: the closed forms of every collective, group by group, rank by rank."""
    pipeline, topology = job(model, plan)
    ports = topology.links.kind == KINDS.index("nic")
    for axis, phase in job_phases(pipeline, topology, range(topology.accelerator_count)):
        carried = np.zeros(len(topology.links))
        carried[phase.way.links] = phase.way.shares * phase.size
        expected = sum(between_nodes(pipeline, m) for m in scale_out(pipeline) if base_axis(m.axis) == axis)
        assert carried[ports].sum() == pytest.approx(2 * expected, rel=1e-9), axis  # out of a port, and into one


def between_nodes(pipeline: PipelinedJob, message: Sent) -> float:
    """Bytes of one kind of message of one stage between nodes of 8, over all its ranks."""
    per_stage = pipeline.plan.accelerators // pipeline.ranks
    if message.to >= 0:
        return message.size * per_stage
    layout = pipeline.pricer(message.stage).layout
    size, stride = layout.group(message.axis).ranks, layout.strides[message.axis]
    total, first = 0.0, message.stage * per_stage
    for leader in (r for r in range(first, first + per_stage) if (r - first) // stride % size == 0):
        nodes = [(leader + stride * i) // 8 for i in range(size)]
        spread = [nodes.count(node) for node in dict.fromkeys(nodes)]
        rings = len(spread) > 1 and spread[0] > 1 and message.collective != "all_to_all"
        algorithm = "hierarchical" if rings else None
        total += collective_traffic(message.collective, message.size, spread, algorithm).total["nic"]
    return total


def test_slices_of_a_boundary_are_counted_once() -> None:
    """Tensor ranks that each send a slice of an activation: bytes per rank and step are boundary / tp, both ways."""
    plan = {"tensor_parallel": 8, "pipeline_parallel": 4, "data_parallel": 2, "sequence_parallel": False}
    pipeline, topology = job("llama-3.1-8b", plan)
    slices = 2 * 4096 * 4096 / 8  # bf16, one sequence, hidden size, over 8 ranks
    [sent] = {m.size for m in scale_out(pipeline) if m.axis == "pp"}
    assert sent == pytest.approx(pipeline.microbatches * slices)
    inner = 2 * pipeline.microbatches * slices  # a stage in the middle sends to both neighbours
    scattered = sum(m.size for m in scale_out(pipeline) if m.axis == "pp" and m.stage == 1)
    assert scattered == pytest.approx(inner)
    out = np.flatnonzero(topology.links.kind == KINDS.index("nic"))
    carried = link_loads(pipeline, topology)[out].sum()
    others = sum(between_nodes(pipeline, m) for m in scale_out(pipeline))
    assert carried == pytest.approx(2 * others)


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

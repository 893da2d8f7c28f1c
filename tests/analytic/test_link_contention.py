"""All-to-alls and gradient reductions on one link: who waits for whom, and what Lina changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.hardware import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.training.link_contention import shared_link_delay
from simulator.training.step import estimate_step
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan

seconds = st.floats(0.0, 10.0)


@given(st.lists(seconds, max_size=8), seconds, st.floats(1e-3, 1.0))
def test_priority_never_costs_the_all_to_all(exchanges: list[float], beside: float, piece: float) -> None:
    fair, first = shared_link_delay(exchanges, beside, 0.0), shared_link_delay(exchanges, beside, piece)
    assert 0 <= first <= fair <= sum(exchanges)  # shared equally, an exchange takes twice its time at most
    assert fair <= beside + 1e-12  # and no longer than there is something beside it
    assert first <= len(exchanges) * piece + 1e-12


def step(plan: Plan, sequence: int = 32768) -> float:
    cluster = Cluster("c", (NodeGroup(load_node("dgx-a100-640"), 4),), Fabric("fat-tree", load_link("hdr200")))
    batch, framework = Batch(plan.data_parallel, 1, sequence), load_framework("megatron-core-0.8")
    answer = estimate_step(
        TrainingJob("j", load_model("mixtral-8x7b"), framework, batch, plan), cluster, with_interval=False
    )
    assert answer.feasible, answer.reason
    return answer.seconds


@pytest.mark.parametrize(("tensor", "experts"), [(4, 4), (2, 8), (8, 2)])
def test_lina_shortens_steps_whose_exchanges_leave_the_node(tensor: int, experts: int) -> None:
    # arXiv 2210.17223: up to 1.73x against DDP's buckets; an ordering within that band, both sides simulated.
    plan = Plan(tensor, data_parallel=32 // tensor, expert_parallel=experts, recompute="full", zero_stage=1)
    buckets, lina = (step(plan.with_(communication=name)) for name in ("buckets", "lina"))
    assert 1.01 < buckets / lina < 1.73


def test_without_exchanges_lina_is_refused() -> None:
    from simulator.strategies.compile import check_plan

    (reason,) = check_plan(load_model("llama-3.1-8b"), Plan(data_parallel=8).with_(communication="lina"))
    assert "expert_parallel 2" in reason


def test_inside_a_node_nothing_changes() -> None:
    # Eight ranks of a node exchange rows over NVLink, gradients leave over the network: nothing is shared.
    plan = Plan(pipeline_parallel=4, data_parallel=8, expert_parallel=8, recompute="full", zero_stage=1)
    lina, buckets = (step(plan.with_(communication=name), 4096) for name in ("lina", "buckets"))
    assert lina == pytest.approx(buckets, rel=1e-3)


@pytest.mark.parametrize("slow", [(1.0,), (1.1,), (3.3, 1.0), (1.7, 5.2), (2.0**12, 40.0)])
def test_corners_of_a_cell_interpolate_what_is_linear_exactly(slow: tuple[float, ...]) -> None:
    """Weights of the grid around a point: they sum to one and have the point as their mean, beyond the grid too."""
    from simulator.cluster.contention import _SLOWER, _corners

    corners = list(_corners(slow))
    assert sum(weight for _, weight in corners) == pytest.approx(1.0)
    for axis, value in enumerate(slow):
        assert sum(weight * _SLOWER[at[axis]] for at, weight in corners) == pytest.approx(value)

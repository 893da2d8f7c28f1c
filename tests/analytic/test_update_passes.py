"""Passes over gradients and masters that frameworks make at the end of a step, against bytes written out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.cost.network import CommGroup, NetworkCost
from simulator.hardware.profiles import load_accelerator
from simulator.training.pipelined import PipelinedJob
from simulator.training.step_end import gather_delay
from simulator.workload.counting import parameters
from simulator.workload.framework import Framework
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.ops import OpKind, Work
from simulator.workload.plan import Plan
from tests.unit.strategies.training_cases import cluster

MODEL = load_model("llama-2-7b")
CORE = load_framework("megatron-core-0.8")
BARE = replace(CORE, gradient_passes=0, update_bytes=0)
EIGHT = Plan(data_parallel=8, zero_stage=1, precision="bf16")


def update(framework: Framework, plan: Plan = EIGHT) -> tuple[float, float]:
    """Seconds and HBM bytes of the update of one rank."""
    job = TrainingJob("job", MODEL, framework, Batch(8, 1, 2048), plan)
    time = PipelinedJob(job, cluster()).update_time(0)
    return time.seconds, time.traffic.get("hbm", 0.0)


def test_every_held_gradient_is_passed_over_and_every_owned_master_read_once_more() -> None:
    held = parameters(MODEL)
    expected = 4 * 4.0 * held + 4.0 * held / 8  # four passes over fp32 gradients; masters of an eighth
    seconds, moved = update(CORE)
    bare_seconds, bare_moved = update(BARE)
    assert moved - bare_moved == pytest.approx(expected, rel=1e-6)
    device = load_accelerator("a100-sxm-80gb")
    achieved = device.efficiency["elementwise.memory"].value * device.memory_bandwidth
    assert seconds - bare_seconds == pytest.approx(expected / achieved, rel=1e-3)


def test_unsharded_states_are_all_owned() -> None:
    held = parameters(MODEL)
    plan = EIGHT.with_(zero_stage=0)
    assert update(CORE, plan)[1] - update(BARE, plan)[1] == pytest.approx((4 * 4.0 + 4.0) * held, rel=1e-6)


def test_states_on_the_host_are_not_passed_over_by_the_device() -> None:
    plan = EIGHT.with_(offload="zero-offload", zero_stage=2)
    assert update(CORE, plan)[0] == pytest.approx(update(BARE, plan)[0])


def delay(ranks: int, by_owner: bool) -> float:
    """Seconds that gathering updated parameters delays a step of ``ranks`` replicas."""
    framework = replace(CORE, overlap_param_gather=False, broadcasts_by_owner=by_owner)
    plan = Plan(data_parallel=ranks, zero_stage=1, precision="bf16")
    job = TrainingJob("job", MODEL, framework, Batch(ranks, 1, 2048), plan)
    return gather_delay(PipelinedJob(job, cluster(ranks // 8)), 0)


def test_owners_broadcast_one_after_another_and_are_no_more_than_there_are_parameters() -> None:
    size, ranks = 2.0 * parameters(MODEL), 16
    price = NetworkCost(cluster().groups[0].node, cluster().fabric).price
    work = Work(OpKind.COLLECTIVE, "bf16", collective="broadcast", message=size / ranks, ranks=ranks)
    each = price(work, CommGroup(ranks, 8, 2)).seconds
    assert delay(ranks, True) == pytest.approx(ranks * each, rel=1e-3)
    # A ring moves a message once around, so that all of them move all bytes over every link, as a gather does.
    assert delay(ranks, True) >= delay(ranks, False)
    # With more ranks than parameter tensors, messages become no more and no smaller: only the ring becomes longer.
    assert delay(512, True) < delay(1024, True) < 2 * delay(512, True)

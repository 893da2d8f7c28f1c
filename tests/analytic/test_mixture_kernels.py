"""What a mixture does besides its matrix products, against counts and bytes written out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.cost.device import DeviceCost
from simulator.cost.host import GROUP, HostCost
from simulator.hardware.profiles import load_accelerator
from simulator.serving.attention_terms import SoftmaxTerm, attention_term
from simulator.serving.token_costs import served_block
from simulator.training.pipelined import PipelinedJob
from simulator.workload.framework import Framework
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.ops import Op, OpKind, Phase, TensorClass
from simulator.workload.plan import Plan
from tests.unit.strategies.training_cases import cluster

LITE = load_model("deepseek-v2-lite")  # 64 experts, 6 per token, hidden 2048
TOKENS = 4096
ROWS = 6 * TOKENS
SPREAD = Plan(data_parallel=16, expert_parallel=8)
MEGATRON = load_framework("megatron-core-0.8")


def layer(plan: Plan = SPREAD, framework: Framework = MEGATRON) -> tuple[PipelinedJob, tuple[Op, ...], tuple[Op, ...]]:
    """A job, and forward and backward of one of its mixtures."""
    work = PipelinedJob(TrainingJob("job", LITE, framework, Batch(16, 1, TOKENS), plan), cluster())
    block = next(b for b, _ in work.chunks[0].blocks if any(op.kind is OpKind.GROUPED_GEMM for op in b.forward))
    return work, block.forward, block.backward


def test_rows_that_arrive_by_sender_are_sorted_and_sorted_back() -> None:
    work, forward, backward = layer()
    for ops in (forward, backward):
        sorts = [op for op in ops if op.name.endswith(".sort")]
        assert len(sorts) == 2
        assert all(op.bytes(work.mesh(0)) == 2 * ROWS * 2048 * 2 for op in sorts)
    names = [op.name.rpartition(".")[2] for op in forward if op.name.startswith("mlp.expert")]
    assert names == ["all_to_all", "sort", "expert_up", "expert_act", "expert_down", "sort", "all_to_all"]


@pytest.mark.parametrize(
    "plan",
    [
        SPREAD.with_(expert="node-limited", expert_group=4, node_limit=2),  # forwarded to each expert by the message
        Plan(data_parallel=64, expert_parallel=64),  # one expert per rank
        Plan(data_parallel=16),
    ],
)
def test_nothing_is_sorted_where_rows_come_in_order(plan: Plan) -> None:
    job = TrainingJob("job", LITE, MEGATRON, Batch(64, 1, TOKENS), plan)
    blocks = [b for c in PipelinedJob(job, cluster(8)).chunks for b, _ in c.blocks]
    assert not [op for b in blocks for op in b.ops if op.name.endswith(".sort")]


def test_small_kernels_of_the_router_are_launches() -> None:
    work, forward, backward = layer()
    pricer = work.pricer(0)
    launch = DeviceCost(pricer.device.accelerator, MEGATRON, recorded=True).value("elementwise.launch", [])
    names = {"mlp.topk": MEGATRON.router_kernels_forward, "mlp.topk.backward": MEGATRON.router_kernels_backward}
    for op in (*forward, *backward):
        if op.name in names:
            body = op.bytes(work.mesh(0)) / pricer.device.accelerator.memory_bandwidth
            spent = pricer.price(op).priced.seconds
            assert names[op.name] * launch < spent < names[op.name] * launch + 2 * body
    plain = replace(MEGATRON, router_kernels_forward=0, router_kernels_backward=0, router_selections=0)
    assert [op.name for op in layer(framework=plain)[1] if "select" in op.name] == []


def test_a_selection_takes_what_was_measured() -> None:
    """66 us for 4,096 rows on 132 multiprocessors (profile-data @4496024), twice per forward, none in the backward."""
    work, forward, backward = layer()
    pricer = work.pricer(0)
    select = next(op for op in forward if op.name == "mlp.select")
    multiprocessors = pricer.device.accelerator.sm_count
    expected = 2 * 66e-6 * 132 / multiprocessors
    assert pricer.price(select).priced.seconds == pytest.approx(expected, rel=0.05)
    assert not [op for op in backward if "select" in op.name]


def test_every_local_expert_costs_the_host_its_calls() -> None:
    """Two linears: a view and a GEMM each; backward a view, a placeholder, its accumulation, a hook and two GEMMs."""
    host = HostCost(MEGATRON)
    each = {0: host.layer({Phase.FORWARD: 1.0}, 1, ()), 1: host.layer({Phase.FORWARD: 1.0}, 1, (), 1)}
    call = each[0] / MEGATRON.operators_forward
    forth, back = 2 * call + 2 * GROUP.value, 8 * call + 4 * GROUP.value
    assert each[1] - each[0] == pytest.approx(call * MEGATRON.operators_routed_forward + forth)
    many = host.layer({Phase.BACKWARD: 1.0, Phase.WEIGHT_GRADIENT: 1.0}, 1, (), 21)
    few = host.layer({Phase.BACKWARD: 1.0, Phase.WEIGHT_GRADIENT: 1.0}, 1, (), 1)
    assert many - few == pytest.approx(20 * back)
    work, forward, _ = layer()
    block = next(b for b, _ in work.chunks[0].blocks if b.forward == forward)
    dense = next(b for b, _ in work.chunks[0].blocks if b.name == "layer" and b is not block)
    seconds = [
        work.pricer(0).host_seconds(b, [op for op in b.forward if op.collective is None]) for b in (block, dense)
    ]
    assert seconds[0] - seconds[1] == pytest.approx(call * MEGATRON.operators_routed_forward + 8 * forth)


@pytest.mark.parametrize(("ranks", "copies", "held"), [(8, 0, 8), (8, 16, 10), (48, 32, 2)])
def test_copies_of_experts_take_slots(ranks: int, copies: int, held: int) -> None:
    plan = Plan(data_parallel=ranks, expert_parallel=ranks, options=(("redundant_experts", copies),))
    block = served_block(LITE.layers[-1][0], LITE, plan, load_framework("sglang-0.4"), 512)
    weights = {t.name: t for op in block.forward for t in op.reads if t.cls is TensorClass.PARAM}
    matrix = weights["mlp.expert_down.weight"]
    assert matrix.elements(plan.mesh) == held * 1408 * 2048


def test_a_chunk_projects_the_latents_before_it_up_again() -> None:
    """2·cached·512·heads·(128 + 128) FLOPs, nothing without a cached context or without latents."""
    device, latent = DeviceCost(load_accelerator("h100-sxm")), LITE.layers[-1][0].attention
    assert latent is not None
    term = attention_term(latent, device, 1, "bf16")
    assert isinstance(term, SoftmaxTerm)
    product, join = term._expansion(3000)
    assert product.flops == 2 * 3000 * 512 * 16 * 256
    assert join.bytes == 2 * 3000 * (16 * (128 + 192) + 64)
    assert term._expansion(0) == ()
    alone = device.price(term._prefill_work(1000, 3000)).seconds - term.prefill_launch
    extra = sum(device.price(work).seconds for work in (product, join))
    assert term.chunk_seconds(1000, 3000) == pytest.approx(alone + extra, rel=1e-9)
    full = load_model("llama-3.1-8b").layers[0][0].attention
    assert full is not None
    other = attention_term(full, device, 1, "bf16")
    assert isinstance(other, SoftmaxTerm) and other._expansion(3000) == ()


def test_both_stages_of_a_bidirectional_pair_are_in_the_bound() -> None:
    """A rank runs half of the micro-batches through each: the bound is the mean of its two stages."""
    plan = Plan(pipeline_parallel=4, data_parallel=4, schedule="dualpipe", options=(("mtp_num_layers", 2),))
    work = PipelinedJob(TrainingJob("job", LITE, MEGATRON, Batch(64, 1, TOKENS), plan), cluster())
    floors = [f.floor + b.floor for f, b in zip(work.forward_times, work.backward_times, strict=True)]
    assert floors[3] > 1.2 * floors[1]
    halves = [work.microbatches * (floors[r] + floors[3 - r]) / 2 for r in range(4)]
    assert work.floor() == pytest.approx(max(halves) + work.update_time(0).floor, rel=1e-3)

"""Sharding over groups: limiting cases that must be a known baseline, traffic, and refusals."""

from __future__ import annotations

import itertools

import pytest

from simulator.results.estimate import Estimate
from simulator.strategies.rank_layout import RankLayout
from simulator.training.memory import chunk_memory
from simulator.training.stages import Chunk
from simulator.workload.framework import Framework
from simulator.workload.ops import Block, Phase, TensorClass
from simulator.workload.plan import Plan
from tests.unit.strategies.training_cases import FRAMEWORK, RANKS, cluster, estimate, layers

DP = Plan(data_parallel=RANKS)


def same(one: Estimate, other: Estimate) -> None:
    assert one.feasible and other.feasible
    assert one.seconds == pytest.approx(other.seconds, rel=1e-12)
    assert one.memory.worst.peak == pytest.approx(other.memory.worst.peak, rel=1e-12)
    assert dict(one.traffic.by_link) == pytest.approx(dict(other.traffic.by_link), rel=1e-12)


@pytest.mark.parametrize("sharding", ["mics", "paro", "amsp"])
def test_groups_of_all_ranks_are_zero_3(sharding: str) -> None:
    options = {"shard_group": RANKS} if sharding == "mics" else {}
    same(estimate(DP.with_(sharding=sharding, **options)), estimate(DP.with_(zero_stage=3)))


@pytest.mark.parametrize(("stage", "groups"), [(0, (1, 1, 1)), (1, (1, 1, RANKS)), (2, (1, RANKS, RANKS))])
def test_paro_contains_the_zero_stages(stage: int, groups: tuple[int, int, int]) -> None:
    names = ("parameter_group", "gradient_group", "optimizer_group")
    paro = DP.with_(sharding="paro", **dict(zip(names, groups, strict=True)))
    same(estimate(paro), estimate(DP.with_(zero_stage=stage)))


def test_mics_groups_of_one_are_data_parallel() -> None:
    same(estimate(DP.with_(sharding="mics", shard_group=1)), estimate(DP))


def test_hybrid_group_of_all_ranks_is_fsdp() -> None:
    same(estimate(DP.with_(sharding="hsdp", shard_group=RANKS)), estimate(DP.with_(sharding="fsdp")))


def test_zero_plus_plus_with_everything_off_is_zero_3() -> None:
    off = {"quantized_weights": False, "secondary_shard": False, "quantized_gradients": False}
    same(estimate(DP.with_(sharding="zero++", secondary_group=8, **off)), estimate(DP.with_(zero_stage=3)))


def layer_bytes() -> float:
    """16-bit parameters of one layer."""
    return sum(t.elements() * 2.0 for t in layers(DP)[0].parameters)


def workspace(plan: Plan) -> float:
    """What the layers allocate and free, gathered parameters included."""
    blocks = layers(plan)
    return chunk_memory(Chunk(0, ((blocks[0], len(blocks)),)), plan.mesh).workspace


def crossing(plan: Plan) -> float:
    """Bytes per rank and micro-batch between nodes, for one layer."""
    layout = RankLayout(plan, cluster().groups[0].node)
    block = layers(plan)[0]
    total = 0.0
    for op in (*block.gather_forward, *block.gather_backward, *block.reduce_each):
        if op.collective is not None:
            source = op.writes if op.collective.value == "all_gather" else op.reads
            size = sum(t.bytes(plan.mesh) for t in source)
            total += layout.wire_bytes(op.collective, size, layout.group(op.axis))["scale_out"]
    return total


def test_zero_plus_plus_sends_a_quarter_between_nodes() -> None:
    """3Ψ → 0.75Ψ with 16-bit gradients (arXiv 2306.10209)."""
    plain, quantised = DP.with_(zero_stage=3), DP.with_(sharding="zero++", secondary_group=8)
    assert crossing(plain) / crossing(quantised) == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize(
    ("part", "ratio"), [("quantized_weights", 3 / 2), ("secondary_shard", 3 / 2), ("quantized_gradients", 3 / 2.25)]
)
def test_each_part_of_zero_plus_plus(part: str, ratio: float) -> None:
    parts = {"quantized_weights": False, "secondary_shard": False, "quantized_gradients": False} | {part: True}
    # Both gathers travel as int8 where no secondary copy serves the backward: 0.5 + 0.5 + 1.
    plan = DP.with_(sharding="zero++", secondary_group=8, **parts)
    assert crossing(DP.with_(zero_stage=3)) / crossing(plan) == pytest.approx(ratio, rel=1e-3)


def test_mics_gathers_stay_inside_the_node() -> None:
    assert crossing(DP.with_(sharding="mics", shard_group=8)) == 0
    assert estimate(DP.with_(sharding="mics", shard_group=8)).traffic.by_link["scale_out"] > 0  # once per step


def test_prefetch_hides_gathers_and_costs_memory() -> None:
    """Without prefetch every gather is exposed; with it two units are resident."""
    plans = [DP.with_(sharding="fsdp", fsdp_prefetch=n) for n in (0, 1, 2)]
    none, one, two = (estimate(p) for p in plans)
    assert none.seconds > one.seconds
    assert two.seconds <= one.seconds  # gathers that are further ahead leave the link to reductions
    held = [workspace(p) for p in plans]
    assert held[1] - held[0] == held[2] - held[1] == layer_bytes()


def test_units_hold_as_many_layers() -> None:
    peaks = [workspace(DP.with_(sharding="fsdp", fsdp_unit=n)) for n in (1, 2, 4)]
    assert peaks[1] - peaks[0] == 2 * layer_bytes()
    assert peaks[2] - peaks[1] == 4 * layer_bytes()


def test_no_reshard_after_forward_trades_a_gather_for_memory() -> None:
    kept, again = (DP.with_(sharding="fsdp", reshard_after_forward=r) for r in (False, True))
    assert not layers(kept)[0].gather_backward
    assert crossing(again) / crossing(kept) == pytest.approx(3 / 2, rel=1e-3)
    assert estimate(kept).memory.worst.peak > estimate(again).memory.worst.peak


def test_lora_computes_no_frozen_weight_gradient() -> None:
    plan = Plan(precision="bf16").with_(peft="lora", lora_rank=1)
    plain, tuned = layers(Plan())[0], layers(plan)[0]
    weight = [sum(op.flops() for op in b.backward if op.phase is Phase.WEIGHT_GRADIENT) for b in (plain, tuned)]
    assert weight[1] < 0.01 * weight[0]
    inputs = [sum(op.flops() for op in b.backward if op.phase is Phase.BACKWARD) for b in (plain, tuned)]
    assert inputs[1] == pytest.approx(inputs[0], rel=0.01)


@pytest.mark.parametrize("tensor_parallel", [2, 4])
def test_lora_adapters_are_sharded_with_their_gemm(tensor_parallel: int) -> None:
    plan = Plan(tensor_parallel=tensor_parallel).with_(peft="lora", lora_rank=8)
    whole = Plan().with_(peft="lora", lora_rank=8)
    work = [sum(op.flops(p.mesh) for op in layers(p)[0].forward if "lora" in op.name) for p in (whole, plan)]
    assert work[0] > work[1] > work[0] / tensor_parallel


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sharding": "mics"}, "shard_group"),
        ({"sharding": "hsdp"}, "shard_group"),
        ({"sharding": "zero++"}, "secondary_group"),
        ({"sharding": "mics", "shard_group": 3}, "sizes that do: 1, 2, 4, 8, 16"),
        ({"sharding": "paro", "parameter_group": 8, "optimizer_group": 2}, "multiple"),
        ({"sharding": "fsdp", "fsdp_unit": 0}, "fsdp_unit"),
        ({"peft": "lora", "lora_rank": 0}, "lora_rank"),
    ],
)
def test_what_does_not_work_says_why(options: dict[str, object], says: str) -> None:
    refused = estimate(DP.with_(**options))
    assert not refused.feasible
    assert says in refused.reason


def test_pipelines_refuse_per_microbatch_shards() -> None:
    plan = Plan(data_parallel=8, pipeline_parallel=2).with_(sharding="mics", shard_group=8)
    assert "pipeline_parallel" in estimate(plan).reason
    assert estimate(plan.with_(sharding="fsdp", reshard_after_forward=False)).feasible


def test_a_pipeline_can_shard_gradients_every_few_microbatches() -> None:
    base = Plan(data_parallel=8, pipeline_parallel=2).with_(sharding="fsdp", reshard_after_forward=False)
    whole, each, fourth = (layers(base.with_(shard_gradients=n))[0] for n in (0, 1, 4))
    mesh = base.mesh

    def held(block: Block) -> float:
        return sum(t.bytes(mesh) for t in block.states if t.cls is TensorClass.GRAD)

    assert held(each) == held(fourth) == pytest.approx(held(whole) / 8)
    assert not whole.reduce_each and [op.wire.volume for op in each.reduce_each] == [1.0]
    assert [op.wire.volume for op in fourth.reduce_each] == [0.25]
    kept = [sum(t.bytes(mesh) for t in b.states if t.cls is TensorClass.WORKSPACE) for b in (each, fourth)]
    assert kept == [0.0, held(whole)]  # whole while the four follow each other


def test_gradient_type_of_the_framework_counts() -> None:
    fp32 = Framework("fp32", "training", gradient_dtype="fp32")
    plan = DP.with_(sharding="mics", shard_group=8)
    wide, narrow = (estimate(plan, f).memory.worst.by_class["grad"] for f in (fp32, FRAMEWORK))
    assert wide == pytest.approx(2 * narrow, rel=1e-4)


def test_every_step_of_quantised_gradients_reads_what_the_one_before_it_wrote() -> None:
    """Quantise, exchange and reduce inside the node, then across it, and the end is ZeRO-3's sharded gradient.

    A quarter of the 16-bit bytes go inside the node; across nodes an eighth of that, what the node has reduced.
    """
    plan = DP.with_(sharding="zero++", secondary_group=8)
    block, plain = layers(plan)[0], layers(DP.with_(zero_stage=3))[0]
    chain = block.reduce_each
    for before, after in itertools.pairwise(chain):
        assert {t.name for t in after.reads} == {t.name for t in before.writes}
    assert {t.name for t in chain[-1].writes} == {t.name for op in plain.reduce_each for t in op.writes}
    sent = [sum(t.bytes(plan.mesh) for t in op.reads) for op in chain if op.collective is not None]
    assert sent == [layer_bytes() / 4, layer_bytes() / 4 / 8]

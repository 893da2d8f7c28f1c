"""Tensor parallelism against published bytes and closed forms of its traffic."""

from __future__ import annotations

import pytest
from partitions import FUSED, flops, layer_of, messages, plan_of, replace, same_work

from simulator.cost.device import DeviceCost
from simulator.cost.network import NetworkCost
from simulator.engine.streams import run_streams
from simulator.hardware.profiles import load_cluster
from simulator.strategies.rank_layout import RankLayout
from simulator.training.block_program import dependencies
from simulator.training.block_time import BlockPricer
from simulator.workload.counting import parameters
from simulator.workload.framework import Framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.ops import OpKind
from simulator.workload.plan import Plan

MIB = 2**20
MEGATRON_2022 = Framework("2022", "training", attention_kernel="unfused", dropout=True)


@pytest.mark.parametrize(
    ("fields", "mebibytes"),
    [
        ({}, 2736),
        ({"tensor_parallel": 8}, 552),
        ({"tensor_parallel": 8, "sequence_parallel": True}, 342),
        ({"tensor_parallel": 8, "recompute": "selective"}, 312),
        ({"tensor_parallel": 8, "sequence_parallel": True, "recompute": "selective"}, 102),
        ({"tensor_parallel": 8, "recompute": "full"}, 48),
        ({"tensor_parallel": 8, "sequence_parallel": True, "recompute": "full"}, 6),
    ],
)
def test_activation_bytes_of_a_gpt3_layer(fields: dict[str, object], mebibytes: float) -> None:
    # Korthikanti et al., arXiv 2205.05198, table 2 with s = 2048, h = 12288, a = 96, b = 1.
    plan = plan_of(precision="fp16", **fields)
    block = layer_of("gpt3-175b", plan, framework=MEGATRON_2022)
    assert sum(t.bytes(plan.mesh) for t in block.saved) == mebibytes * MIB


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120.0), (1, 31.41), (2, 16.64), (3, 1.875)])
def test_model_states_of_zero(stage: int, gigabytes: float) -> None:
    # Rajbhandari et al., arXiv 1910.02054, figure 1: 7.5 B parameters on 64 ranks, fp16 gradients.
    from simulator.training.stages import compiled_layers

    plan = plan_of(data_parallel=64, zero_stage=stage, precision="fp16")
    model = replace(load_model("gpt-7.5b"), tie_word_embeddings=False)
    job = TrainingJob("job", model, Framework("f", "training", gradient_dtype="fp16"), Batch(64, 1, 2048), plan)
    held = sum(t.bytes(plan.mesh) for block in compiled_layers(job) for t in block.states)
    # Shards of small tensors are rounded up to whole elements.
    assert held / parameters(model) * 7.5 == pytest.approx(gigabytes, rel=3e-4)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_two_all_reduces_per_layer_and_direction(ranks: int) -> None:
    # Shoeybi et al., arXiv 1909.08053 §3: bsh elements each.
    plan = plan_of(tensor_parallel=ranks)
    block = layer_of("gpt3-6.7b", plan, batch=2)
    bsh = 2 * 2048 * 4096 * 2  # bytes
    for ops in (block.forward, block.backward):
        assert messages(ops, plan, "all_reduce", "tp") == [bsh, bsh]


@pytest.mark.parametrize("model", ["gpt3-6.7b", "llama-3.1-8b"])
def test_sequence_parallelism_sends_what_tensor_parallelism_sends(model: str) -> None:
    # An all-reduce is a reduce-scatter and an all-gather (arXiv 2205.05198 §4.2.2): the forward moves the same bytes.
    # The backward gathers the inputs of the weight gradients once more, because they are stored split. Without dropout
    # (Llama) an addition has no kernel in the backward: what it added has the gradient of the stream, which is split.
    plan = plan_of(tensor_parallel=8, sequence_parallel=True)
    block = layer_of(model, plan, batch=2)
    bsh = 2 * 2048 * 4096 * 2
    assert messages(block.forward, plan, "all_gather", "tp") == [bsh, bsh]
    assert messages(block.forward, plan, "reduce_scatter", "tp") == [bsh, bsh]
    assert messages(block.backward, plan, "reduce_scatter", "tp") == [bsh, bsh]
    assert messages(block.backward, plan, "all_gather", "tp") == [bsh] * 4


GRIDS = {
    "summa-2d": plan_of(tensor_parallel=16, tensor="summa-2d", tensor_rows=4),
    "tesseract-2.5d": plan_of(tensor_parallel=32, tensor="tesseract-2.5d", tensor_rows=4, tensor_depth=16),
    "3d": plan_of(tensor_parallel=8, tensor="3d", tensor_rows=2, tensor_depth=4),
}


@pytest.mark.parametrize("name", GRIDS)
def test_grids_conserve_flops_and_tile_everything(name: str) -> None:
    plan, whole = GRIDS[name], Plan()
    tiled, full = layer_of("gpt3-6.7b", plan, batch=8), layer_of("gpt3-6.7b", whole, batch=8)
    assert flops(tiled.ops, plan) * plan.tensor_parallel == pytest.approx(flops(full.ops, whole), rel=1e-12)
    saved = sum(t.bytes(whole.mesh) for t in full.saved) / sum(t.bytes(plan.mesh) for t in tiled.saved)
    assert saved == pytest.approx(plan.tensor_parallel, rel=1e-12)
    copies = {"tesseract-2.5d": 2}.get(name, 1)
    states = sum(t.bytes(whole.mesh) for t in full.states) / sum(t.bytes(plan.mesh) for t in tiled.states)
    assert states * copies == pytest.approx(plan.tensor_parallel, rel=2e-3)  # biases are cut along rows only


@pytest.mark.parametrize("name", GRIDS)
def test_grids_tile_every_expert(name: str) -> None:
    plan, whole = GRIDS[name], Plan()
    tiled, full = layer_of("mixtral-8x7b", plan, batch=8), layer_of("mixtral-8x7b", whole, batch=8)
    assert flops(tiled.ops, plan) * plan.tensor_parallel == pytest.approx(flops(full.ops, whole), rel=1e-12)
    copies = {"tesseract-2.5d": 2}.get(name, 1)
    states = sum(t.bytes(whole.mesh) for t in full.states) / sum(t.bytes(plan.mesh) for t in tiled.states)
    assert states * copies == pytest.approx(plan.tensor_parallel, rel=2e-3)


def test_optimus_volume_of_a_mixture() -> None:
    # As for a dense layer, product by product: its input and its weight, 1/q of them through each rank.
    plan, q = GRIDS["summa-2d"], 4
    full = layer_of("mixtral-8x7b", Plan(), batch=8)
    products = [op for op in full.forward if op.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM)]
    want = sum(op.reads[0].bytes() + op.reads[1].bytes() for op in products) / q
    block = layer_of("mixtral-8x7b", plan, batch=8)
    assert sum(messages(block.forward, plan, "broadcast", "tp")) == want
    scores = 2 * 8 * 2048 * 8 / q  # router scores of the 8 experts, gathered along a row
    assert messages(block.forward, plan, "all_gather", "tp") == [scores]


def test_optimus_volume_per_layer() -> None:
    # Xu et al., arXiv 2104.05343: the broadcasts of a layer carry 7bsh + 12h² elements, 1/q of them through each rank;
    # the backward moves three times that when the forward is run again, twice without.
    plan, q = GRIDS["summa-2d"], 4
    block = layer_of("gpt3-6.7b", plan, batch=8)
    b, s, h = 8, 2048, 4096
    want = 2 * (7 * b * s * h + 12 * h * h) / q
    assert sum(messages(block.forward, plan, "broadcast", "tp")) == want
    gradients = 2 * 12 * h * h / q  # fp32 partial sums of the weight gradients: twice the bytes
    assert sum(messages(block.backward, plan, "broadcast", "tp")) == 2 * want + gradients
    assert len(messages(block.forward, plan, "broadcast", "tp")) == 2 * q * 4


def test_tesseract_of_depth_one_is_optimus() -> None:
    flat = plan_of(tensor_parallel=16, tensor="tesseract-2.5d", tensor_rows=4, tensor_depth=16)
    assert same_work(layer_of("gpt3-6.7b", flat, batch=8), layer_of("gpt3-6.7b", GRIDS["summa-2d"], batch=8), flat)


def test_tesseract_layers_share_the_traffic_of_the_activations() -> None:
    deep, flat = GRIDS["tesseract-2.5d"], GRIDS["summa-2d"]
    b, s, h, q, d = 8, 2048, 4096, 4, 2
    sent = sum(messages(layer_of("gpt3-6.7b", deep, batch=b).forward, deep, "broadcast", "tp"))
    assert sent == 2 * (7 * b * s * h / d + 12 * h * h) / q
    block = layer_of("gpt3-6.7b", deep, batch=b)
    weights = sum(t.bytes(deep.mesh) for t in block.parameters)
    assert sum(messages(block.reduce, deep, "all_reduce", "tp")) == 2 * weights  # fp32 gradients over the depth
    assert not messages(layer_of("gpt3-6.7b", flat, batch=b).reduce, flat, "all_reduce", "tp")


@pytest.mark.parametrize(("name", "cut"), [("summa-2d", 4), ("tesseract-2.5d", 8)])
def test_norms_of_a_grid_sum_two_numbers_per_token(name: str, cut: int) -> None:
    """Mean and variance over a width that is cut: two fp32 numbers of each of a rank's tokens in every reduction."""
    plan = GRIDS[name]
    sums = [op for op in layer_of("gpt3-6.7b", plan, batch=8).forward if ".sums." in op.name]
    assert sums and set(messages(sums, plan, "all_reduce", "tp")) == {2 * 4 * 8 * 2048 / cut}


def test_cube_gathers_inputs_and_weights_and_scatters_outputs() -> None:
    # Bian et al., arXiv 2105.14450: along each edge a face of X, W and Y, 1/q² of the whole.
    plan, q = GRIDS["3d"], 2
    b, s, h = 8, 2048, 4096
    block = layer_of("gpt3-6.7b", plan, batch=b)
    assert sum(messages(block.forward, plan, "all_gather", "tp")) == 2 * (7 * b * s * h + 12 * h * h) / q**2
    assert sum(messages(block.forward, plan, "reduce_scatter", "tp")) == 2 * (3 + 1 + 4 + 1) * b * s * h / q**2


def _pricer(plan: Plan, framework: Framework) -> BlockPricer:
    cluster = load_cluster("selene")
    node = cluster.groups[0].node
    return BlockPricer(
        DeviceCost(node.accelerator, framework),
        NetworkCost(node, cluster.fabric, framework),
        RankLayout(plan, node),
        framework,
    )


@pytest.mark.parametrize("name", ["domino", "async-tensor-parallel"])
def test_slices_keep_the_work_and_hide_communication(name: str) -> None:
    split = name == "async-tensor-parallel"
    plain = plan_of(tensor_parallel=4, sequence_parallel=split)
    sliced = plain.with_(tensor=name, tensor_slices=2)
    first, second = (layer_of("gpt3-6.7b", p, batch=8) for p in (plain, sliced))
    assert flops(first.ops, plain) == flops(second.ops, sliced)
    for kind in ("all_reduce", "all_gather", "reduce_scatter"):
        assert sum(messages(first.ops, plain, kind, "tp")) == sum(messages(second.ops, sliced, kind, "tp"))
    times = [_pricer(p, FUSED).forward(b) for p, b in ((plain, first), (sliced, second))]
    exposed = [t.parts["tensor_parallel"] for t in times]
    # Two chunks can hide half of each collective; the halves of a batch all but the last one of the layer.
    assert exposed[1] < 0.75 * exposed[0]
    assert times[1].seconds < times[0].seconds
    assert times[1].seconds >= times[0].seconds - exposed[0]  # no more than all of it


@pytest.mark.parametrize("slices", [1, 2, 4, 8])
@pytest.mark.parametrize(("gather", "multiply"), [(8.0, 8.0), (2.0, 8.0), (8.0, 2.0)])
def test_decomposed_pair_takes_the_longer_part_and_one_chunk_of_the_shorter(
    slices: int, gather: float, multiply: float
) -> None:
    # Wang et al., ASPLOS'23: with n chunks, max(g, c) + min(g, c)/n.
    plan = plan_of(tensor_parallel=8, sequence_parallel=True, tensor="async-tensor-parallel", tensor_slices=slices)
    ops = [
        op
        for op in layer_of("gpt3-6.7b", plan).forward
        if "attention.norm.out.all_gather" in op.name or ".qkv" in op.name
    ]
    assert len(ops) == 2 * slices
    durations = [(gather if op.collective else multiply) / slices for op in ops]
    schedule = run_streams(durations, [op.stream for op in ops], dependencies(ops))
    assert schedule.makespan == pytest.approx(max(gather, multiply) + min(gather, multiply) / slices)


def test_a_framework_that_splits_its_collectives_hides_them() -> None:
    """Transformer Engine's user buffers: gathers in a chunk per rank, reductions in four, bulk ones left whole."""
    plan = plan_of(tensor_parallel=4, sequence_parallel=True)
    waits = replace(FUSED, overlaps_linear_backward=True, tensor_parallel_overlap=False)
    hides = replace(waits, tensor_parallel_overlap=True)
    first, second = (layer_of("gpt3-6.7b", plan, batch=8, framework=f) for f in (waits, hides))
    assert flops(first.ops, plan) == flops(second.ops, plan)
    for kind in ("all_gather", "reduce_scatter"):
        assert sum(messages(first.ops, plan, kind, "tp")) == sum(messages(second.ops, plan, kind, "tp"))
    names = [op.name for op in second.forward if op.collective]
    assert len(names) == 2 * 4 + 2 * 4
    # Behind the GEMM of an input gradient comes that of the weight gradient: its reduction stays whole, and so does the
    # gather of the saved input; the gradients that enter the two row-parallel layers are gathered in chunks.
    assert sum("chunk" in op.name for op in second.backward if op.collective) == 2 * 4
    assert sum("chunk" not in op.name for op in second.backward if op.collective) == 4
    for name in ("forward", "backward"):
        times = [getattr(_pricer(plan, f), name)(b) for b, f in ((first, waits), (second, hides))]
        exposed = [t.parts.get("tensor_parallel", 0.0) for t in times]
        assert exposed[1] < 0.8 * exposed[0]
        assert times[0].seconds - exposed[0] <= times[1].seconds < times[0].seconds


def test_all_reduces_are_not_pipelined() -> None:
    plan = plan_of(tensor_parallel=4)
    waits, hides = (replace(FUSED, tensor_parallel_overlap=on) for on in (False, True))
    one, other = (layer_of("gpt3-6.7b", plan, batch=8, framework=f) for f in (waits, hides))
    assert [op.name for op in one.ops] == [op.name for op in other.ops]


@pytest.mark.parametrize("name", ["domino", "async-tensor-parallel"])
def test_one_slice_is_plain_tensor_parallelism(name: str) -> None:
    plain = plan_of(tensor_parallel=4)
    assert same_work(
        layer_of("gpt3-6.7b", plain), layer_of("gpt3-6.7b", plain.with_(tensor=name, tensor_slices=1)), plain
    )


@pytest.mark.parametrize("name", ["megatron-1d", "summa-2d", "tesseract-2.5d", "3d", "domino", "async-tensor-parallel"])
def test_degree_one_changes_nothing(name: str) -> None:
    plan = Plan()
    assert same_work(layer_of("gpt3-125m", plan), layer_of("gpt3-125m", plan.with_(tensor=name)), plan)


@pytest.mark.parametrize("recompute", ["selective", "full"])
@pytest.mark.parametrize("fields", [*GRIDS.values(), plan_of(tensor_parallel=4, tensor="domino")], ids=str)
def test_recomputation_repeats_the_forward_it_drops(fields: Plan, recompute: str) -> None:
    plan = fields.with_(recompute=recompute)
    again, kept = (layer_of("gpt3-6.7b", p, batch=8) for p in (plan, fields))
    extra = flops(again.ops, plan) - flops(kept.ops, fields)
    attention = [op for op in kept.forward if op.kind is OpKind.ATTENTION]
    assert extra == pytest.approx(flops(kept.forward if recompute == "full" else attention, fields), rel=1e-12)

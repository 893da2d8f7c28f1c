"""ZeRO-3 parameter by parameter: what travels, what is waited for, what the host counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.cost.host import SLICE
from simulator.hardware import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.training.pipelined import PipelinedJob
from simulator.validation.models import gpt_model
from simulator.workload.framework import Framework
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.ops import Block, Collective, OpKind, TensorClass
from simulator.workload.plan import Plan

GPT = gpt_model("GPT-22B", 4, 6144, 64, 2048, 51200)
WEIGHTS, TENSORS = 4, 12
"""Of a layer: matrices, and parameters in all."""

NEW, OLD = load_framework("deepspeed-2022"), load_framework("deepspeed-2021")


def work(framework: Framework, ranks: int = 16, model: object = GPT, micro_batch: int = 1) -> PipelinedJob:
    node = load_node("dgx-a100-640")
    cluster = Cluster("selene", (NodeGroup(node, ranks // 8),), Fabric("fat-tree", load_link("hdr200")))
    plan = Plan(data_parallel=ranks, zero_stage=3, recompute="full", precision="fp16")
    batch = Batch(ranks * micro_batch, micro_batch, 2048)
    return PipelinedJob(TrainingJob("run", model, framework, batch, plan), cluster)  # type: ignore[arg-type]


def layer(job: PipelinedJob) -> Block:
    return next(block for block, _ in job.chunks[0].blocks if block.name == "layer")


def sent(job: PipelinedJob, kind: Collective) -> float:
    block, pricer = layer(job), job.pricer(0)
    ops = (*block.gather_forward, *block.gather_backward, *block.reduce_each)
    return sum(pricer.price(op).bytes for op in ops if op.collective is kind)


@pytest.mark.parametrize(("keeps", "passes"), [(10**12, 2), (0, 3)])
def test_a_layer_larger_than_the_reuse_distance_is_gathered_three_times(keeps: int, passes: int) -> None:
    """Forward, recomputation, and the backward if what the recomputation gathered is gone; gradients travel once."""
    job = work(replace(NEW, reuse_elements=keeps))
    sizes = [t.elements() for t in layer(job).parameters]
    assert len(sizes) == TENSORS
    large = sum(n for n in sizes if n > NEW.persistent_elements)
    assert sent(job, Collective.ALL_GATHER) == pytest.approx(2.0 * passes * large)
    assert sent(job, Collective.REDUCE_SCATTER) == pytest.approx(2.0 * sum(sizes))
    assert len(layer(job).gather_forward) == len(layer(job).reduce_each) // 3 == WEIGHTS  # two copies per reduction


def test_a_pass_is_the_sum_of_what_is_waited_for() -> None:
    """Without slices: a forward takes its gathers and its kernels one after another, however long either is."""
    free = replace(SLICE, value=0.0)
    framework = replace(NEW, constants={**NEW.constants, "host_per_slice": free})
    for size in (1, 8):
        job = work(framework, micro_batch=size)
        block, pricer = layer(job), job.pricer(0)
        alone = sum(pricer.price(op).priced.seconds for op in (*block.gather_forward, *block.forward))
        assert pricer.forward(block).seconds == pytest.approx(alone, rel=1e-9)
    hidden = work(replace(framework, exposes_shards=False), micro_batch=8)
    assert hidden.run().seconds < job.run().seconds


def test_host_time_of_the_old_loop_is_slices_times_ranks() -> None:
    """Every gather waits for the device: what the host does by rank is added in full, once more with every rank."""
    for ranks in (64, 256):
        dearer = {**OLD.constants, "host_per_slice": replace(SLICE, value=2 * SLICE.value)}
        times = [work(f, ranks).run().seconds for f in (OLD, replace(OLD, constants=dearer))]
        blocks = work(OLD, ranks).chunks[0].blocks
        gathers = sum(n * len(b.gather_forward + b.gather_backward) for b, n in blocks)
        assert gathers % 2 == 0  # each with a copy
        reduced = sum(n * len(op.reads) for b, n in blocks for op in b.reduce_each if op.kind is OpKind.COLLECTIVE)
        held = [t for b, n in blocks for t in b.states * n if t.cls is TensorClass.PARAM]
        small = sum(t.elements() <= OLD.persistent_elements for t in held)
        slices = OLD.slices_gather * gathers // 2 + OLD.slices_reduce * reduced + OLD.slices_persistent * small
        assert times[1] - times[0] == pytest.approx(SLICE.value * slices * ranks, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "layers", "hidden", "heads", "ranks", "published"),
    [("GPT-174.6B", 96, 12288, 96, (768, 1536), 44 / 88), ("GPT-529.6B", 105, 20480, 128, (1120, 2240), 48 / 98)],
)
def test_twice_the_gpus_with_half_the_batch_each_win_nothing(
    name: str, layers: int, hidden: int, heads: int, ranks: tuple[int, int], published: float
) -> None:
    """Narayanan et al. 2021 (arXiv 2104.04473) table 2: 88 to 44 and 98 to 48 TFLOP/s per GPU."""
    free = {**OLD.constants, "host_per_slice": replace(SLICE, value=2.25e-6)}  # as fitted without that paper
    model = gpt_model(name, layers, hidden, heads, 2048, 51200)
    few, many = (
        work(replace(OLD, constants=free), n, model, micro_batch).run().seconds / micro_batch
        for n, micro_batch in zip(ranks, (2, 1), strict=True)
    )
    assert few / many == pytest.approx(published, rel=0.15)
    hidden_exchange = load_framework("megatron-lm-2021")
    ideal = [work(hidden_exchange, n, model, size).run().seconds / size for n, size in zip(ranks, (2, 1), strict=True)]
    assert ideal[0] / ideal[1] > 1.3 * published

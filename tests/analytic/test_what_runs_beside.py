"""What hides behind what in a training step: closed forms, and the two sides of a switch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.cost.host import OPERATOR
from simulator.hardware import load_accelerator, load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.training.gradient_queue import bundled, gradient_items
from simulator.training.pipelined import PipelinedJob
from simulator.training.sustained import sustained_share
from simulator.validation.models import gpt_model, llama_model
from simulator.workload.framework import Framework
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.ops import OpKind, Phase, Stream, TensorClass
from simulator.workload.plan import Plan

MIB = 2.0**20
LLAMA = llama_model("Llama 1.34B", 16, 2048, 32, 32, 8192, 131072, 4096, tied=True)


def cluster(nodes: int) -> Cluster:
    return Cluster("p5", (NodeGroup(load_node("aws-p5"), nodes),), Fabric("rail-optimized", load_link("efa-v2")))


def work(framework: Framework, nodes: int = 1, **plan: object) -> PipelinedJob:
    chosen = Plan(**plan)  # type: ignore[arg-type]
    batch = Batch(4 * chosen.data_parallel, 1, 4096)
    return PipelinedJob(TrainingJob("run", LLAMA, framework, batch, chosen), cluster(nodes))


@pytest.mark.parametrize("sequence_parallel", [True, False])
def test_a_column_parallel_backward_shows_only_what_its_own_gemms_do_not_hide(sequence_parallel: bool) -> None:
    """Alone on its links, each message costs max(0, its time − its GEMM's) instead of its time."""
    model = gpt_model("GPT-22B layer", 1, 6144, 64, 2048, 51200)
    plan = Plan(tensor_parallel=8, sequence_parallel=sequence_parallel)
    node = load_node("dgx-a100-640")
    one = Cluster("one", (NodeGroup(node, 1),), Fabric("single-switch", load_link("hdr200")))
    own = load_framework("megatron-lm-2022")
    alone = {k: v for k, v in own.constants.items() if k != "compute_interference"}
    times, saved = [], 0.0
    for beside in (False, True):
        framework = replace(own, overlaps_linear_backward=beside, constants=alone)
        job = PipelinedJob(TrainingJob("run", model, framework, Batch(4, 4, 2048), plan), one)
        block = next(b for b, _ in job.chunks[0].blocks if b.name == "layer")
        pricer = job.pricer(0)
        times.append(pricer.backward(block).seconds)
        for index, op in enumerate(block.backward):
            if op.kind is not OpKind.COLLECTIVE or op.stream is not Stream.SCALE_UP:
                continue
            gemm = block.backward[index + 1]
            hides = pricer.price(gemm).priced.seconds
            assert (gemm.kind, gemm.phase is Phase.WEIGHT_GRADIENT) == (OpKind.GEMM, "grad" in op.name)
            saved += min(hides, pricer.price(op).priced.seconds)
    assert saved > 0.05 * times[0]
    assert times[0] - times[1] == pytest.approx(saved, rel=1e-9)


def test_only_accumulated_gradients_are_reduced() -> None:
    """Half-precision copies and buckets beside fp32 gradients are memory, not messages: 4 bytes per parameter."""
    pipeline = work(load_framework("nanotron"), nodes=2, data_parallel=16)
    mesh, reduced = pipeline.mesh(0), [block for block, _ in pipeline.chunks[0].blocks if block.reduce]
    assert reduced
    for block in reduced:
        own = sum(t.elements(mesh) for t in block.states if t.cls is TensorClass.PARAM)
        assert own > 0
        assert sum(pipeline.pricer(0).price(op).bytes for op in block.reduce) == pytest.approx(4.0 * own)


def test_buckets_take_whole_parameters() -> None:
    """DistributedDataParallel closes a bucket when it is full and never cuts a parameter."""
    pipeline = work(load_framework("nanotron"), nodes=2, data_parallel=16)
    pricer = pipeline.pricer(0)
    items = gradient_items(pipeline.chunks[0], pricer, 0.0, 0.0)
    buckets = bundled(items, 50 * MIB, pricer, cuts=False)
    sizes = [sum(size for _, size in b.sends) for b in buckets]
    assert sum(sizes) == pytest.approx(sum(size for item in items for _, size in item.sends))
    assert all(size >= 50 * MIB for size in sizes[:-1])
    # Four matrices and two norms per layer: down; up; output, qkv and norms. And the table, tied to the head.
    assert len(buckets) == pytest.approx(3 * 16, abs=2)


def test_shards_of_nanotron_cost_the_host_tensors_times_ranks() -> None:
    own = load_framework("nanotron")
    twice = replace(own, operators_per_shard=2 * own.operators_per_shard)
    for ranks in (8, 16):
        before, after = (work(f, ranks // 8, data_parallel=ranks, zero_stage=1).run().seconds for f in (own, twice))
        tensors = 6 * 16 + 2
        assert after - before == pytest.approx(tensors * ranks * own.operators_per_shard * OPERATOR.value, rel=0.02)


def test_a_wait_per_message_counts_once_per_neighbour_and_micro_batch() -> None:
    """A stage with one neighbour exchanges one pair of messages per micro-batch, with two neighbours two pairs."""
    before = load_framework("nanotron-2024")
    wait = before.constants["host_per_message"]
    constants = {k: v for k, v in before.constants.items() if k != "host_per_message"}
    for stages, pairs in ((2, 1), (4, 2)):
        per_microbatch = []
        for count in (16, 64):
            plan = Plan(pipeline_parallel=stages, data_parallel=1)
            times = [
                PipelinedJob(TrainingJob("run", LLAMA, f, Batch(count, 1, 4096), plan), cluster(1)).run().seconds
                for f in (before, replace(before, constants=constants))
            ]
            per_microbatch.append(times[0] - times[1])
        added = (per_microbatch[1] - per_microbatch[0]) / 48
        assert added == pytest.approx(pairs * wait.value, rel=0.05)


def test_the_power_limit_bites_on_fp8_too() -> None:
    device = load_accelerator("h100-sxm")
    share, known = sustained_share(device, "fp8"), sustained_share(device, "bf16")
    assert share is not None and known is not None
    assert share.value == known.value

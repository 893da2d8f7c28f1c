"""Attention without pause: where power lowers the clock, its products are no faster than those of a GEMM."""

from __future__ import annotations

import pytest

from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.training.pipelined import PipelinedJob
from simulator.training.sustained import sustained_share
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.ops import OpKind
from simulator.workload.plan import Plan


@pytest.mark.parametrize(
    ("node", "length", "binds"),
    [("dgx-b200", 65536, True), ("dgx-b200", 4096, False), ("dgx-h100", 131072, True), ("dgx-a100-640", 65536, False)],
)
def test_no_more_flops_per_second_than_a_gemm_under_load(node: str, length: int, binds: bool) -> None:
    cluster = Cluster(node, (NodeGroup(load_node(node), 1),), Fabric("fat-tree", load_link("ndr400")))
    framework, model = load_framework("megatron-core-0.8"), load_model("llama-3.1-8b")
    job = TrainingJob("long", model, framework, Batch(8, 1, length), Plan(data_parallel=8))
    pipeline = PipelinedJob(job, cluster)
    pricer, device = pipeline.pricer(0), cluster.groups[0].node.accelerator
    block = next(b for chunk in pipeline.chunks for b, _ in chunk.blocks if b.name == "layer")
    core = pricer.price(next(op for op in block.forward if op.kind is OpKind.ATTENTION))
    share = sustained_share(device, "bf16")
    assert share is not None
    limit = share.value * device.efficiency["gemm.bf16.compute"].value * device.peak("bf16")
    rate = core.flops / core.priced.seconds
    assert rate <= limit
    assert (rate > 0.99 * limit) is binds
    assert (share.id in core.priced.constants) is binds

"""Weight gradients that are added to fp32 inside the GEMM take their device's measured share of its speed."""

from __future__ import annotations

from dataclasses import replace

from simulator.hardware.profiles import load_accelerator, load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.training.pipelined import PipelinedJob
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.ops import OpKind, Phase
from simulator.workload.plan import Plan


def shares(node: str, gradients: str) -> dict[Phase, set[float]]:
    """Benchmark time over time in training of a layer's GEMMs that compute binds, by phase."""
    machine = Cluster("test", (NodeGroup(load_node(node), 1),), Fabric("single-switch", load_link("ndr400")))
    framework = replace(load_framework("megatron-core-0.8"), gradient_dtype=gradients)
    job = TrainingJob("job", load_model("llama-2-7b"), framework, Batch(8, 1, 4096), Plan(data_parallel=8))
    work = PipelinedJob(job, machine)
    pricer = work.pricer(0)
    block = next(b for b, _ in work.chunks[0].blocks if b.name == "layer")
    found: dict[Phase, set[float]] = {}
    for op in (*block.forward, *block.backward):
        priced = pricer.price(op).priced
        if op.kind is OpKind.GEMM and priced.bound == "compute":
            alone = pricer.device.price(pricer.work(op)).seconds
            found.setdefault(op.phase, set()).add(round(alone / priced.seconds, 6))
    return found


def test_only_gradients_in_fp32_are_slower_and_only_where_it_was_measured() -> None:
    device = load_accelerator("b200-sxm").efficiency
    sustained = device["gemm.bf16.continuous.sustained"].value
    accumulated = sustained * device["gemm.bf16.continuous.accumulated"].value
    for gradients, weights in (("fp32", accumulated), ("bf16", sustained)):
        found = shares("dgx-b200", gradients)
        for phase, share in (
            (Phase.FORWARD, sustained), (Phase.BACKWARD, sustained), (Phase.WEIGHT_GRADIENT, weights)
        ):  # fmt: skip
            # The clock of memory stays, so a GEMM loses no more than its compute units, and hardly less.
            assert share <= min(found[phase]) <= max(found[phase]) < share + 0.025
    whole = set.union(*shares("dgx-h100", "fp32").values())
    assert max(whole) - min(whole) < 0.025

"""Predictions for published failures and checkpoints."""

from __future__ import annotations

from typing import Any

from simulator.validation.cases import Subject

__all__ = ["LLAMA3", "run_checkpoint", "run_failures"]

Prediction = dict[str, float]

BASELINE_NODE_MTBF = 5 * 365.25 * 86400.0
"""Of the naive baseline: a server fails once in a life of five years."""

LLAMA3: dict[str, Any] = {
    "seed": 11,
    "cluster": {"profile": "meta-24k-roce"},
    "workloads": [
        {
            "training": "pretrain",
            "model": "llama-3.1-405b",
            "framework": "megatron-core-0.8",
            "batch": {"global_batch_size": 2048, "sequence_length": 8192},
            "steps": 10_000_000,
            "nodes": 2048,
            "plan": {
                "tensor_parallel": 8, "sequence_parallel": True, "context_parallel": 2, "pipeline_parallel": 16,
                "data_parallel": 64, "zero_stage": 1,
            },
            "checkpoint": {"every": "10 min", "to": "tectonic"},
        }
    ],
    "until": "54 d",
}  # fmt: skip
"""The job of Llama 3 405B as its paper lays it out (arXiv 2407.21783, table 4), without its failures."""


def run_failures(subject: Subject) -> tuple[Prediction, str]:
    """Counts, times between two failures [s], and whether the published bound on effective time holds."""
    from simulator.workload.failures import load_failures
    from simulator.workload.failures.uncertainty import count_interval, rate_interval

    site = str(subject.setting("rates"))
    model, found = load_failures(site), Prediction()
    rate = sum(1.0 / kind.mtbf for kind in model.kinds if not kind.slows_to and not kind.planned)
    quantities: Any = subject.setting("quantities", ())
    for quantity in quantities:
        what, *numbers = quantity.split()
        if what == "count":
            accelerators, seconds = int(numbers[0]), float(numbers[1])
            found[quantity] = seconds * accelerators * rate
            ends = count_interval(found[quantity], model.observed, model.site_spread)
            found[f"low.{quantity}"], found[f"high.{quantity}"] = map(float, ends)
            found[f"baseline.{quantity}"] = seconds * accelerators / 8 / BASELINE_NODE_MTBF
        elif what == "mttf":
            found[quantity] = 1.0 / (int(numbers[0]) * rate)
            slow, quick = rate_interval(model.observed, model.site_spread)
            found[f"low.{quantity}"], found[f"high.{quantity}"] = found[quantity] / quick, found[quantity] / slow
            found[f"baseline.{quantity}"] = BASELINE_NODE_MTBF * 8 / int(numbers[0])
        elif what == "effective_time":
            found[quantity] = float(_effective_time(site) > 0.90)
    return found, ""


def _effective_time(site: str) -> float:
    """Share of the 54 days of Llama 3 that its job spends in steps that are kept, with a site's failures."""
    import simulator

    return float(simulator.run({**LLAMA3, "failures": site}).of("pretrain")["effective_time_ratio"])


def run_checkpoint(subject: Subject) -> tuple[Prediction, str]:
    """Bytes of a checkpoint, the same for every layout; the baseline keeps weights in 16 bits only."""
    from simulator.hardware.profiles import load_node
    from simulator.hardware.types import Cluster, Fabric, NodeGroup
    from simulator.training.saves import checkpoint_bytes
    from simulator.training.step import estimate_step
    from simulator.workload.counting import parameters
    from simulator.workload.framework_files import load_framework
    from simulator.workload.jobs import Batch, TrainingJob
    from simulator.workload.model_files import load_model
    from simulator.workload.plan import Plan

    model, node = load_model(str(subject.setting("model"))), load_node("dgx-h100")
    cluster = Cluster("node", (NodeGroup(node, 1),), Fabric("single-switch", node.nic))
    framework = load_framework("megatron-core-0.8")
    job = TrainingJob("checkpoint", model, framework, Batch(1, 1, 2048), Plan(tensor_parallel=8))
    found = checkpoint_bytes(estimate_step(job, cluster, "estimate"), job)
    return {"bytes": found, "baseline.bytes": 2.0 * parameters(model)}, ""

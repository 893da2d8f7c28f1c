"""Predictions for training cases: step, layer, memory, whether it fits; and the naive baselines beside them."""

from __future__ import annotations

from typing import Any

from simulator.registry import lookup
from simulator.results.estimate import MemoryLedger
from simulator.training.pipeline import PipelineCosts, run_schedule
from simulator.training.pipelined import PipelinedJob
from simulator.training.step import check_job
from simulator.validation.cases import Subject
from simulator.workload.counting import parameters, training_flops_per_token
from simulator.workload.jobs import TrainingJob
from simulator.workload.ops import Tier

__all__ = ["BASELINE_MFU", "run_bubble", "run_layer", "run_training"]

BASELINE_MFU = 0.4
"""Constant utilisation of the naive baseline, of the dense 16-bit peak: between the 38-43 % of Llama 3 (arXiv
2407.21783) and the 46 % of PaLM (arXiv 2204.02311), rounded down to a single digit as a spreadsheet would."""

Prediction = dict[str, float]


def run_training(subject: Subject) -> tuple[Prediction, str]:
    """Figures by name, and a reason if the plan cannot work at all.

    Figures: ``step`` [s], ``fits`` (1 or 0), ``allocated``, ``reserved`` and ``device`` [B] of the worst rank, each
    also with ``baseline.`` before it. The step is predicted whether it fits or not, so that memory errors do not hide
    time errors.
    """
    assert subject.job is not None and subject.cluster is not None
    job, cluster = subject.job, subject.cluster
    if reasons := check_job(job, cluster):
        return {}, "; ".join(reasons)
    pipeline = PipelinedJob(job, cluster)
    ledger = pipeline.memory()
    if absent := [s for s in ledger.stages if s.peak > 0.0 and not s.capacity > 0.0]:
        return {}, f"{ledger.reason}: the node has no {absent[0].tier}"
    found = memory_figures(ledger)
    found |= baseline_memory(job, next(iter(cluster.groups)).node.accelerator.memory_usable)
    if subject.setting("time", True):
        run = pipeline.run()
        found["step"] = run.seconds
        found |= {f"part.{name}": seconds for name, seconds in run.parts.items()}
    peak = cluster.groups[0].node.accelerator.peak("bf16")
    flops = job.batch.tokens * training_flops_per_token(job.model, job.batch.sequence_length, causal=False)
    found["baseline.step"] = flops / (BASELINE_MFU * peak * job.plan.accelerators)
    return found, ""


def memory_figures(ledger: MemoryLedger) -> Prediction:
    """Peak of the fullest rank by what is counted: allocated by tensors, reserved by the allocator, taken of the
    device; ``reserved_first`` is that of the first stage."""
    hbm = [s for s in ledger.stages if s.tier is Tier.HBM]
    worst, first = max(hbm, key=lambda s: s.peak), hbm[0]
    return {
        "allocated": worst.allocated,
        "reserved": worst.allocated + worst.by_class.get("fragmentation", 0.0),
        "reserved_first": first.allocated + first.by_class.get("fragmentation", 0.0),
        "device": worst.peak,
        "fits": float(ledger.fits),
        **{f"memory.{k}": v for k, v in worst.by_class.items()},
    }


def baseline_memory(job: TrainingJob, capacity: float) -> Prediction:
    """What a spreadsheet says: 18 bytes per parameter over its shards, and 34·s·b·h bytes per layer and micro-batch
    in flight.

    The activation term is that of Korthikanti et al. (arXiv 2205.05198, equation 2, without the attention scores).
    """
    plan, batch, model = job.plan, job.batch, job.model
    own = parameters(model) / (plan.tensor_parallel * plan.pipeline_parallel)
    shards = plan.data_parallel
    states = (6 / (shards if plan.zero_stage >= 3 else 1) + 12 / (shards if plan.zero_stage >= 1 else 1)) * own
    layers = model.num_hidden_layers / plan.pipeline_parallel
    tokens = batch.sequence_length * batch.micro_batch_size
    per_layer = tokens * model.hidden_size * (2 if plan.recompute == "full" else 34)
    in_flight = min(batch.microbatches(plan), plan.pipeline_parallel)
    total = states + in_flight * layers * per_layer / plan.tensor_parallel
    return {f"baseline.{k}": total for k in ("allocated", "reserved", "reserved_first", "device")} | {
        "baseline.fits": float(total < capacity)
    }


def run_layer(subject: Subject) -> tuple[Prediction, str]:
    """Forward, backward and both of one layer of one rank [s], without embedding and head."""
    assert subject.job is not None and subject.cluster is not None
    if reasons := check_job(subject.job, subject.cluster):
        return {}, "; ".join(reasons)
    pipeline = PipelinedJob(subject.job, subject.cluster)
    pricer = pipeline.pricer(0)
    block = next(b for chunk in pipeline.chunks for b, _ in chunk.blocks if b.name == "layer")
    forward, backward = pricer.forward(block).seconds, pricer.backward(block).seconds
    found = {"forward": forward, "backward": backward, "combined": forward + backward}
    plan, model = subject.job.plan, subject.job.model
    peak = pipeline.node_of_rank[0].accelerator.peak("bf16")
    tokens = subject.job.batch.micro_batch_size * subject.job.batch.sequence_length
    head = 6.0 * model.hidden_size * model.vocab_size
    flops = tokens * (training_flops_per_token(model, subject.job.batch.sequence_length, causal=False) - head)
    naive = flops / (BASELINE_MFU * peak * plan.tensor_parallel)
    return found | {"baseline.forward": naive / 3, "baseline.backward": naive * 2 / 3, "baseline.combined": naive}, ""


def run_bubble(subject: Subject) -> tuple[Prediction, str]:
    """Bubble rate (span − work) / span of schedules, from the times of one stage that the authors profiled."""
    stages, count, chunks = (int(str(subject.setting(k))) for k in ("stages", "microbatches", "chunks"))
    times = dict(subject.setting("times"))  # type: ignore[call-overload]
    f, b, w, send = (times[k] for k in ("t_f", "t_b", "t_w", "t_comm"))
    share = float(str(subject.setting("weight_share", 0.5)))
    whole = PipelineCosts.uniform(stages, f, b, w, send)
    cut = PipelineCosts.uniform(stages * chunks, f / chunks, b / chunks, w / chunks, send)
    found: Prediction = {}
    for name, registered in subject.setting("schedules", ()):  # type: ignore[attr-defined]
        schedule: Any = lookup("pipeline", registered)()
        if hasattr(schedule, "tuned"):
            schedule = schedule.tuned(f, b, w, send, share)
        interleaved = registered == "interleaved-1f1b"
        timeline = run_schedule(schedule, cut if interleaved else whole, stages, count, chunks if interleaved else 1)
        found[name] = timeline.bubble_over_span
        found[f"baseline.{name}"] = (stages - 1) / (count + stages - 1)
    return found, ""

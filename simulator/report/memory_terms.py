"""What the bytes of a training rank are made of, and which changes of the plan would make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from simulator.hardware.types import Cluster
from simulator.training.pipelined import PipelinedJob
from simulator.training.step import check_job, estimate_step
from simulator.units import format_quantity
from simulator.workload.jobs import TrainingJob
from simulator.workload.ops import Tensor, TensorClass

__all__ = ["Lever", "formulas", "levers", "way_to_fit"]


class Lever(NamedTuple):
    """A change of the plan, the peak of its fullest rank [B], and whether it fits."""

    change: str
    peak: float
    capacity: float

    @property
    def fits(self) -> bool:
        """Whether the fullest rank is within its capacity."""
        return self.peak <= self.capacity


def formulas(pipeline: PipelinedJob, stage: int, by_class: dict[str, float]) -> dict[str, str]:
    """The arithmetic behind each class of one stage.

    Parameters
    ----------
    by_class
        Bytes at the peak, as in the ledger.

    Returns
    -------
    dict
        Class → ``2 B × 2.75 G elements (bf16), over tp 8``.
    """
    found: dict[str, str] = {}
    for cls in ("param", "grad", "optim"):
        found[cls] = _states(pipeline, stage, cls, by_class.get(cls, 0.0))
    pairs = float(pipeline.timeline.in_flight.peak[stage])
    if pairs and "activation" in by_class:
        each = format_quantity(by_class["activation"] / pairs, "data")
        recompute = pipeline.plan.stage_plans[stage].recompute
        found["activation"] = f"{pairs:g} (micro-batch, chunk) in flight × {each} each, recompute {recompute}"
    found["workspace"] = "largest set of tensors that live only inside one forward, backward or update"
    for name, key in (("fragmentation", "fragmentation"), ("reserve", "memory_reserve")):
        constant = pipeline.framework.constants.get(key)
        if constant is not None:
            share = f"{constant.value:.1%} of what is allocated" if name == "fragmentation" else "context and buffers"
            found[name] = f"{share} ({constant.trust}: {constant.source})"
    return found


def _states(pipeline: PipelinedJob, stage: int, cls: str, size: float) -> str:
    """Bytes of one parameter times parameters of this rank; copies (master, moments) are told apart by their names."""
    mesh = pipeline.mesh(stage)
    held = [(b, n) for chunk in pipeline.chunks_of_rank[stage] for b, n in chunk.blocks]
    tensors = [(t, n) for block, n in held for t in block.states if t.cls == cls]
    if not tensors or not size:
        return ""
    copies: dict[str, list[Tensor]] = {}
    for tensor, count in tensors:
        copies.setdefault(_copy(tensor), []).extend([tensor] * count)
    width = sum(sum(t.bytes(mesh) for t in of) / sum(t.elements(mesh) for t in of) for of in copies.values())
    parts = " + ".join(f"{name} {'/'.join(sorted({t.dtype for t in of}))}".strip() for name, of in copies.items())
    axes = {axis: mesh[axis] for t, _ in tensors for _, axis in t.sharding if mesh[axis] > 1}
    spread = ", over " + " and ".join(f"{a} {n}" for a, n in sorted(axes.items())) if axes else ""
    versions = pipeline.traits.weight_versions(stage, pipeline.ranks) if cls == TensorClass.PARAM else 1
    times = f"{versions} versions × " if versions > 1 else ""
    return f"{times}{width:.4g} B × {size / width / versions:,.0f} parameters of the rank ({parts}){spread}"


def _copy(tensor: Tensor) -> str:
    """``exp_avg`` of ``mlp.up.weight.exp_avg``; parameters and gradients are one copy."""
    return tensor.name.rpartition(".")[2] if tensor.cls == TensorClass.OPTIM else ""


def levers(job: TrainingJob, cluster: Cluster) -> list[Lever]:
    """Single changes, each estimated, best first; those that cannot run on this cluster are left out."""
    return [lever for lever, _ in _ranked(job, cluster)]


def way_to_fit(job: TrainingJob, cluster: Cluster, most: int = 6) -> Lever | None:
    """Changes that make the job fit together, found by taking the best single one again and again; None if none do."""
    taken: dict[str, str] = {}
    for _ in range(most):
        if not (ranked := _ranked(job, cluster)):
            break
        best, job = ranked[0]
        taken[best.change.partition(":")[0]] = best.change  # a key that is changed again counts as its last value
        if best.fits:
            return best._replace(change=" + ".join(taken.values()))
    return None


def _ranked(job: TrainingJob, cluster: Cluster) -> list[tuple[Lever, TrainingJob]]:
    found = []
    for change, changed in _changes(job):
        if not check_job(changed, cluster):
            worst = estimate_step(changed, cluster, "estimate").memory.worst
            found.append((Lever(change, worst.peak, worst.capacity), changed))
    return sorted(found, key=lambda entry: entry[0].peak - entry[0].capacity)


def _changes(job: TrainingJob) -> Iterator[tuple[str, TrainingJob]]:
    plan, batch = job.plan, job.batch
    if plan.data_parallel * plan.context_parallel > 1:
        for stage in range(plan.zero_stage + 1, 4):
            yield f"zero_stage: {stage}", replace(job, plan=replace(plan, zero_stage=stage))
    for recompute in ("selective", "full"):
        if plan.recompute not in (recompute, "full"):
            yield f"recompute: {recompute}", replace(job, plan=replace(plan, recompute=recompute))
    if plan.tensor_parallel > 1 and not plan.sequence_parallel:
        yield "sequence_parallel: true", replace(job, plan=replace(plan, sequence_parallel=True))
    if batch.micro_batch_size > 1:
        half = batch.micro_batch_size // 2
        yield f"micro_batch_size: {half}", replace(job, batch=replace(batch, micro_batch_size=half))
    if plan.stages:
        return
    for axis in ("tensor_parallel", "pipeline_parallel"):
        more = 2 * getattr(plan, axis)
        if plan.data_parallel % 2 == 0:
            less = plan.data_parallel // 2
            changed = replace(plan, data_parallel=less, **{axis: more})
            yield f"{axis}: {more}, data_parallel: {less}", replace(job, plan=changed)
        else:
            changed = replace(plan, **{axis: more})
            yield f"{axis}: {more} on {changed.accelerators} accelerators", replace(job, plan=changed)

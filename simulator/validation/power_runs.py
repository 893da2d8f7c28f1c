"""Predictions of power: nodes while they train, accelerators while they serve a static batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.cluster.training_tenant import step_shares
from simulator.hardware.power import accelerator_power, node_power, utilisation
from simulator.hardware.types import Accelerator
from simulator.serving.iteration import ReplicaCost
from simulator.strategies.protocols import BatchShape
from simulator.training.step import check_job, estimate_step
from simulator.validation.cases import Subject

__all__ = ["run_training_power", "static_power"]

Prediction = dict[str, float]


def run_training_power(subject: Subject) -> tuple[Prediction, str]:
    """Mean draw of a node in a step [W]; the baseline is the node's rating."""
    assert subject.job is not None and subject.cluster is not None
    job, cluster = subject.job, subject.cluster
    if reasons := check_job(job, cluster):
        return {}, "; ".join(reasons)
    estimate = estimate_step(job, cluster, "step", with_interval=False)
    node = cluster.groups[0].node
    used = utilisation(node.accelerator.power, *step_shares(estimate, cluster))
    return {"node": node_power(node, used), "baseline.node": node.power_peak}, ""


def static_power(
    cost: ReplicaCost, device: Accelerator, sizes: tuple[int, int, int], prefill: float, decode: Sequence[BatchShape]
) -> Prediction:
    """Shares of the rated power at the peak, and in the mean from the first prompt token to the last output token.

    Parameters
    ----------
    sizes
        Requests, tokens of each prompt, and decode iterations.
    prefill
        Time of all prompts [s].
    decode
        Iterations along the way, evenly spaced.
    """
    batch, prompt, steps = sizes
    shape = BatchShape(tuple((prompt, 0) for _ in range(batch)), 0, 0)
    first = _draw(cost, device, shape, prefill)
    times = [cost.iteration(s) for s in decode]
    draws = [_draw(cost, device, s, t) for s, t in zip(decode, times, strict=True)]
    token = float(np.average(draws, weights=times))
    seconds = prefill + steps * float(np.mean(times))
    mean = (prefill * first + (seconds - prefill) * token) / seconds
    return {"power_peak": max(first, *draws) / device.power.peak, "power_mean": mean / device.power.peak}


def _draw(cost: ReplicaCost, device: Accelerator, shape: BatchShape, seconds: float) -> float:
    """Of one accelerator in an iteration that takes so long [W]."""
    compute = cost.flops(shape) / cost.stages / seconds / device.rate(cost.plan.precision)
    memory = cost.traffic(shape)["hbm"] / cost.stages / seconds / device.memory_bandwidth
    return accelerator_power(device.power, utilisation(device.power, compute, memory), device.clock)

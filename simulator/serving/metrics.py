"""The summary of a serving run, in the order and with the names of vLLM's serving benchmark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.serving.quantiles import segment_mean, segment_quantiles
from simulator.serving.run import ServingRun
from simulator.serving.usage import ReplicaUsage
from simulator.workload.jobs import ServiceLevel

__all__ = ["growth_of", "slo_met", "stability", "summarize", "usage_columns"]

_QUANTILES = (("median", 0.5), ("p90", 0.9), ("p99", 0.99))


def summarize(run: ServingRun, *, slo: ServiceLevel | None = None, gpus_per_replica: float = 1) -> dict[str, Any]:
    """Metrics of a run.

    Parameters
    ----------
    run
        What happened.
    slo
        Latency limits, for attainment and goodput.
    gpus_per_replica
        For throughput per GPU.

    Returns
    -------
    dict
        In print order. Times in seconds, rates per second. ``<metric>_{mean,median,p90,p99}`` of ``ttft``, ``tpot`` =
        (e2e − ttft)/(output_tokens − 1), ``itl`` (every gap between two tokens of a request), ``e2e`` and ``queueing``
        over the completed requests; ``slo_goodput`` counts completed requests within all limits; ``slo_attainment``
        is their share of the requests that ended or were rejected. ``duration`` runs from the first arrival to the last
        completion. NaN where nothing was completed.
    """
    done = run.completed
    count = int(done.sum())
    duration = float(run.finish[done].max() - np.nanmin(run.arrival)) if count else math.nan
    outputs = int(run.output_tokens[done].sum())
    inputs = int(run.input_tokens[done].sum())
    gpus = gpus_per_replica * len(run.replicas)
    rate = 1.0 / duration if duration > 0 else math.nan
    result: dict[str, Any] = {
        "requests": count,
        "rejected": int((run.rejected > 0).sum()),
        "unfinished": int(((run.rejected == 0) & ~done).sum()),
        "duration": duration,
        "input_tokens": inputs,
        "output_tokens": outputs,
        "requests_per_s": count * rate,
        "output_tokens_per_s": outputs * rate,
        "total_tokens_per_s": (inputs + outputs) * rate,
        "output_tokens_per_s_per_gpu": outputs * rate / gpus,
        "total_tokens_per_s_per_gpu": (inputs + outputs) * rate / gpus,
    }
    result |= _distribution("ttft", run.ttft[done])
    result |= _distribution("tpot", run.tpot[done & (run.output_tokens > 1)])
    result["itl_mean"] = segment_mean(run.gaps)
    quantiles = segment_quantiles(run.gaps, [q for _, q in _QUANTILES])
    result |= {f"itl_{name}": value for (name, _), value in zip(_QUANTILES, quantiles, strict=True)}
    result |= _distribution("e2e", run.e2e[done])
    result |= _distribution("queueing", run.queueing[done])
    result |= usage_columns(run.replicas, run.limits.kv_blocks)
    result["preemptions"] = int(run.preemptions.sum())
    if slo is not None:
        met = int(slo_met(run, slo)[done].sum())
        judged = count + result["rejected"]
        result["slo_attainment"] = met / judged if judged else math.nan
        result["slo_met"] = bool(judged and met / judged >= slo.percentile / 100.0)
        result["slo_goodput"] = met * rate
    result |= stability(run)
    result["rejections"] = run.rejections()
    return result


def slo_met(run: ServingRun, slo: ServiceLevel) -> NDArray[np.bool_]:
    """Whether each request is complete and within every limit; a single token has no TPOT to miss."""
    met = run.completed
    if slo.ttft:
        met &= run.ttft <= slo.ttft
    if slo.tpot:
        met &= (run.output_tokens == 1) | (run.tpot <= slo.tpot)
    if slo.e2e:
        met &= run.e2e <= slo.e2e
    return met


def stability(run: ServingRun) -> dict[str, Any]:
    """Whether the deployment kept up with open-loop arrivals: arrival_rate, completion_rate, queue_growth, unstable.

    Judged over the second half of the arrivals, past the filling of an empty system: ``queue_growth`` is the slope of
    the least-squares line through the number in system at each arrival [requests/s]. The load is called unstable when
    that growth is above 5 % of the arrival rate, the number in system rose by more than three standard deviations of
    the Poisson noise of so many arrivals, and it is requests that wait that it rose by: then latencies depend on how
    long one looks and mean nothing. A run shorter than its requests only fills the system, and nobody waits.
    """
    accepted = (run.rejected == 0) & ~np.isnan(run.arrival)
    arrivals = np.sort(run.arrival[accepted])
    half = arrivals[len(arrivals) // 2 :]
    ends = np.sort(run.finish[run.completed])
    in_system = np.arange(len(arrivals) - len(half), len(arrivals)) - np.searchsorted(ends, half, side="right")
    served = np.searchsorted(ends, half[-1]) - np.searchsorted(ends, half[0]) if len(half) else 0
    waits = run.queueing[run.completed]
    return growth_of(half, in_system, len(half), int(served), float(waits.mean()) if len(waits) else 0.0)


WAITING = 0.25
"""Least share of a backlog that waits: between 0 of a system that only fills and 1 of one that falls behind."""


def growth_of(
    times: NDArray[np.float64], in_system: NDArray[Any], arrivals: int, completions: int, queueing: float
) -> dict[str, Any]:
    """Columns of :func:`stability` from the number in system at some times of a window with so many arrivals and
    completions; ``queueing`` is the mean wait of all requests [s].

    A backlog that grows in a straight line over a window, the second half of the arrivals, held on average over all of
    them as many waiting requests (arrival rate times mean wait, Little) as it rose by in the window.
    """
    if len(times) < 10 or times[-1] <= times[0]:
        return {"arrival_rate": math.nan, "completion_rate": math.nan, "queue_growth": math.nan, "unstable": False}
    window = float(times[-1] - times[0])
    rate = (arrivals - 1) / window
    growth = float(np.polyfit(times - times[0], in_system, 1)[0])
    return {
        "arrival_rate": float(rate),
        "completion_rate": completions / window,
        "queue_growth": growth,
        "unstable": bool(
            growth > 0.05 * rate
            and growth * window > 3.0 * math.sqrt(arrivals)
            and rate * queueing > WAITING * growth * window
        ),
    }


def _distribution(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    if not len(values):
        return {f"{name}_{key}": math.nan for key in ("mean", "median", "p90", "p99")}
    median, p90, p99 = np.percentile(values, [50, 90, 99])
    return {
        f"{name}_mean": float(values.mean()),
        f"{name}_median": float(median),
        f"{name}_p90": float(p90),
        f"{name}_p99": float(p99),
    }


def usage_columns(replicas: Sequence[ReplicaUsage], kv_blocks: int) -> dict[str, Any]:
    """Occupancy, queue and tokens over all replicas, each with so many KV blocks."""
    end = max((r.until for r in replicas), default=0.0)
    total = kv_blocks * len(replicas)
    span = end if end > 0 else math.nan
    return {
        "kv_occupancy_mean": sum(r.kv_block_time for r in replicas) / (span * total),
        "kv_occupancy_max": max(r.kv_blocks_peak for r in replicas) / kv_blocks,
        "running_mean": sum(r.running_time for r in replicas) / span,
        "waiting_mean": sum(r.waiting_time for r in replicas) / span,
        "utilization": sum(r.busy_time for r in replicas) / (span * len(replicas)),
        "iterations": sum(r.iterations for r in replicas),
        "prefill_tokens": sum(r.prefill_tokens for r in replicas),
        "decode_tokens": sum(r.decode_tokens for r in replicas),
        "recomputed_tokens": sum(r.recomputed_tokens for r in replicas),
        "cached_tokens": sum(r.cached_tokens for r in replicas),
        "loaded_tokens": sum(r.loaded_tokens for r in replicas),
    }

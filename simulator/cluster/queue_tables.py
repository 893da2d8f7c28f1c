"""Result tables of a queue of jobs: every job, every tenant, the queue over time, and the summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from simulator.cluster.queue import JobQueueProcess
from simulator.cluster.queue_failures import QueueFailures
from simulator.cluster.queue_run import QueueResult
from simulator.results.tables import Columns
from simulator.strategies.cluster_protocols import QueuedJob
from simulator.workload.job_streams import JobStream

__all__ = ["queue_tables"]

HOUR = 3600.0


def queue_tables(
    stream: JobStream, process: JobQueueProcess, jobs: Sequence[QueuedJob], result: QueueResult,
    failures: QueueFailures | None,
) -> dict[str, Columns]:  # fmt: skip
    """The tables by name; ``summary`` holds what a queue adds to the row."""
    found: dict[str, Columns] = {
        "summary": {key: [value] for key, value in _summary(stream, result, failures).items()},
        "jobs": _jobs(stream, jobs, result),
        "tenants": _tenants(stream, process, result),
        "resources": _resources(stream.name, process),
    }
    if failures is not None and failures.events:
        times, events, details = zip(*failures.events, strict=True)
        count = len(times)
        found["events"] = {
            "time": list(times), "workload": [stream.name] * count, "replica": [0] * count, "event": list(events),
            "detail": list(details),
        }  # fmt: skip
    return found


def _summary(stream: JobStream, result: QueueResult, failures: QueueFailures | None) -> dict[str, Any]:
    service, lost = float(result.service.sum()), float(result.lost.sum())
    row: dict[str, Any] = {
        "jobs_completed": int(np.isfinite(result.finish).sum()),
        "jobs_started": int(np.isfinite(result.start).sum()),
        **result.summary(),
        "migrations": result.migrations,
        "accelerator_hours": service / HOUR,
    }
    if failures is not None:
        row |= {
            "interruptions": int(result.failures.sum()),
            "lost_accelerator_hours": lost / HOUR,
            "effective_time_ratio": 1.0 - lost / service if service else math.nan,
        }
    if len(stream.jobs.deadline):
        row["deadlines_met"] = _deadlines_met(stream, result)
    return row


def _deadlines_met(stream: JobStream, result: QueueResult) -> float:
    """Share of the jobs with a deadline that ended in time; one that has not ended and is late did not."""
    due = stream.jobs.deadline
    with_one = np.isfinite(due)
    ended = np.where(np.isfinite(result.finish), result.finish, math.inf)
    return float((ended[with_one] <= due[with_one] + 1e-6).mean()) if with_one.any() else math.nan


def _jobs(stream: JobStream, jobs: Sequence[QueuedJob], result: QueueResult) -> Columns:
    table, count = stream.jobs, len(jobs)
    started, ended = np.isfinite(result.start), np.isfinite(result.finish)
    status = np.where(ended, "completed", np.where(started, "unfinished", "waiting"))
    return {
        "workload": [stream.name] * count,
        "job": list(range(count)),
        "tenant": [table.tenants[t] for t in table.tenant.tolist()],
        "kind": list(table.kind) or [""] * count,
        "status": status.tolist(),
        "accelerators": table.gpus.tolist(),
        "submit": table.submit.tolist(),
        "start": result.start.tolist(),
        "finish": result.finish.tolist(),
        "wait": result.wait.tolist(),
        "completion": result.completion.tolist(),
        "run_time": table.run.tolist(),
        "accelerator_hours": (result.service / HOUR).tolist(),
        "nodes": result.nodes.tolist(),
        "preemptions": result.preemptions.tolist(),
        "failures": result.failures.tolist(),
        "deadline": table.deadline.tolist() if len(table.deadline) else [math.inf] * count,
    }


def _tenants(stream: JobStream, process: JobQueueProcess, result: QueueResult) -> Columns:
    """The account of every tenant; shares are of what there was until the last completion."""
    quotas, there = dict(stream.shares), process.pool.largest * result.makespan
    columns: dict[str, list[Any]] = {}
    for number, name in enumerate(stream.jobs.tenants):
        mine = stream.jobs.tenant == number
        if not mine.any():
            continue
        wait, hours = result.wait[mine], float(result.service[mine].sum()) / HOUR
        begun = wait[np.isfinite(wait)]
        row = {
            "workload": stream.name, "tenant": name, "jobs": int(mine.sum()),
            "jobs_completed": int(np.isfinite(result.finish[mine]).sum()),
            "accelerator_hours": hours, "share": hours * HOUR / there if there else math.nan,
            "quota": quotas.get(number, math.nan),
            "wait_mean": float(begun.mean()) if len(begun) else math.nan,
            "wait_p90": float(np.percentile(begun, 90)) if len(begun) else math.nan,
            "preemptions": int(result.preemptions[mine].sum()),
            "failures": int(result.failures[mine].sum()),
        }  # fmt: skip
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return columns


def _resources(name: str, process: JobQueueProcess) -> Columns:
    """The queue over time, as sampled."""
    rows = process.books.rows()
    columns = list(zip(*rows, strict=True)) or [()] * 6
    return {
        "workload": [name] * len(rows),
        "resource": ["queue"] * len(rows),
        "replica": [0] * len(rows),
        **{key: list(values) for key, values in zip(
            ("time", "waiting", "running", "accelerators_busy", "accelerators_available", "accelerators_asked"),
            columns, strict=True,
        )},
    }  # fmt: skip

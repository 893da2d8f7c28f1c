"""From the keys of a queue of jobs to its table, its policies and its limits, with everything that is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from simulator import registry
from simulator.errors import ConfigError, Issue, IssueCollector, unknown_name
from simulator.hardware.types import Cluster
from simulator.scenario.fields import is_path
from simulator.scenario.spec_jobs import JobsSpec
from simulator.workload.goodput import Goodput
from simulator.workload.job_mixes import load_mix, read_mix
from simulator.workload.job_streams import JobStream
from simulator.workload.job_traces import JobTable, read_jobs

__all__ = ["resolve_jobs"]


def resolve_jobs(
    spec: JobsSpec, cluster: Cluster, alone: bool, seed: int, base: Path | None, skip_bad_rows: bool = False
) -> tuple[JobStream, list[str]]:
    """The queue, and notes on what was assumed or left out.

    Raises
    ------
    ConfigError
        With everything that is wrong; paths are relative to the workload.
    """
    issues, notes = IssueCollector(), list[str]()
    node = cluster.groups[0].node
    whole = sum(group.count for group in cluster.groups)
    nodes = spec.nodes or (whole if alone else 0)
    if not nodes:
        issues.add("needs 'nodes', its share of the cluster, beside other workloads", "nodes")
    elif nodes > whole:
        issues.add(f"{nodes} nodes, the cluster has {whole}", "nodes")
    table = _table(spec, seed, base, skip_bad_rows, issues, notes)
    queue = _options(spec.queue, "job_queue", "queue_options", spec.queue_options, issues)
    placement = _options(spec.placement, "placement", "placement_options", spec.placement_options, issues)
    shares = _shares(spec, table, issues)
    if table is not None and not issues:
        _check_sizes(table, nodes * node.accelerators, shares, spec, issues)
    scaling = _scaling(spec, issues, notes)
    issues.raise_if_any()
    assert table is not None  # else an issue was raised
    if spec.spread == 1.0:
        notes.append("gangs on more nodes than they need run at full speed; 'spread' says otherwise")
    return (
        JobStream(
            spec.jobs, table, nodes, spec.queue, spec.placement, queue, placement, tuple(sorted(shares.items())),
            spec.preemption, spec.preemption if spec.migration is None else spec.migration, spec.restart,
            math.inf if spec.checkpoint is None else spec.checkpoint, spec.spread, spec.nodes_per_leaf or 0, scaling,
            spec.borrow or "",
        ),
        notes,
    )  # fmt: skip


def _table(
    spec: JobsSpec, seed: int, base: Path | None, skip_bad_rows: bool, issues: IssueCollector, notes: list[str]
) -> JobTable | None:
    if (spec.trace is None) == (spec.mix is None):
        have = "both" if spec.trace is not None else "none"
        issues.add(f"needs one source of jobs, 'trace' (a file) or 'mix' (a shipped name or classes), have {have}")
        return None
    try:
        table = _read(spec, base, skip_bad_rows) if spec.trace is not None else _drawn(spec, seed, base, notes)
    except ConfigError as error:
        key = "trace" if spec.trace is not None else "mix"
        prefix = f"{key}." if isinstance(spec.mix, Mapping) else ""
        for issue in error.issues:
            path = f"{prefix}{issue.path}" if issue.path else key
            issues.extend([issue if issue.file else Issue("", 0, 0, path, issue.message)])
        return None
    notes += [f"{rows} jobs left out: {reason}" for reason, rows in table.dropped]
    if spec.deadlines is not None:
        random = np.random.Generator(np.random.PCG64([seed, 1]))
        due = table.submit + spec.deadlines.slack * table.run
        table = replace(table, deadline=np.where(random.random(len(table)) < spec.deadlines.share, due, math.inf))
    return table


def _read(spec: JobsSpec, base: Path | None, skip_bad_rows: bool) -> JobTable:
    """Jobs of a file: as many as asked for, at the rate asked for."""
    name = str(spec.trace)
    path = base / name if base is not None and is_path(name) and (base / name).is_file() else Path(name)
    table = read_jobs(path, skip_bad_rows=skip_bad_rows or spec.skip_bad_rows)
    if spec.rate is not None and len(table) > 1 and table.submit[-1] > 0:
        table = replace(table, submit=table.submit * ((len(table) - 1) / table.submit[-1] / spec.rate))
    if spec.duration is not None:
        table = table.head(int(np.searchsorted(table.submit, spec.duration)))
    if spec.count is not None:
        table = table.head(spec.count)
    return replace(table, gpus=np.minimum(table.gpus, spec.largest)) if spec.largest else table


def _drawn(spec: JobsSpec, seed: int, base: Path | None, notes: list[str]) -> JobTable:
    mix = read_mix(spec.mix) if isinstance(spec.mix, Mapping) else load_mix(str(spec.mix), base)
    notes += [f"mix {mix.name}: {text}" for text in mix.assumes]
    try:
        return mix.sample(seed, rate=spec.rate, count=spec.count, duration=spec.duration, largest=spec.largest)
    except ConfigError as error:
        raise ConfigError(Issue("", 0, 0, "", i.message) for i in error.issues) from None


def _options(
    name: str, family: str, key: str, options: Mapping[str, Any], issues: IssueCollector
) -> tuple[tuple[str, object], ...]:
    """The options of a policy, tried out on it."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    try:
        registry.lookup(family, name)(**values)
    except (TypeError, ValueError, ConfigError) as error:
        text = str(error).replace(f"{registry.lookup(family, name).__name__}.__init__() got an ", "")
        issues.add(f"{family.replace('_', ' ')} '{name}': {text}", key)
    return tuple(sorted(values.items()))


def _shares(spec: JobsSpec, table: JobTable | None, issues: IssueCollector) -> dict[int, float]:
    total = sum(spec.tenants.values())
    if total > 1 + 1e-9:
        issues.add(f"quotas add up to {total:g}, they must add up to 1 at most", "tenants")
    found: dict[int, float] = {}
    for name, share in spec.tenants.items():
        if table is None:
            continue
        if name not in table.tenants:
            issues.add(unknown_name("tenant", name, table.tenants), f"tenants.{name}")
        else:
            found[table.tenants.index(name)] = share
    return found


def _check_sizes(
    table: JobTable, capacity: int, shares: Mapping[int, float], spec: JobsSpec, issues: IssueCollector
) -> None:
    """No job larger than the queue's nodes, or than its tenant's quota."""
    row = int(table.gpus.argmax())
    if table.gpus[row] > capacity:
        over = int((table.gpus > capacity).sum())
        issues.add(
            f"job {row} asks for {table.gpus[row]} accelerators, the queue has {capacity} ({over} such jobs): "
            "give it more nodes, or cut jobs to a 'largest' size",
            "nodes",
        )
    for tenant, share in shares.items() if spec.queue != "drf" else ():
        largest = int(table.gpus[table.tenant == tenant].max(initial=0))
        if largest > share * capacity + 1e-9:
            name = table.tenants[tenant]
            issues.add(
                f"a job of {largest} accelerators is above the quota of {share:g} × {capacity}: raise it, or cut jobs "
                "to a 'largest' size",
                f"tenants.{name}",
            )


def _scaling(spec: JobsSpec, issues: IssueCollector, notes: list[str]) -> Goodput | None:
    elastic = hasattr(registry.lookup("job_queue", spec.queue), "allocate")
    if spec.elastic is None:
        if elastic:
            notes.append(f"queue '{spec.queue}' has only gangs of fixed size: 'elastic' says how jobs go with others")
        return None
    if not elastic:
        issues.add(f"queue '{spec.queue}' does not resize jobs: use pollux or sia, or leave 'elastic' out", "elastic")
    notes.append("elastic jobs all follow the one goodput model that is written here")
    return Goodput(**spec.elastic.model_dump())

"""The two verbs on a scenario: ``estimate`` every training job, or ``run`` everything on one clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from simulator.errors import unknown_name
from simulator.results.from_estimate import estimate_tables
from simulator.results.storage import file_hashes
from simulator.results.tables import Columns, Result, concat
from simulator.scenario.types import Scenario
from simulator.workload.jobs import Deployment

__all__ = ["estimate_scenario", "merge_tables", "named_parts", "provenance", "run_scenario"]

_LONG = ("requests", "jobs", "steps", "ops", "resources", "events")
"""Tables that grow with the length of a run; ``record: summary`` keeps sketches of them instead."""

_SHORT_ENOUGH = {"resources": 20_000, "events": 20_000}
"""Rows up to which a summary keeps these tables all the same: what happened, and the state of queues as sampled."""


def provenance(scenario: Scenario, depth: str, command: str = "") -> dict[str, Any]:
    """What a result rests on: no clock and no machine in it, so that equal runs have equal bytes."""
    from simulator import __version__

    return {
        "scenario": scenario.name,
        "fmsim": __version__,
        "seed": scenario.seed,
        "depth": depth,
        "command": command,
        "files": file_hashes(scenario.files),
    }


def estimate_scenario(scenario: Scenario, depth: Literal["estimate", "step"] = "step", command: str = "") -> Result:
    """Time, memory and bandwidth of one training step, and of one iteration of every serving engine; no queues.

    Parameters
    ----------
    depth
        ``estimate``: bounds without an executor; ``step``: operations executed on streams.
    """
    from simulator.cluster.rollout import estimate_job
    from simulator.serving.estimate import estimate_deployment
    from simulator.training.tables import timeline_tables

    parts: list[Mapping[str, Columns]] = []
    warnings, details = list(scenario.warnings), {}
    for job in scenario.training:
        answer = estimate_job(job, scenario.cluster_of(job.name), depth)
        if answer.feasible and scenario.record == "full" and "run" in answer.details:
            tables = timeline_tables(answer.details["pipeline"], answer.details["run"])
            answer = replace(answer, details={**answer.details, **tables})
        parts.append(
            estimate_tables(
                job.name, answer, plan=str(job.plan), accelerators=job.accelerators, steps=job.steps,
                tokens=job.batch.tokens, samples=job.batch.global_batch_size,
            )
        )  # fmt: skip
        details[job.name] = answer
    for deployment in scenario.deployments:
        # Equal replicas: one on its own nodes answers for all of its kind.
        first = 0
        for label, part in named_parts(deployment):
            answer = estimate_deployment(
                replace(part, replicas=1), scenario.cluster_of(part.name, part.home(first)), depth
            )
            if rate := answer.metrics.get("capacity_requests_per_s"):
                answer = replace(answer, metrics={**answer.metrics, "capacity_requests_per_s": rate * part.replicas})
            size = part.plan.accelerators * part.replicas
            parts.append(estimate_tables(label, answer, plan=str(part.plan), accelerators=size, kind="serving"))
            details[label] = answer
            first += part.replicas
        warnings.append(f"{deployment.name}: one iteration of a full engine; 'fmsim run' serves the requests")
    warnings += [
        f"{work.name}: functions need the clock; 'fmsim run' serves their calls" for work in scenario.functions
    ]
    if scenario.budgets is not None:
        warnings.append(
            "cluster.power.feeders need the clock: here every device has its rated clock; 'fmsim run' keeps them"
        )
    warnings += [f"{queue.name}: a queue of jobs has no step; 'fmsim run' runs its jobs" for queue in scenario.queues]
    warnings += [f"{name}: {w}" for name, answer in details.items() for w in answer.warnings]
    tables = merge_tables(parts)
    return Result(
        tables=tables,
        document=scenario.document,
        provenance=provenance(scenario, depth, command),
        warnings=tuple(dict.fromkeys([*warnings, *moved_constants(scenario, tables)])),
        details=details,
    )


def moved_constants(scenario: Scenario, tables: Mapping[str, Columns]) -> Iterator[str]:
    """What ``constants`` moved, and the names in it that no result rests on."""
    known = {str(name) for name in tables.get("sources", {}).get("constant", ())}
    for name, factor in scenario.cluster.factors.items():
        if name in known or not known:
            yield f"constants: {name} is taken {factor:g} times"
        else:
            yield f"constants: no result rests on it: {unknown_name('constant', name, known)}"


def named_parts(deployment: Deployment) -> list[tuple[str, Deployment]]:
    """The parts of a deployment under names of their own: ``chat``, or ``chat prefill`` and ``chat decode``, or
    ``chat 0`` ..."""
    if deployment.pools is not None:
        return [(f"{deployment.name} {side}", getattr(deployment.pools, side)) for side in ("prefill", "decode")]
    if deployment.cascade is not None:
        return [(f"{deployment.name} {side}", getattr(deployment.cascade, side)) for side in ("small", "large")]
    if len(deployment.parts) > 1:
        return [(f"{deployment.name} {number}", part) for number, part in enumerate(deployment.parts)]
    return [(deployment.name, deployment.parts[0])]


def run_scenario(scenario: Scenario, command: str = "", progress: Callable[[int, int], object] | None = None) -> Result:
    """Everything on one clock until the work is done or ``until``.

    ``progress`` is called now and then with the requests that have come and those that are to come.
    """
    from simulator.cluster.run import run_cluster

    answer: Result = run_cluster(scenario, progress)
    tables, sketches = answer.tables, answer.sketches
    if scenario.record == "summary":
        tables = {name: columns for name, columns in tables.items() if name not in _LONG or _is_short(name, columns)}
    return Result(
        tables=tables,
        document=scenario.document,
        provenance={**provenance(scenario, "run", command), **answer.provenance},
        warnings=tuple(dict.fromkeys([*scenario.warnings, *answer.warnings, *moved_constants(scenario, tables)])),
        sketches=sketches,
        details=answer.details,
    )


def _is_short(name: str, columns: Columns) -> bool:
    return len(next(iter(columns.values()), ())) <= _SHORT_ENOUGH.get(name, 0)


def merge_tables(parts: list[Mapping[str, Columns]]) -> dict[str, Columns]:
    """The tables of several workloads below one another."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: concat(part[name] for part in parts if name in part) for name in names}

"""What to buy or how to lay out: the best of many variants under limits, the runners-up, and what binds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.errors import ConfigError, IssueCollector
from simulator.registry import lookup, record_of
from simulator.scenario.recommendation import (
    EXHAUSTIVE,
    MOST_ACCELERATORS,
    Asked,
    Limit,
    Objective,
    Recommendation,
    objective_metric,
)

if TYPE_CHECKING:
    from simulator.scenario.sweep import Progress, Variants
    from simulator.scenario.types import Scenario

__all__ = ["recommend"]


def recommend(
    source: str | Path | Mapping[str, Any] | Scenario,
    vary: Variants = (),
    *,
    objective: Objective = "cost",
    limits: Iterable[Limit | str] = (),
    max_accelerators: int = MOST_ACCELERATORS,
    keep: int = 5,
    jobs: int | None = None,
    planner: str = EXHAUSTIVE,
    progress: Progress | None = None,
) -> Recommendation:
    """The best variant of a scenario with one workload.

    A deployment is searched over the alternatives (hardware, layout, precision, policy ...) and the number of
    replicas; a training job over node types, node counts and all its parallel plans. Cheap bounds come first, what
    they leave is simulated. The cluster takes as many nodes as a variant needs.

    Parameters
    ----------
    source, vary
        As of :func:`simulator.scenario.sweep.sweep`. A deployment whose ``tensor_parallel`` is not varied is tried
        with 1, 2, 4 and 8.
    objective
        Fewest ``gpus``, lowest ``cost`` or ``energy`` (per token served, of the whole training), or shortest ``time``.
    limits
        On columns of the summary, ``ttft_p90=300 ms``, or ``usd_per_hour=200``. The service level of a deployment
        holds where no limit is given on its metric.
    max_accelerators
        Largest variant.
    keep
        Families to return.
    planner
        Strategy of the family ``planner``: one of training searches the plans of a job at every size, one of serving
        divides the scenario's own nodes into groups of replicas.

    Raises
    ------
    ConfigError
        If the scenario, the alternatives or the limits cannot be read, or there is not exactly one workload.
    """
    from simulator.scenario.axes import point_texts
    from simulator.scenario.load import load_scenario
    from simulator.scenario.recommend_groups import recommend_groups
    from simulator.scenario.recommend_serving import recommend_serving
    from simulator.scenario.recommend_training import recommend_training
    from simulator.scenario.sweep import plan_sweep

    issues = IssueCollector()
    given: list[Limit] = []
    for limit in limits:
        try:
            given.append(Limit.parse(limit) if isinstance(limit, str) else limit)
        except ConfigError as error:
            issues.extend(error.issues)
    issues.raise_if_any()
    recipe, axes, document, _ = plan_sweep(source, vary, "run")
    workloads = document.get("workloads") or []
    if len(workloads) != 1:
        raise ConfigError(
            f"a recommendation is for a scenario with one workload, this one has {len(workloads)}: copy it and leave "
            "one of them"
        )
    if "functions" in workloads[0]:
        raise ConfigError("a recommendation is for a job or a deployment; try functions out with 'fmsim sweep'")
    kind = "training" if "training" in workloads[0] else "serving"
    metric = objective_metric(objective, kind)
    workers = max(1, jobs or os.cpu_count() or 1)
    asked = Asked(objective, metric, tuple(given), max_accelerators, keep, workers, planner)
    area = record_of(lookup("planner", planner)).area
    if kind == "training":
        if area != "training":
            raise ConfigError(f"planner {planner} divides the nodes of a deployment, this is a training job")
        found = recommend_training(recipe, axes, asked, progress)
    elif area == "serving":
        found = recommend_groups(recipe, axes, asked, progress)
    elif planner == EXHAUSTIVE:
        found = recommend_serving(recipe, axes, asked, progress)
    else:
        raise ConfigError(
            f"planner {planner} searches the plans of a training job; a deployment's are all searched, or 'hexgen' "
            "divides a pool of unlike nodes"
        )
    if found.best is None:
        return found
    changes = [*recipe.changes, *point_texts(dict(found.best.point)), "what_if={}"]
    return replace(found, scenario=load_scenario(recipe.source, changes).document)

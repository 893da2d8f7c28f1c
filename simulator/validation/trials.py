"""Published records under other constants than the shipped ones, for the fits in ``benchmarks/fits``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from simulator.constants import Constant, Trust
from simulator.validation.cases import Case, Subject
from simulator.validation.serving_runs import run_serving

__all__ = ["first_token_errors", "published_first", "under"]

FIRST = "ttft_mean"
"""The figure that fits of the time to first token compare."""


def published_first(case: Case) -> float | None:
    """Published mean time to first token [s] where it can be fitted on: grades A and B of development records."""
    known = [m for m in case.measured if m.quantity == FIRST and (m.grade or case.labels.grade) != "C"]
    return known[0].value if known and case.split == "dev" else None


def under(case: Case, values: Mapping[str, float], scale: Mapping[str, float] | None = None) -> Subject:
    """The subject of a serving record with constants of its engine replaced and others scaled.

    Parameters
    ----------
    case
        A record of a deployment.
    values
        Constants of the engine by their name in its file [SI units].
    scale
        Factors on any constants by id.
    """
    deployment, cluster = case.subject.deployment, case.subject.cluster
    assert deployment is not None and cluster is not None
    engine = deployment.framework
    moved = {k: Constant(f"{engine.name}.{k}", v, "", 0.3, Trust.FITTED, "trial") for k, v in values.items()}
    engine = replace(engine, constants={**engine.constants, **moved})
    cluster = replace(cluster, factors={**cluster.factors, **(scale or {})})
    return replace(case.subject, cluster=cluster, deployment=replace(deployment, framework=engine))


def first_token_errors(
    cases: Iterable[Case], values: Mapping[str, float], scale: Mapping[str, float] | None = None
) -> list[tuple[str, float]]:
    """(model, relative error of the mean time to first token) of those that can be simulated and fitted on, under other
    constants."""
    found = []
    for case in cases:
        prediction, reason = run_serving(under(case, values, scale))
        published = published_first(case)
        if not reason and published is not None:
            found.append((case.labels.model, prediction[FIRST] / published - 1))
    return found

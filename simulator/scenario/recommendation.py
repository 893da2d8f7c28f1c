"""What a recommendation is asked, how variants are judged, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from simulator.errors import ConfigError, unknown_name
from simulator.results.tables import schema
from simulator.scenario.compare_draws import better_when_higher
from simulator.units import DIMENSIONS, parse_quantity

__all__ = [
    "EXHAUSTIVE", "MOST_ACCELERATORS", "OBJECTIVES", "USD_PER_HOUR", "Asked", "Candidate", "Limit", "Objective",
    "Recommendation", "bindings", "metric_of", "objective_metric",
]  # fmt: skip

Objective: TypeAlias = Literal["gpus", "cost", "energy", "time"]

OBJECTIVES: Mapping[str, Mapping[str, str]] = {
    "gpus": {"serving": "accelerators", "training": "accelerators"},
    "cost": {"serving": "usd_per_million_tokens", "training": "usd"},
    "energy": {"serving": "energy_per_token", "training": "energy"},
    "time": {"serving": "e2e_p90", "training": "training_seconds"},
}
"""Column that is minimised, by objective and kind of workload."""

USD_PER_HOUR = "usd_per_hour"
"""A budget: cost of the run over its time; not a column of a summary."""

MOST_ACCELERATORS = 1024
EXHAUSTIVE = "exhaustive"
"""Planner that looks at every plan."""

_DIMENSIONS = {"s": "time", "B": "data", "W": "power", "J": "energy"}


@dataclass(frozen=True)
class Limit:
    """A bound on a column of the summary: at most ``value``, or at least, where more is better."""

    metric: str
    value: float

    @property
    def at_least(self) -> bool:
        """Whether the column must reach the value, not stay below it."""
        return better_when_higher(self.metric)

    def slack(self, row: Mapping[str, Any]) -> float:
        """Share of the limit that is left; negative where it is broken, or where the column is not known."""
        value = metric_of(row, self.metric)
        if value is None:
            return -math.inf
        if self.value == 0:
            return 0.0 if value == 0 else math.copysign(math.inf, value if self.at_least else -value)
        return (value / self.value - 1) if self.at_least else (1 - value / self.value)

    @classmethod
    def parse(cls, text: str) -> Limit:
        """From ``ttft_p90=300 ms``.

        Raises
        ------
        ConfigError
            If there is no such column or the value has not its unit.
        """
        name, equals, value = (part.strip() for part in text.partition("="))
        known = [column for table, column in schema() if table == "summary"]
        if not equals or name not in (*known, USD_PER_HOUR):
            raise ConfigError(f"--limit {text}: {unknown_name('metric', name, [*known, USD_PER_HOUR])}")
        unit = schema()["summary", name].unit if name != USD_PER_HOUR else "USD"
        try:
            if (dimension := _DIMENSIONS.get(unit)) in DIMENSIONS:
                return cls(name, parse_quantity(value, str(dimension)))
            return cls(name, float(value.removesuffix(unit).strip()))
        except ValueError as error:
            raise ConfigError(f"--limit {text}: {error}") from None


def metric_of(row: Mapping[str, Any], metric: str) -> float | None:
    """A column of a summary row, or what is derived from it; None where it is not known."""
    if metric == USD_PER_HOUR:
        seconds = metric_of(row, "duration") or metric_of(row, "training_seconds")
        usd = metric_of(row, "usd")
        return None if usd is None or not seconds else 3600 * usd / seconds
    value = row.get(metric)
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return None
    return float(value)


@dataclass(frozen=True)
class Asked:
    """What :func:`simulator.scenario.recommend.recommend` is asked, without the scenario and its alternatives.

    Attributes
    ----------
    objective, metric
        What is minimised, and its column of the summary.
    limits
        On columns of the summary.
    most
        Accelerators of the largest variant.
    keep
        Variants to return.
    jobs
        Simulations at a time.
    planner
        Strategy of the family ``planner``.
    """

    objective: Objective
    metric: str
    limits: tuple[Limit, ...] = ()
    most: int = MOST_ACCELERATORS
    keep: int = 5
    jobs: int = 1
    planner: str = EXHAUSTIVE


@dataclass(frozen=True)
class Candidate:
    """One computed variant.

    Attributes
    ----------
    point
        Values by path that make it out of the scenario.
    row
        Its summary row.
    objective
        What is minimised; infinite where it is not known.
    broken
        Limits it breaks.
    """

    point: Mapping[str, Any]
    row: Mapping[str, Any]
    objective: float
    broken: tuple[Limit, ...] = ()

    @classmethod
    def of(cls, point: Mapping[str, Any], row: Mapping[str, Any], metric: str, limits: Sequence[Limit]) -> Candidate:
        """A summary row judged by objective and limits."""
        value = metric_of(row, metric)
        works = bool(row.get("feasible"))
        broken = tuple(limit for limit in limits if works and limit.slack(row) < 0)
        return cls(dict(point), dict(row), value if value is not None and works else math.inf, broken)

    @property
    def works(self) -> bool:
        """Whether it runs and keeps every limit."""
        return bool(self.row.get("feasible")) and not self.broken and math.isfinite(self.objective)


@dataclass(frozen=True)
class Recommendation:
    """The answer.

    Attributes
    ----------
    kind, objective, metric, limits
        What was asked; ``metric`` is the column that is minimised.
    ranked
        The best of each family (all values but the count), best first.
    binding
        Of the best: ``metric``, ``limit``, ``value`` and ``slack`` (share of the limit that is left), tightest first.
    fewer, more
        The best with one replica (node) less, which breaks a limit, and with one more.
    dropped
        Families that cannot win and why.
    considered, simulated
        Variants in the space, and those that were simulated; bounds exclude the others.
    notes
        What the search assumed.
    plans
        Of a training job: time, memory and traffic of the best plans of the best size, see
        :func:`simulator.scenario.recommend_plans.plan_rows`.
    scenario
        The scenario of the best, as a document.
    """

    kind: str
    objective: Objective
    metric: str
    limits: tuple[Limit, ...]
    ranked: tuple[Candidate, ...]
    binding: tuple[dict[str, Any], ...] = ()
    fewer: Candidate | None = None
    more: Candidate | None = None
    dropped: tuple[dict[str, Any], ...] = ()
    considered: int = 0
    simulated: int = 0
    notes: tuple[str, ...] = field(default=())
    plans: tuple[dict[str, Any], ...] = ()
    scenario: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def best(self) -> Candidate | None:
        """The best variant, or None when nothing keeps the limits."""
        return self.ranked[0] if self.ranked else None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""

        def plain(candidate: Candidate | None) -> dict[str, Any] | None:
            if candidate is None:
                return None
            row = {k: None if v != v or v in (math.inf, -math.inf) else v for k, v in candidate.row.items()}
            objective = candidate.objective if math.isfinite(candidate.objective) else None
            broken = [limit.metric for limit in candidate.broken]
            return {"point": dict(candidate.point), "objective": objective, "broken": broken, "summary": row}

        return {
            "kind": self.kind, "objective": self.objective, "metric": self.metric,
            "limits": {limit.metric: limit.value for limit in self.limits},
            "best": None if self.best is None else {**(plain(self.best) or {}), "scenario": self.scenario},
            "runners_up": [plain(c) for c in self.ranked[1:]], "binding": list(self.binding),
            "one_less": plain(self.fewer), "one_more": plain(self.more), "dropped": list(self.dropped),
            "considered": self.considered, "simulated": self.simulated, "notes": list(self.notes),
            "plans": list(self.plans),
        }  # fmt: skip

    def _repr_html_(self) -> str:
        """The best and the runners-up, for notebooks."""
        from simulator.results.markup import figure_text, html_list, html_table

        if self.best is None:
            return html_table("nothing keeps the limits", ["", "why"], [[d.get("reason", "")] for d in self.dropped])
        shown = dict.fromkeys([self.metric, *(x.metric for x in self.limits), "accelerators", "usd_per_million_tokens"])
        rows = [[p.rpartition(".")[2], *(_told(c, p) for c in self.ranked)] for p in self.best.point]
        rows += [[name, *(figure_text(name, metric_of(c.row, name)) for c in self.ranked)] for name in shown]
        heads = ["", *("best" if not i else f"#{i + 1}" for i in range(len(self.ranked)))]
        bound = [
            f"{b['metric']} {figure_text(b['metric'], b['value'])} of {figure_text(b['metric'], b['limit'])}: "
            f"{b['slack']:.1%} left"
            for b in self.binding
        ]
        verdict = f"{self.considered:,} variants considered, {self.simulated:,} simulated"
        return html_table(f"best by {self.metric}", heads, rows, verdict) + html_list([*bound, *self.notes])


def _told(candidate: Candidate, path: str) -> Any:
    """What a candidate has at a path; a whole plan in its short form."""
    value = candidate.point.get(path, "")
    return candidate.row.get("plan", value) if isinstance(value, Mapping) else value


def objective_metric(objective: str, kind: str) -> str:
    """The column that an objective minimises.

    Raises
    ------
    ConfigError
        If there is no such objective.
    """
    if objective not in OBJECTIVES:
        raise ConfigError(unknown_name("objective", objective, OBJECTIVES))
    return OBJECTIVES[objective][kind]


def bindings(best: Candidate, limits: Sequence[Limit]) -> tuple[dict[str, Any], ...]:
    """How much of each limit the best leaves, tightest first."""
    rows = [
        {"metric": x.metric, "limit": x.value, "value": metric_of(best.row, x.metric), "slack": x.slack(best.row)}
        for x in limits
        if x.metric != "unstable"
    ]
    return tuple(sorted(rows, key=lambda r: (r["slack"], r["metric"])))

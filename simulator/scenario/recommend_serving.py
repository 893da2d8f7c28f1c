"""Search of deployments: families of layouts and hardware, each with the fewest replicas that keep the limits.

Every family (all values but the number of replicas) has lower bounds that need no simulation: latencies of one request
alone, and cost, energy and size of so many replicas for as long as the requests arrive. Families are taken best bound
first; one is left as soon as its bound at the fewest replicas still possible is worse than the last place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.cluster.economics import bill, mean_draw
from simulator.errors import ConfigError
from simulator.hardware.types import Cluster
from simulator.scenario.axes import Axes, Point, point_texts
from simulator.scenario.load import load_scenario
from simulator.scenario.recommendation import Asked, Candidate, Limit, Recommendation, bindings
from simulator.scenario.sweep_executors import make_executor
from simulator.scenario.sweep_points import Answer, Recipe, answer_point
from simulator.serving.estimate import estimate_deployment, replica_cost, typical_batch
from simulator.serving.memory import cache_size
from simulator.strategies.protocols import BatchShape
from simulator.workload.jobs import Deployment, ServiceLevel

if TYPE_CHECKING:
    from simulator.scenario.sweep import Progress

__all__ = ["Family", "family_of", "recommend_serving", "service_limits"]

REPLICAS, NODES = "workloads.0.deployment.replicas", "cluster.nodes.count"
_TP = "workloads.0.deployment.plan.tensor_parallel"
SAFE = 0.98
"""Latencies of one request alone are taken this much lower, so that a bound is never above a simulated latency."""

GROWTH = 1.25


@dataclass
class Family:
    """One layout on one hardware; its state in the search.

    Attributes
    ----------
    point
        Its values by path.
    size, per_node
        Accelerators of a replica and of a node.
    guess
        Replicas that the traffic needs by the cost model.
    latencies
        Lower bounds by column of the summary.
    unit
        Lower bound of the objective per replica.
    most
        Largest number of replicas.
    reason
        Why it cannot work, or nothing.
    below, best
        Most replicas known to break a limit, and the candidate with the fewest that keep them all.
    """

    point: Point
    size: int = 1
    per_node: int = 1
    guess: int = 1
    latencies: dict[str, float] = field(default_factory=dict)
    unit: float = 0.0
    most: int = 0
    reason: str = ""
    below: int = 0
    best: Candidate | None = None
    failed: Candidate | None = None

    @property
    def bound(self) -> float:
        """No candidate that may still be found is better than this."""
        return self.unit * (self.below + 1)

    @property
    def found(self) -> int:
        """Replicas of the best so far, one more than the most if there is none."""
        return int(self.best.point[REPLICAS]) if self.best is not None else self.most + 1

    @property
    def done(self) -> bool:
        """Whether nothing is left to simulate."""
        return bool(self.reason) or self.below + 1 >= self.found

    def next(self) -> int:
        """How many replicas to try: first the guess, then more until it works, then halving the gap."""
        if self.best is None:
            start = self.guess if self.below < self.guess else math.ceil(self.below * GROWTH)
            return max(self.below + 1, min(start, self.most))
        return (self.below + self.found) // 2 if self.found - self.below > 3 else self.found - 1

    def at(self, replicas: int) -> Point:
        """The point with so many replicas, and just the nodes they need."""
        if self.size <= self.per_node:
            nodes = -(-replicas // (self.per_node // self.size))
        else:
            nodes = replicas * -(-self.size // self.per_node)
        return {**self.point, REPLICAS: replicas, NODES: nodes}


def service_limits(level: ServiceLevel, given: Sequence[Limit]) -> tuple[Limit, ...]:
    """The given limits, and those of the service level on metrics they leave out."""
    names = {50.0: "median", 90.0: "p90", 99.0: "p99"}
    named = {limit.metric.partition("_")[0] for limit in given}
    asked = {"ttft": level.ttft, "tpot": level.tpot, "e2e": level.e2e}
    limits = list(given)
    if level.percentile in names:
        suffix = names[level.percentile]
        limits += [Limit(f"{m}_{suffix}", v) for m, v in asked.items() if v and m not in named]
    elif any(asked.values()) and "slo" not in named:
        limits.append(Limit("slo_attainment", level.percentile / 100))
    # A deployment that falls behind keeps its limits only because the run ends.
    return (*limits, Limit("unstable", 0.0))


def family_of(recipe: Recipe, point: Point, asked: Asked) -> Family:
    """Bounds of one family."""
    family = Family(point)
    try:
        one, cluster = _one_replica(recipe, point)
    except ConfigError as error:
        family.reason = "; ".join(f"{i.path}: {i.message}" if i.path else i.message for i in error.issues)
        return family
    node = cluster.groups[0].node
    family.size, family.per_node = one.plan.accelerators, node.accelerators
    family.most = asked.most // family.size
    refused = estimate_deployment(one, cluster, "estimate")
    if not refused.feasible or not family.most:
        family.reason = refused.reason or f"a replica needs {family.size} accelerators, {asked.most} are allowed"
        return family
    cost, cache = replica_cost(one, cluster), cache_size(one, node)
    requests, batch = one.requests, typical_batch(one, cache)
    inputs, outputs = float(requests.input_tokens.mean()), float(requests.output_tokens.mean())
    seconds = cost.iteration(batch)
    prompt = max(1, round(inputs))
    work = cost.iteration(BatchShape(((prompt, 0),), 0, 0)) + outputs * seconds / batch.decodes
    span = float(np.max(requests.arrival)) if len(requests) else 0.0
    rate = len(requests) / span if span > 0 else 0.0
    family.guess = max(1, min(family.most, math.ceil(rate * work)))
    family.unit = _unit(asked.metric, one, cluster, span)
    if not dict(one.options).get("speculation"):
        family.latencies = _alone(one, cost)
    for limit in asked.limits:
        least = family.latencies.get(limit.metric)
        if least is not None and not limit.at_least and least > limit.value:
            family.reason = (
                f"{limit.metric} is at least {least:.4g} with one request alone, the limit is {limit.value:.4g}"
            )
    return family


def _one_replica(recipe: Recipe, point: Point) -> tuple[Deployment, Cluster]:
    """The deployment with one replica, and the nodes it needs."""
    # Enough nodes for any layout of one replica.
    changes = [*recipe.changes, *point_texts({**point, REPLICAS: 1, NODES: 64}), "what_if={}", "record=summary"]
    scenario = load_scenario(recipe.source, changes, skip_bad_rows=recipe.skip_bad_rows)
    return replace(scenario.deployments[0], replicas=1), scenario.cluster_of(scenario.deployments[0].name)


def _unit(metric: str, one: Deployment, cluster: Cluster, span: float) -> float:
    """Lower bound of the objective per replica: what it takes to keep it for as long as requests arrive."""
    size, tokens = one.plan.accelerators, float(one.requests.output_tokens.sum())
    if metric == "accelerators":
        return float(size)
    if not tokens or not span:
        return 0.0
    if metric == "usd_per_million_tokens":
        usd = bill(one.name, cluster, size, span, 0.0).usd
        return 1e6 * usd / tokens * (1 - 1e-9) if math.isfinite(usd) else 0.0
    return mean_draw(cluster, size, 0.0, 0.0).idle * span / tokens * (1 - 1e-9) if metric == "energy_per_token" else 0.0


def _alone(one: Deployment, cost: Any) -> dict[str, float]:
    """Latencies that no request can beat: its prompt and its tokens in an engine of its own."""
    requests = one.requests
    shortest = int(requests.input_tokens.min())
    token = SAFE * cost.iteration(BatchShape((), 1, shortest, shortest))
    found: dict[str, float] = {}
    for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
        # Requests longer than the model allows are rejected and not counted: stay below them.
        served = requests.input_tokens[requests.input_tokens + requests.output_tokens <= one.max_model_len]
        if len(served):
            longest = int(np.quantile(served, share, method="lower"))
            chunk = max(1, min(longest, one.max_num_batched_tokens))
            found[f"ttft_{name}"] = SAFE * cost.iteration(BatchShape(((chunk, 0),), 0, 0))
        found[f"tpot_{name}"] = token
    return found


def recommend_serving(recipe: Recipe, axes: Axes, asked: Asked, progress: Progress | None) -> Recommendation:
    """The best deployment; see :func:`simulator.scenario.recommend.recommend`."""
    points = _points(axes)
    asked = replace(asked, limits=service_limits(_service_level(recipe, points), asked.limits))
    families = [family_of(recipe, point, asked) for point in points]
    search = _Search(recipe, families, asked)
    search.run(progress)
    ranked = search.ranked()
    best = ranked[0].best if ranked else None
    notes = ["more replicas are taken never to break a limit that fewer keep"]
    if not ranked:
        notes.insert(0, f"nothing up to {asked.most} accelerators keeps the limits")
    fewer = more = None
    if best is not None:
        fewer = ranked[0].failed if ranked[0].failed and ranked[0].below == ranked[0].found - 1 else None
        if ranked[0].found < ranked[0].most:
            more = search.evaluate(ranked[0], ranked[0].found + 1)
    return Recommendation(
        kind="serving", objective=asked.objective, metric=asked.metric, limits=asked.limits,
        ranked=tuple(f.best for f in ranked if f.best is not None)[: asked.keep],
        binding=bindings(best, asked.limits) if best is not None else (), fewer=fewer, more=more,
        dropped=tuple({**f.point, "reason": search.why(f)} for f in families if f not in ranked[: asked.keep]),
        considered=sum(f.most for f in families if not f.reason), simulated=search.simulated, notes=tuple(notes),
    )  # fmt: skip


def _points(axes: Axes) -> list[Point]:
    """The axes; tensor parallelism within a node where nothing is said of it, without what the search sets itself."""
    names = [name.rpartition(".")[2] for name in axes.names]
    if any(name.endswith((".replicas", "nodes.count")) for name in axes.names):
        raise ConfigError("the numbers of replicas and nodes are what is searched: bound them with --max-gpus")
    points = axes.points()
    if not {"tp", "tensor_parallel"} & set(names):
        points = [{**point, _TP: size} for point in points for size in (1, 2, 4, 8)]
    return points


def _service_level(recipe: Recipe, points: Sequence[Point]) -> ServiceLevel:
    problems: list[Any] = []
    for point in points:
        try:
            return _one_replica(recipe, point)[0].slo
        except ConfigError as error:
            problems += error.issues
    raise ConfigError(problems)


class _Search:
    """Branch and bound over families, several simulations at a time; the answer does not depend on how many."""

    def __init__(self, recipe: Recipe, families: Sequence[Family], asked: Asked) -> None:
        self.recipe, self.families, self.asked = recipe, families, asked
        self.simulated = 0
        if asked.objective == "time":  # more replicas are faster: only the largest counts
            for family in families:
                family.below, family.unit = max(0, family.most - 1), 0.0

    def ranked(self) -> list[Family]:
        """Families with an answer, best first; equal ones in the order of the alternatives."""
        found = [f for f in self.families if f.best is not None]
        return sorted(found, key=lambda f: f.best.objective if f.best is not None else math.inf)

    def why(self, family: Family) -> str:
        """Why a family is not among the answers."""
        if family.reason:
            return family.reason
        if family.best is not None:
            return f"{self.asked.metric} {family.best.objective:.4g} is behind"
        if not family.done:
            return f"{self.asked.metric} is at least {family.bound:.4g}"
        broken = ", ".join(limit.metric for limit in family.failed.broken) if family.failed is not None else ""
        return f"breaks {broken or 'its limits'} with as many as {family.most} replicas"

    def _limit(self) -> float:
        places = [f.best.objective for f in self.ranked() if f.best is not None]
        return places[self.asked.keep - 1] if len(places) >= self.asked.keep else math.inf

    def _waiting(self, flying: set[int]) -> list[int]:
        worst = self._limit()
        ready = [
            i for i, f in enumerate(self.families) if i not in flying and not f.done and f.bound <= worst
        ]  # fmt: skip
        return sorted(ready, key=lambda i: (self.families[i].unit * self.families[i].next(), i))

    def run(self, progress: Progress | None) -> None:
        """Simulate until nothing that is left can be among the best."""
        jobs = self.asked.jobs
        flying: dict[Future[Answer], tuple[int, int]] = {}
        with make_executor("local", jobs) as pool:
            while True:
                for index in self._waiting({i for i, _ in flying.values()})[: max(0, jobs - len(flying))]:
                    replicas = self.families[index].next()
                    point = self.families[index].at(replicas)
                    flying[pool.submit(answer_point, self.recipe, point)] = (index, replicas)
                if not flying:
                    return
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    index, replicas = flying.pop(future)
                    self._enter(self.families[index], replicas, future.result())
                if progress is not None:
                    settled = len(self.families) - len(self._waiting(set()))
                    progress(settled, len(self.families))

    def evaluate(self, family: Family, replicas: int) -> Candidate | None:
        """Simulate a family with so many replicas, here and now."""
        point = family.at(replicas)
        answer = answer_point(self.recipe, point)
        self.simulated += 1
        return Candidate.of(point, answer["rows"][0], self.asked.metric, self.asked.limits) if answer["rows"] else None

    def _enter(self, family: Family, replicas: int, answer: Mapping[str, Any]) -> None:
        self.simulated += 1
        if not answer["rows"]:
            family.reason = str(answer["reason"])
            return
        candidate = Candidate.of(family.at(replicas), answer["rows"][0], self.asked.metric, self.asked.limits)
        if candidate.works:
            if family.best is None or replicas < family.found:
                family.best = candidate
        elif replicas > family.below:
            family.below, family.failed = replicas, candidate

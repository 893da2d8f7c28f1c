"""Search of a deployment's groups: which unlike replicas a given pool of mixed nodes is best divided into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.cluster.serving_engine import Engine
from simulator.errors import ConfigError
from simulator.hardware.types import Cluster
from simulator.registry import lookup
from simulator.scenario.axes import Axes, Point, point_texts
from simulator.scenario.load import load_scenario
from simulator.scenario.recommend_serving import service_limits
from simulator.scenario.recommendation import Asked, Candidate, Limit, Recommendation, bindings, metric_of
from simulator.scenario.sweep_executors import make_executor
from simulator.scenario.sweep_points import Recipe, answer_point
from simulator.strategies.planner.hexgen import Division, NodePool, RankedDivisions, ReplicaShape, Score

if TYPE_CHECKING:
    from simulator.scenario.sweep import Progress

__all__ = ["recommend_groups"]

GROUPS = "workloads.0.deployment.groups"
TENSOR = {"tp": "tensor_parallel", "tensor_parallel": "tensor_parallel"}
PIPELINE = {"pp": "pipeline_parallel", "pipeline_parallel": "pipeline_parallel"}
DEGREES = (1, 2, 4, 8)


@dataclass
class _Pool:
    """A scenario without its replicas: nodes, replicas that fit, and what each division of the nodes comes to."""

    recipe: Recipe
    plan: Mapping[str, Any]
    pools: Mapping[str, NodePool]
    shapes: list[ReplicaShape]
    refused: list[dict[str, Any]]

    def point(self, division: Division) -> Point:
        """Groups in the order of the nodes, the largest replicas of each kind first."""
        kinds = list(self.pools)
        chosen = [(shape, count) for shape, count in zip(self.shapes, division, strict=True) if count]
        chosen.sort(key=lambda c: (kinds.index(c[0].kind), -c[0].size, -c[0].tensor_parallel))
        return {GROUPS: [{"count": count, **_group(self.plan, shape)} for shape, count in chosen]}


def _group(plan: Mapping[str, Any], shape: ReplicaShape) -> dict[str, Any]:
    degrees = {"tensor_parallel": shape.tensor_parallel, "pipeline_parallel": shape.pipeline_parallel}
    return {"profile": shape.kind, "plan": {**plan, **degrees}}


def recommend_groups(recipe: Recipe, axes: Axes, asked: Asked, progress: Progress | None) -> Recommendation:
    """The best division of the scenario's own nodes; see :func:`simulator.scenario.recommend.recommend`.

    Divisions are judged by the share of requests within the service level first, then by the objective; every one is
    simulated on the clock. Replicas take degrees of 1, 2, 4 and 8 unless the alternatives name others.
    """
    pool, limits, total = _pool_of(recipe, _degrees(axes), asked.limits)
    if total > asked.most:
        raise ConfigError(
            f"the scenario has {total} accelerators, --max-gpus allows {asked.most}: take nodes out or raise it"
        )
    candidates: dict[Division, Candidate] = {}
    search = lookup("planner", asked.planner)()
    with make_executor("local", asked.jobs) as workers:

        def evaluate(divisions: Sequence[Division]) -> list[Score]:
            answers = [workers.submit(answer_point, recipe, pool.point(d)) for d in divisions]
            for division, answer in zip(divisions, answers, strict=True):
                rows = answer.result()["rows"]
                row = rows[0] if rows else {"feasible": False, "reason": answer.result()["reason"]}
                candidates[division] = Candidate.of(pool.point(division), row, asked.metric, limits)
                if progress is not None:
                    progress(len(candidates), search.simulations)
            return [_score(candidates[d]) for d in divisions]

        found: RankedDivisions = search.search(pool.shapes, pool.pools, evaluate)
    order = [candidates[division] for _, division in found.ranked]
    works = [candidate for candidate in order if candidate.works]
    best = works[0] if works else None
    return Recommendation(
        kind="serving", objective=asked.objective, metric=asked.metric, limits=limits,
        ranked=tuple(works[: asked.keep]), binding=bindings(best, limits) if best is not None else (),
        dropped=tuple(pool.refused),
        considered=found.considered, simulated=len(candidates), notes=tuple(_notes(asked.planner, order, found)),
    )  # fmt: skip


def _score(candidate: Candidate) -> Score:
    """Requests in time first, then the objective."""
    attainment = metric_of(candidate.row, "slo_attainment")
    return (-1.0 if attainment is None else attainment, -candidate.objective)


def _notes(planner: str, order: Sequence[Candidate], found: RankedDivisions) -> list[str]:
    notes = [f"{planner}: requests within the service level come first, then the objective"]
    notes.append(f"{planner}: a replica is of one kind of accelerator; stages of unlike kinds or degrees are not tried")
    if not found.exact:
        notes.append(f"{planner}: {len(order)} of {found.considered:,} divisions were simulated, others may be better")
    if order and not order[0].works:
        share = metric_of(order[0].row, "slo_attainment") or 0.0
        notes.insert(0, f"no division found keeps the limits; the best serves {100 * share:.1f} % of requests in time")
    return notes


def _degrees(axes: Axes) -> dict[str, tuple[int, ...]]:
    """Degrees to try."""
    found: dict[str, tuple[int, ...]] = {"tensor_parallel": DEGREES, "pipeline_parallel": DEGREES}
    for name in axes.names:
        degree = {**TENSOR, **PIPELINE}.get(name.rpartition(".")[2])
        if degree is None:
            raise ConfigError(
                f"the division of a pool is searched over tensor_parallel and pipeline_parallel, not over '{name}'"
            )
        found[degree] = tuple(dict.fromkeys(int(point[name]) for point in axes.points()))
    return found


def _pool_of(
    recipe: Recipe, degrees: Mapping[str, tuple[int, ...]], given: Sequence[Limit]
) -> tuple[_Pool, tuple[Limit, ...], int]:
    """The nodes, the replicas that fit, the limits, and how many accelerators there are."""
    scenario = load_scenario(recipe.source, [*recipe.changes, "what_if={}"], skip_bad_rows=recipe.skip_bad_rows)
    level, cluster = scenario.deployments[0].slo, scenario.cluster
    if not (level.ttft or level.tpot or level.e2e):
        raise ConfigError("hexgen counts the requests in time: give the deployment an 'slo'")
    written = scenario.document["workloads"][0].get("deployment", {})
    if taken := [key for key in ("replicas", "groups", "pools", "autoscaling", "cascade", "sharing") if key in written]:
        raise ConfigError(f"the groups of the deployment are what is searched: leave '{taken[0]}' out")
    plan = dict(written.get("plan", {}))
    pools = _pools(cluster)
    found = _Pool(recipe, plan, pools, [], [])
    for kind, pool in pools.items():
        for tensor in degrees["tensor_parallel"]:
            for stages in degrees["pipeline_parallel"]:
                if tensor > pool.per_node or not pool.holds([tensor * stages]):
                    continue
                shape = ReplicaShape(kind, tensor, stages, 0.0)
                capacity, reason = _capacity(recipe, {GROUPS: [{"count": 1, **_group(plan, shape)}]})
                if reason:
                    named = {"profile": kind, "tensor_parallel": tensor, "pipeline_parallel": stages}
                    found.refused.append({**named, "reason": reason})
                else:
                    found.shapes.append(ReplicaShape(kind, tensor, stages, capacity))
    return found, service_limits(level, given), cluster.accelerator_count


def _pools(cluster: Cluster) -> dict[str, NodePool]:
    """Nodes by profile, in the order they stand in."""
    found: dict[str, NodePool] = {}
    for group in cluster.groups:
        before = found.get(group.node.name, NodePool(0, group.node.accelerators))
        found[group.node.name] = NodePool(before.nodes + group.count, group.node.accelerators)
    return found


def _capacity(recipe: Recipe, point: Point) -> tuple[float, str]:
    """Requests per second of one replica, or why there cannot be one."""
    changes = [*recipe.changes, *point_texts(point), "what_if={}"]
    try:
        scenario = load_scenario(recipe.source, changes, skip_bad_rows=recipe.skip_bad_rows)
    except ConfigError as error:
        return 0.0, "; ".join(f"{i.path}: {i.message}" if i.path else i.message for i in error.issues)
    estimate = Engine(scenario.deployments[0].groups[0], scenario).estimate
    return estimate.metrics.get("capacity_requests_per_s", 0.0), estimate.reason

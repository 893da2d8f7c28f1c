"""Search of training jobs: node types and counts, and for each of them the best parallel plan.

Sizes are taken in the order of a bound: no plan on so many accelerators is faster than the model's FLOPs at peak. A
size whose bound breaks a limit or cannot win is never searched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from simulator.cluster.economics import bill
from simulator.cluster.training_tenant import training_bill
from simulator.errors import ConfigError
from simulator.hardware.profiles import load_node
from simulator.hardware.types import Cluster, NodeGroup
from simulator.registry import lookup
from simulator.results.from_estimate import estimate_tables
from simulator.scenario.axes import Axes, Point, point_texts
from simulator.scenario.deploy.writing import thawed
from simulator.scenario.load import load_scenario
from simulator.scenario.recommend_plans import plan_rows
from simulator.scenario.recommendation import Asked, Candidate, Limit, Recommendation, bindings, metric_of
from simulator.scenario.resolve_stages import stages_section
from simulator.scenario.sweep_points import Recipe
from simulator.strategies.planner.problem import PlanProblem, RankedPlans
from simulator.training.plan_evaluator import PlanEvaluator
from simulator.workload.counting import training_flops_per_token
from simulator.workload.jobs import TrainingJob
from simulator.workload.plan import Plan

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate
    from simulator.scenario.sweep import Progress

__all__ = ["Size", "plan_changes", "problem_of", "recommend_training", "sizes_of", "sizes_only"]

MOST_JUDGED = 320
"""Fastest plans of a size that are held against the limits."""

LIKELY = 0.9
"""Chance to fit below which a recommendation says so."""

PROFILE, COUNT = "cluster.nodes.profile", "cluster.nodes.count"


@dataclass(frozen=True)
class Size:
    """So many nodes of one type, and lower bounds of what the whole training takes on them."""

    point: Point
    cluster: Cluster
    bounds: Mapping[str, float]


def problem_of(job: TrainingJob, cluster: Cluster, keep: int) -> PlanProblem:
    """The plans that are tried: degrees up to the node and the model, in the job's own precision and with its options.

    What the job names beside its degrees (adapters, strategies and their options) is kept: it is another training
    without. Its own schedule, offload and context degree are tried beside the plain ones.
    """
    plan = job.plan
    heads = [a.num_attention_heads for layer, _ in job.model.layers if (a := layer.attention) is not None]
    per_node = cluster.groups[0].node.accelerators
    tensor = tuple(t for t in (1, 2, 4, 8, 16) if t <= per_node and all(h % t == 0 for h in heads))
    stages = tuple(
        p for p in (1, 2, 4, 8, 16, 32, 64) if p <= min(job.model.num_hidden_layers, cluster.accelerator_count)
    )
    experts = {m.num_experts for layer, _ in job.model.layers if (m := layer.mlp) is not None and m.is_moe}
    expert = tuple(e for e in (1, 2, 4, 8, 16, 32, 64) if all(n % e == 0 for n in experts)) if experts else (1,)
    return PlanProblem(
        model=job.model, framework=job.framework, cluster=cluster, batch=job.batch, tensor_parallel=tensor,
        pipeline_parallel=stages, expert_parallel=expert, precision=(plan.precision,), keep=keep,
        context_parallel=tuple(sorted({1, plan.context_parallel})),
        micro_batch_size=tuple(sorted({1, 2, 4, job.batch.micro_batch_size})),
        schedule=tuple(dict.fromkeys(("1f1b", plan.schedule))) if plan.pipeline_parallel > 1 else ("1f1b",),
        virtual_stages=tuple(sorted({1, plan.virtual_stages})),
        offload=tuple(dict.fromkeys(("none", plan.offload))),
        options={name: (value,) for name, value in plan.options},
    )  # fmt: skip


def sizes_of(job: TrainingJob, base: Cluster, points: Sequence[Point], metric: str, own_link: bool) -> list[Size]:
    """Every size with its bounds."""
    tokens = job.batch.tokens
    frozen = job.plan.option("peft") is not None
    flops = training_flops_per_token(job.model, job.batch.sequence_length, True, frozen=frozen) * tokens * job.steps
    found = []
    if len(base.groups) > 1:
        return [_as_given(job, base, points, flops)]
    for point in points:
        node = load_node(str(point[PROFILE])) if PROFILE in point else base.groups[0].node
        count = int(point.get(COUNT, base.node_count))
        fabric = base.fabric if own_link else replace(base.fabric, link=node.nic)
        cluster = replace(base, groups=(NodeGroup(node, count),), fabric=fabric, place=None)
        size = cluster.accelerator_count
        seconds = flops / (size * node.accelerator.peak(job.plan.precision)) * (1 - 1e-9)
        usd = bill(job.name, cluster, size, seconds, 0.0).usd
        found.append(Size({PROFILE: node.name, COUNT: count}, cluster, _bounds(size, seconds, usd)))
    return sorted(found, key=lambda s: (s.bounds.get(metric, 0.0), s.bounds["accelerators"]))


def _as_given(job: TrainingJob, base: Cluster, points: Sequence[Point], flops: float) -> Size:
    """A cluster of several node types is searched as it is.

    Raises
    ------
    ConfigError
        If node types or counts are varied: there is no one profile or count to vary.
    """
    if any(PROFILE in point or COUNT in point for point in points):
        raise ConfigError(
            f"this cluster has {len(base.groups)} node types: leave {PROFILE} and {COUNT} as they are, the planner "
            "'mixed-devices' searches plans on some of the node types as well"
        )
    peak = sum(g.count * g.node.accelerators * g.node.accelerator.peak(job.plan.precision) for g in base.groups)
    size, seconds = base.accelerator_count, flops / peak * (1 - 1e-9)
    return Size({}, base, _bounds(size, seconds, 0.0))


def _bounds(size: int, seconds: float, usd: float) -> dict[str, float]:
    return {"accelerators": float(size), "training_seconds": seconds, "usd": usd if math.isfinite(usd) else 0.0}


def plan_changes(plan: Plan, framework_default: str = "1f1b") -> dict[str, Any]:
    """A plan as the ``plan`` section of a training job."""
    section: dict[str, Any] = {
        name: getattr(plan, name)
        for name in (
            "tensor_parallel", "sequence_parallel", "context_parallel", "pipeline_parallel", "virtual_stages",
            "data_parallel", "expert_parallel", "schedule", "zero_stage", "recompute", "precision", "offload",
        )
    }  # fmt: skip
    options = {k: thawed(v) for k, v in plan.options if k != "micro_batch_size"}
    if plan.stages:
        section["stages"] = stages_section(plan.stages)
    if section["pipeline_parallel"] == 1:
        section["schedule"] = framework_default
    return {**section, **({"options": options} if options else {})}


def recommend_training(recipe: Recipe, axes: Axes, asked: Asked, progress: Progress | None) -> Recommendation:
    """The best sizes and plans; see :func:`simulator.scenario.recommend.recommend`."""
    metric, limits, keep = asked.metric, asked.limits, asked.keep
    lookup("planner", asked.planner)  # a wrong name is an error before anything is searched
    points, searched = sizes_only(axes)
    scenario = load_scenario(recipe.source, [*recipe.changes, "what_if={}"])
    job, base = scenario.training[0], scenario.cluster
    written = scenario.document["cluster"].get("fabric") or {}
    own_link = bool(written.get("link") or written.get("bandwidth"))
    sizes = [s for s in sizes_of(job, base, points, metric, own_link) if s.bounds["accelerators"] <= asked.most]
    ranked: list[Candidate] = []
    tried: list[Candidate] = []
    dropped: list[dict[str, Any]] = []
    best_plans, runners_up = RankedPlans(), RankedPlans()
    considered = simulated = 0
    for number, size in enumerate(sizes):
        if progress is not None:
            progress(number, len(sizes))
        worst = ranked[keep - 1].objective if len(ranked) >= keep else math.inf
        if reason := _excluded(size, metric, worst, limits):
            dropped.append({**size.point, "reason": reason})
            continue
        plans, found = _search(job, size, keep, asked.planner, metric, limits)
        considered, simulated = considered + plans.considered, simulated + plans.evaluated
        tried += found
        works = sorted((c for c in found if c.works), key=lambda c: c.objective)
        ranked = sorted([*ranked, *works[:1]], key=lambda c: c.objective)
        if works and ranked[0] is works[0]:
            best_plans = plans
            runners_up = RankedPlans([pair for pair, c in zip(plans, found, strict=True) if not c.broken][:keep])
        if not works:
            dropped.append({**size.point, "reason": _why(found, plans)})
    if progress is not None:
        progress(len(sizes), len(sizes))
    if scenario.background or base.fabric.faults:
        ranked = on_the_clock(recipe, ranked[:keep], metric, limits)
    fewer, more = _neighbours(ranked, tried)
    notes = [] if ranked else ["no size keeps the limits"]
    if searched:
        notes.append(f"every plan is searched, not only the alternatives of {', '.join(searched)}")
    if scenario.background or base.fabric.faults:
        notes.append("plans are searched without the background traffic and the faults of the fabric; the best of each "
                     "size were run with them")  # fmt: skip
    if asked.objective == "energy":
        notes.append("the fastest plans of each size are judged; a slower plan could use a little less energy")
    chance = metric_of(ranked[0].row, "memory_fits_chance") if ranked else None
    if chance is not None and chance < LIKELY:
        notes.append(f"memory: as far as measured peaks lie from predicted ones, the best fits with {100 * chance:.0f} "
                     f"%; --limit memory_fits_chance={LIKELY} leaves room")  # fmt: skip
    notes += [f"{asked.planner}: {note}" for note in best_plans.notes]
    notes += [f"other plan of this size: {line}" for line in runners_up.explain()]
    return Recommendation(
        kind="training", objective=asked.objective, metric=metric, limits=limits, ranked=tuple(ranked[:keep]),
        binding=bindings(ranked[0], limits) if ranked else (), fewer=fewer, more=more, dropped=tuple(dropped),
        considered=considered, simulated=simulated, notes=tuple(notes), plans=plan_rows(runners_up) if ranked else (),
    )  # fmt: skip


def sizes_only(axes: Axes) -> tuple[list[Point], list[str]]:
    """The points without the alternatives of the plan, which are part of the search, and the paths of these."""
    plans = [name for name in axes.names if re.search(r"\.plan(\.|$)", name)]
    if unknown := set(axes.names) - {PROFILE, COUNT, *plans}:
        raise ConfigError(
            f"a training job is searched over {PROFILE}, {COUNT} and its plans; give {', '.join(sorted(unknown))} one "
            "value, or compute the alternatives with 'fmsim sweep'"
        )
    found = [{path: value for path, value in point.items() if path not in plans} for point in axes.points()]
    return [point for i, point in enumerate(found) if point not in found[:i]], plans


def _excluded(size: Size, metric: str, worst: float, limits: Sequence[Limit]) -> str:
    """Why a size need not be searched, or nothing."""
    for limit in limits:
        bound = size.bounds.get(limit.metric)
        if bound is not None and not limit.at_least and bound > limit.value:
            return f"{limit.metric} is at least {bound:.4g}, the limit is {limit.value:.4g}"
    bound = size.bounds.get(metric, 0.0)
    return f"{metric} is at least {bound:.4g}" if bound > worst else ""


def _search(
    job: TrainingJob, size: Size, keep: int, name: str, metric: str, limits: Sequence[Limit]
) -> tuple[RankedPlans, list[Candidate]]:
    """The fastest plans of a size; more of them as long as all that were looked at break a limit."""
    evaluate = PlanEvaluator(job.model, job.framework, size.cluster, job.batch)
    wanted = keep
    while True:
        plans: RankedPlans = lookup("planner", name)().search(problem_of(job, size.cluster, wanted), evaluate)
        found = list(_candidates(job, size, plans, metric, limits))
        if len(found) < wanted or wanted >= MOST_JUDGED or not all(c.broken for c in found):
            return plans, found
        wanted = min(4 * wanted, MOST_JUDGED)


def _candidates(
    job: TrainingJob, size: Size, plans: Sequence[tuple[Plan, Estimate]], metric: str, limits: Sequence[Limit]
) -> Iterator[Candidate]:
    for plan, estimate in plans:
        micro = plan.option("micro_batch_size")
        batch = replace(job.batch, micro_batch_size=micro) if isinstance(micro, int) else job.batch
        one = replace(job, plan=plan, batch=batch)
        tables = estimate_tables(
            job.name, estimate, plan=str(plan), accelerators=plan.accelerators, steps=job.steps,
            tokens=batch.tokens, samples=batch.global_batch_size,
        )  # fmt: skip
        row = {key: values[0] for key, values in tables["summary"].items()}
        seconds = job.steps * estimate.seconds
        charge = training_bill(one, size.cluster, estimate, seconds)
        tokens = job.steps * batch.tokens
        row |= {
            "usd": charge.usd, "energy": charge.energy, "carbon": charge.carbon, "power_mean": charge.energy / seconds,
            "usd_per_million_tokens": 1e6 * charge.usd / tokens, "energy_per_token": charge.energy / tokens,
        }  # fmt: skip
        point = {**size.point, "workloads.0.plan": plan_changes(plan)}
        point["workloads.0.batch.micro_batch_size"] = batch.micro_batch_size
        if plan.accelerators < size.cluster.accelerator_count:
            point["workloads.0.nodes"] = _nodes_of(plan.accelerators, size.cluster)
        yield Candidate.of(point, row, metric, limits)


def _nodes_of(accelerators: int, cluster: Cluster) -> int:
    """The first nodes of a cluster that have so many accelerators."""
    nodes = 0
    for group in cluster.groups:
        taken = min(group.count, math.ceil(accelerators / group.node.accelerators))
        nodes, accelerators = nodes + taken, accelerators - taken * group.node.accelerators
        if accelerators <= 0:
            break
    return nodes


def on_the_clock(recipe: Recipe, ranked: Sequence[Candidate], metric: str, limits: Sequence[Limit]) -> list[Candidate]:
    """The candidates judged again by a run, which shares the fabric with everything else that is on it."""
    from simulator.scenario.run import run_scenario

    again = []
    for candidate in ranked:
        scenario = load_scenario(recipe.source, [*recipe.changes, *point_texts(dict(candidate.point)), "what_if={}"])
        row = run_scenario(scenario).of(scenario.training[0].name)
        again.append(Candidate.of(candidate.point, {**candidate.row, **row}, metric, limits))
    return sorted((c for c in again if c.works), key=lambda c: c.objective)


def _why(found: Sequence[Candidate], plans: RankedPlans) -> str:
    if not found:
        fell = ", ".join(f"{n} by {why}" for why, n in plans.reasons.most_common())
        return f"none of {plans.considered} plans works: {fell}"
    broken = ", ".join(f"{x.metric} {100 * -x.slack(found[0].row):.3g} % over" for x in found[0].broken)
    return f"each of the {len(found)} fastest plans breaks a limit, the fastest {broken}"


def _neighbours(ranked: Sequence[Candidate], tried: Sequence[Candidate]) -> tuple[Candidate | None, Candidate | None]:
    """The next smaller and the next larger cluster of the best's node type that were searched."""
    if not ranked or PROFILE not in ranked[0].point:
        return None, None
    best = ranked[0]
    mine = [c for c in tried if c.point[PROFILE] == best.point[PROFILE]]
    smaller = [c for c in mine if c.point[COUNT] < best.point[COUNT]]
    larger = [c for c in mine if c.point[COUNT] > best.point[COUNT]]
    fewer = max(smaller, key=lambda c: (c.point[COUNT], -c.objective), default=None)
    return fewer, min(larger, key=lambda c: (c.point[COUNT], c.objective), default=None)

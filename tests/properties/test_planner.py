"""Planners against brute force, and bounds against the executor."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.hardware import load_node
from simulator.hardware.types import NodeGroup
from simulator.registry import lookup
from simulator.scenario.recommend_training import plan_changes
from simulator.scenario.resolve_stages import stages_of
from simulator.scenario.spec import PlanSpec
from simulator.strategies.pipeline.orders import loop_placement
from simulator.strategies.pipeline.partition import partition_layers
from simulator.strategies.planner.alpa import AlpaPlanner
from simulator.strategies.planner.exhaustive import Exhaustive, MarkovChain
from simulator.strategies.planner.ftpipe import FTPipePlanner, best_fit
from simulator.strategies.planner.galvatron import GalvatronPlanner
from simulator.strategies.planner.merak import MerakPlanner, least_recomputed
from simulator.strategies.planner.mixed import MixedDevices
from simulator.strategies.planner.problem import PlanProblem, RankedPlans, plan_score
from simulator.strategies.planner.slicing import balance_shares, cut_layers, decide_layers, slice_stages
from simulator.strategies.planner.varuna import VarunaPlanner
from simulator.strategies.planner.vpipe import VPipePlanner
from simulator.training.pipeline import PipelineCosts, run_schedule
from simulator.training.plan_evaluator import PlanEvaluator, pipeline_bound
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch
from simulator.workload.plan import Plan
from simulator.workload.stage import Stage
from tests.unit.strategies.training_cases import cluster, model

TIMES = st.floats(0.1, 10, allow_nan=False)


@cache
def problem() -> PlanProblem:
    """A space of a few hundred plans; some do not fit, some do not work."""
    return PlanProblem(
        model("gpt3-6.7b"),
        load_framework("megatron-core-0.8"),
        cluster(),
        Batch(32, 1, 2048),
        tensor_parallel=(1, 2, 8),
        pipeline_parallel=(1, 2, 4),
        micro_batch_size=(1, 2),
        virtual_stages=(1, 2),
        schedule=("1f1b", "interleaved-1f1b", "zb-h1"),
        zero_stage=(0, 1, 3),
        recompute=("none", "full"),
    )


@cache
def evaluator() -> PlanEvaluator:
    space = problem()
    return PlanEvaluator(space.model, space.framework, space.cluster, space.batch)


@cache
def plans() -> list[Plan]:
    return list(problem().plans())


@cache
def brute_force() -> RankedPlans:
    return Exhaustive().search(problem(), lambda plan: evaluator()(plan))  # a plain function has no bounds


def test_bounded_search_is_exhaustive() -> None:
    fast, slow = Exhaustive().search(problem(), evaluator()), brute_force()
    assert [p for p, _ in fast] == [p for p, _ in slow]
    assert [e.seconds for _, e in fast] == [e.seconds for _, e in slow]
    assert fast.considered == slow.considered == slow.evaluated == len(plans())
    assert fast.evaluated < slow.evaluated / 5
    assert sum(fast.reasons.values()) + len(fast) == fast.considered


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bound_is_never_above_the_full_run(data: st.DataObject) -> None:
    plan = data.draw(st.sampled_from(plans()))
    bound, full = evaluator().bound(plan), evaluator()(plan)
    if bound.reason:
        assert not full.feasible
    elif full.feasible:
        assert 0.5 * full.seconds < bound.seconds <= full.seconds


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["1f1b", "gpipe", "interleaved-1f1b"]), st.integers(1, 6), st.integers(1, 8), TIMES, TIMES)
def test_bound_of_equal_stages_is_the_executors_time(
    name: str, ranks: int, groups: int, forward: float, backward: float
) -> None:
    """(m + p − 1)(F + B), and with v chunks the bubble over v."""
    chunks = 3 if name == "interleaved-1f1b" else 1
    schedule = lookup("pipeline", name)()
    microbatches = groups * ranks
    if schedule.check(ranks, microbatches, chunks):
        return
    stages = ranks * chunks
    owner = np.array([stage % ranks for stage in range(stages)])
    f, b = np.full(stages, forward), np.full(stages, backward)
    bound = pipeline_bound(f, b, owner, ranks, microbatches, schedule.traits())
    assert bound == pytest.approx((microbatches * chunks + ranks - 1) * (forward + backward))
    assert bound == pytest.approx(run_schedule(schedule, PipelineCosts(f, b), ranks, microbatches, chunks).makespan)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["1f1b", "gpipe", "zb-h1"]),
    st.lists(st.tuples(TIMES, TIMES, TIMES), min_size=2, max_size=5),
    st.integers(1, 12),
)
def test_bound_of_unequal_stages(name: str, times: list[tuple[float, float, float]], microbatches: int) -> None:
    schedule, ranks = lookup("pipeline", name)(), len(times)
    if schedule.check(ranks, microbatches, 1):
        return
    f, b, w = (np.array(column) for column in zip(*times, strict=True))
    costs = PipelineCosts(f, b + w, input_gradient=b, weight_gradient=w, p2p=0.3)
    bound = pipeline_bound(f, b + w, np.arange(ranks), ranks, microbatches, schedule.traits())
    assert bound <= run_schedule(schedule, costs, ranks, microbatches).makespan * (1 + 1e-9)
    assert schedule.traits().virtual_stage(0, 0, ranks, 1) == loop_placement(0, 0, ranks, 1)


# -- dynamic programmes -----------------------------------------------------------------------------------------------


def all_slicings(layers: int, meshes: list[int], devices: int) -> Iterator[tuple[tuple[int, int, int], ...]]:
    for count in range(1, layers + 1):
        for cuts in itertools.combinations(range(1, layers), count - 1):
            ends = [0, *cuts, layers]
            for chosen in itertools.product(range(len(meshes)), repeat=count):
                if sum(meshes[k] for k in chosen) == devices:
                    yield tuple((a, b, k) for a, b, k in zip(ends, ends[1:], chosen, strict=False))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(TIMES, min_size=1, max_size=4), st.integers(1, 4), st.integers(1, 16), st.floats(0.3, 1.0),
    st.floats(0.0, 2.0), st.floats(1.0, 20.0),
)  # fmt: skip
def test_stage_slicing_is_optimal_within_memory(
    costs: list[float], devices: int, microbatches: int, scaling: float, kept: float, room: float
) -> None:
    """Every slicing tried: a stage with k behind it holds k + 1 micro-batches, and what does not fit is no choice."""
    meshes = [1, 2, 4]

    def latency(first: int, past: int, mesh: int, behind: int) -> float:
        held = (past - first) * (1 + (behind + 1) * kept) / meshes[mesh]
        return sum(costs[first:past]) / meshes[mesh] ** scaling if held <= room else math.inf

    def total(stages: tuple[tuple[int, int, int], ...]) -> float:
        times = [latency(*s, len(stages) - 1 - i) for i, s in enumerate(stages)]
        return math.inf if math.inf in times else sum(times) + (microbatches - 1) * max(times)

    found = slice_stages(latency, len(costs), meshes, devices, microbatches)
    best = min((total(s) for s in all_slicings(len(costs), meshes, devices)), default=math.inf)
    assert found.seconds == pytest.approx(best)
    if found.stages:
        assert total(found.stages) == pytest.approx(found.seconds)
        assert sum(meshes[k] for _, _, k in found.stages) == devices
    near = slice_stages(latency, len(costs), meshes, devices, microbatches, step=0.02)
    assert near.seconds == best or best <= near.seconds <= 1.02 * best


@settings(max_examples=60, deadline=None)
@given(
    st.lists(TIMES, min_size=2, max_size=7), st.lists(TIMES, min_size=2, max_size=4), st.integers(1, 16),
    st.floats(0.2, 1.0),
)  # fmt: skip
def test_layers_are_dealt_to_unlike_stages_at_the_least_latency(
    costs: list[float], speeds: list[float], microbatches: int, most: float
) -> None:
    """Cuts of vPipe and AMP (mixed-devices) against every cut; no stage may hold more than a share of the layers."""
    layers, stages = len(costs), len(speeds)
    total = np.concatenate(([0.0], np.cumsum(costs)))
    times = (total[None, :] - total[:-1, None])[None] / np.array(speeds)[:, None, None]
    count = np.arange(layers + 1)[None, :] - np.arange(layers)[:, None]
    times = np.where((count < 1) | (count > max(1, most * layers)), np.inf, times)

    def latency(cuts: tuple[int, ...]) -> float:
        ends = [0, *cuts, layers]
        each = [times[s, a, b] for s, (a, b) in enumerate(itertools.pairwise(ends))]
        return math.inf if math.inf in each else float(sum(each) + (microbatches - 1) * max(each))

    best = min((latency(c) for c in itertools.combinations(range(1, layers), stages - 1)), default=math.inf)
    found = cut_layers(times, microbatches)
    assert found.seconds == pytest.approx(best)
    if found.layers:
        assert latency(tuple(itertools.accumulate(found.layers[:-1]))) == pytest.approx(best)


@settings(max_examples=60, deadline=None)
@given(st.lists(TIMES, min_size=1, max_size=7), st.integers(1, 3))
def test_best_fit_is_within_grahams_bound_of_the_best(seconds: list[float], ranks: int) -> None:
    """FTPipe's best fit, longest processing time first: at most 4/3 − 1/(3·ranks) of the optimum (Graham 1969)."""
    dealt = best_fit(seconds, [0.0] * len(seconds), ranks, 1.0)
    assert dealt is not None
    assert sorted(itertools.chain.from_iterable(dealt)) == list(range(len(seconds)))
    mine = max(sum(seconds[p] for p in parts) for parts in dealt)
    best = min(
        max(sum(s for s, r in zip(seconds, where, strict=True) if r == rank) for rank in range(ranks))
        for where in itertools.product(range(ranks), repeat=len(seconds))
    )
    assert best * (1 - 1e-9) <= mine <= (4 / 3 - 1 / (3 * ranks)) * best * (1 + 1e-9)


def test_best_fit_leaves_full_ranks_alone_and_says_when_nothing_fits() -> None:
    assert best_fit([4.0, 3.0, 2.0], [1.0, 1.0, 1.0], 2, 1.0) is None
    assert best_fit([4.0, 3.0, 2.0, 1.0], [2.0, 1.0, 1.0, 0.0], 2, 2.0) == [[0, 3], [1, 2]]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 3))
def test_layer_decisions_are_optimal(data: st.DataObject, layers: int, ways: int) -> None:
    """Galvatron's dynamic programme against every way of every layer."""

    def table(of: st.SearchStrategy[float]) -> list[list[float]]:
        return data.draw(st.lists(st.lists(of, min_size=ways, max_size=ways), min_size=layers, max_size=layers))

    seconds, held = table(TIMES), table(st.integers(0, 20).map(float))
    change = data.draw(st.lists(st.lists(TIMES, min_size=ways, max_size=ways), min_size=ways, max_size=ways))
    budget = float(data.draw(st.integers(1, 60)))

    def total(chosen: tuple[int, ...]) -> float:
        if sum(held[i][s] for i, s in enumerate(chosen)) > budget:
            return math.inf
        moves = sum(change[a][b] for a, b in itertools.pairwise(chosen))
        return sum(seconds[i][s] for i, s in enumerate(chosen)) + moves

    best = min(total(c) for c in itertools.product(range(ways), repeat=layers))
    found = decide_layers(seconds, held, change, budget, grain=1.0)
    assert found.seconds == pytest.approx(best)
    if found.chosen:
        assert total(found.chosen) == pytest.approx(best)


@settings(deadline=None)
@given(st.lists(st.tuples(TIMES, st.floats(0.05, 1.0)), min_size=1, max_size=6))
def test_shares_equalise_times_except_where_memory_is_full(devices: list[tuple[float, float]]) -> None:
    """What the planner mixed-devices gives to unlike accelerators (Whale)."""
    speeds, caps = [s for s, _ in devices], [c for _, c in devices]
    shares = balance_shares(speeds, caps)
    if sum(caps) < 1 - 1e-9:
        assert all(math.isnan(s) for s in shares)
        return
    assert sum(shares) == pytest.approx(1)
    times = [share / speed for share, speed in zip(shares, speeds, strict=True)]
    for share, cap, time in zip(shares, caps, times, strict=True):
        assert share <= cap * (1 + 1e-9)
        assert share == pytest.approx(cap) or time == pytest.approx(max(times))


def test_shares_without_memory_limits_follow_speed() -> None:
    assert balance_shares([125, 312, 312], [1, 1, 1]) == pytest.approx((125 / 749, 312 / 749, 312 / 749))


# -- planners ---------------------------------------------------------------------------------------------------------


def test_random_walk_repeats_and_finds_the_best_of_a_small_space() -> None:
    small = replace(problem(), tensor_parallel=(8,), virtual_stages=(1,), schedule=("1f1b",), zero_stage=(0, 1))
    walks = [MarkovChain(proposals=150, seed=3).search(small, evaluator()) for _ in range(2)]
    assert walks[0].best[0] == walks[1].best[0]
    assert walks[0].evaluated == walks[1].evaluated
    assert walks[0].best[1].seconds == Exhaustive().search(small, evaluator()).best[1].seconds


def test_alpas_slices_of_equal_layers_on_one_mesh_are_the_pipelines_closed_form() -> None:
    """p stages of equal layers: t* = (m + p − 1)·t of one stage."""
    found = slice_stages(lambda first, past, mesh, behind: past - first, 12, [4], 16, 10)
    assert [past - first for first, past, _ in found.stages] == [3, 3, 3, 3]
    assert found.seconds == (10 + 4 - 1) * 3


@pytest.mark.parametrize("planner", [AlpaPlanner, GalvatronPlanner, MixedDevices])
def test_planners_are_never_better_than_exhaustive_and_say_what_they_learned(planner: type) -> None:
    found = planner().search(problem(), evaluator())
    best = brute_force().best[1].seconds
    assert plan_score(found.best[1]) <= best  # the equal plans are among theirs
    assert found.notes


@cache
def tight() -> PlanProblem:
    """Four stages of large micro-batches: keeping every activation does not fit on the first of them."""
    return replace(
        problem(), tensor_parallel=(1,), pipeline_parallel=(4,), micro_batch_size=(8,), virtual_stages=(1,),
        schedule=("1f1b",), zero_stage=(1,), recompute=("none", "full"), batch=Batch(256, 1, 2048),
    )  # fmt: skip


def searched(planner: type, space: PlanProblem) -> RankedPlans:
    return planner().search(space, PlanEvaluator(space.model, space.framework, space.cluster, space.batch))


def test_planners_of_unequal_stages_mend_only_the_stage_that_is_full() -> None:
    """Galvatron decides per layer, vPipe moves layers too, Alpa changes meshes: each beats full recomputation."""
    uniform = searched(Exhaustive, tight()).best
    assert uniform[0].recompute == "full"
    by = {p.__name__: searched(p, tight()).best for p in (GalvatronPlanner, VPipePlanner, AlpaPlanner)}
    for plan, estimate in by.values():
        assert estimate.feasible
        assert estimate.seconds < 0.85 * uniform[1].seconds
        assert plan.accelerators == 16
    layers = by["GalvatronPlanner"][0].stages
    again = [sum(g.layers for g in s.groups if g.recompute == "full") for s in layers]
    assert again[0] > 0 == sum(again[1:])  # the first stage holds most micro-batches
    cuts = [sum(s.layers) for s in by["VPipePlanner"][0].stages]
    assert cuts[0] <= cuts[1] and cuts[0] < max(cuts)
    assert by["VPipePlanner"][1].seconds <= by["GalvatronPlanner"][1].seconds


def test_every_plan_of_a_planner_runs_again_as_it_is_written() -> None:
    """A plan is a value: its section of a scenario gives the same plan back."""
    for planner in (GalvatronPlanner, VPipePlanner, AlpaPlanner, FTPipePlanner):
        for plan, _ in searched(planner, tight()):
            section = plan_changes(plan)
            spec = PlanSpec.model_validate(section)
            assert stages_of(spec.stages) == plan.stages


def test_ftpipe_runs_parts_of_the_model_that_are_no_neighbours() -> None:
    found = searched(FTPipePlanner, replace(tight(), micro_batch_size=(1,), recompute=("none",)))
    apart = [p for p, _ in found if any(b - a > 1 for s in p.stages for a, b in itertools.pairwise(s.places))]
    assert apart
    assert all(p.schedule == "mixed-pipe" for p, _ in found)


def test_mixed_nodes_get_layers_by_their_speed_and_degrees_of_their_own() -> None:
    groups = (NodeGroup(load_node("dgx-h100"), 1), NodeGroup(load_node("dgx-a100-640"), 1))
    both = replace(cluster(), groups=groups)
    space = replace(
        problem(), cluster=both, pipeline_parallel=(1, 2), tensor_parallel=(1, 2, 4), recompute=("none",),
        micro_batch_size=(1, 2), zero_stage=(1,), schedule=("1f1b",), virtual_stages=(1,), batch=Batch(64, 1, 2048),
    )  # fmt: skip
    found = searched(MixedDevices, space)
    plan, estimate = found.best
    assert {s.accelerator for s in plan.stages} == {"dgx-h100", "dgx-a100-640"}
    layers = {kind: sum(sum(s.layers) for s in plan.stages if s.accelerator == kind)
              for kind in ("dgx-h100", "dgx-a100-640")}  # fmt: skip
    assert layers["dgx-h100"] > 1.5 * layers["dgx-a100-640"]  # 989 against 312 TFLOP/s at peak
    equal = Exhaustive().search(space, PlanEvaluator(space.model, space.framework, both, space.batch)).best[1]
    assert estimate.seconds < equal.seconds


def test_merak_recomputes_less_on_later_stages_and_beats_full_recomputation() -> None:
    """Stage i of 1F1B holds p − i micro-batches, so what must be recomputed falls along the pipeline."""
    space = replace(
        problem(), tensor_parallel=(1,), pipeline_parallel=(4,), micro_batch_size=(8,), virtual_stages=(1,),
        schedule=("1f1b",), zero_stage=(1,), recompute=("none", "full"), batch=Batch(256, 1, 2048),
    )  # fmt: skip
    evaluate = PlanEvaluator(space.model, space.framework, space.cluster, space.batch)
    uniform = Exhaustive().search(space, evaluate)
    assert uniform.best[0].recompute == "full"  # keeping everything does not fit
    found = MerakPlanner().search(space, evaluate)
    plan, estimate = found.best
    assert plan.recompute == "per-stage"
    counts = plan.option("recomputed_layers")
    assert isinstance(counts, tuple)
    assert list(counts) == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
    assert estimate.feasible
    assert estimate.seconds < uniform.best[1].seconds
    assert plan.schedule == "shifted-critical-path"
    assert estimate.seconds < evaluate(replace(plan, schedule="1f1b")).seconds


@given(
    st.integers(1, 12), st.integers(1, 8), st.floats(0.1, 10), st.floats(0.0, 0.09), st.floats(0.1, 10),
    st.floats(1, 100),
)  # fmt: skip
def test_merak_recomputes_the_fewest_layers_that_fit(
    layers: int, flights: int, kept: float, again: float, states: float, room: float
) -> None:
    """By trying every number: layers·states + flights·(those kept·kept + those recomputed·again) within the room."""
    fits = [
        k
        for k in range(layers + 1)
        if layers * states + flights * ((layers - k) * kept + k * again) <= room * (1 + 1e-12)
    ]
    needed = layers * (states + flights * kept)
    count = least_recomputed(layers, needed, room, flights, kept, again)
    assert count == fits[0] if fits else count > layers


def test_merak_planner_fills_the_memory_of_its_stages() -> None:
    """The executor's own ledger: what the planner returned fits, and two layers more per stage kept do not."""
    space = replace(
        problem(), tensor_parallel=(1,), pipeline_parallel=(4,), micro_batch_size=(8,), virtual_stages=(1,),
        schedule=("1f1b",), zero_stage=(1,), recompute=("none", "full"), batch=Batch(256, 1, 2048),
    )  # fmt: skip
    evaluate = PlanEvaluator(space.model, space.framework, space.cluster, space.batch)
    plan, _ = MerakPlanner().search(space, evaluate).best
    counts = plan.option("recomputed_layers")
    assert isinstance(counts, tuple)
    fewer = tuple(max(0, c - 2) for c in counts)
    assert not evaluate(plan.with_(recomputed_layers=fewer)).feasible


def test_varuna_planner_tries_every_depth_and_micro_batch_that_the_job_allows() -> None:
    """Against a search of its own, 15 of 16 accelerators used at three stages; and its two limits.

    Free messages and room for everything: no pipeline, which has no bubble. A slow network: deep ones, because a
    boundary sends less than the gradients of its stage.
    """
    base = replace(
        problem(), pipeline_parallel=(1, 2, 3, 4, 8), micro_batch_size=(1, 2), zero_stage=(0, 1),
        batch=Batch(80, 1, 2048), keep=3,
    )  # fmt: skip
    depths = {}
    for slower in (1e-6, 1.0, 64.0):
        node = base.cluster.groups[0].node
        link = replace(node.nic, bandwidth=node.nic.bandwidth / slower)
        group = replace(base.cluster.groups[0], node=replace(node, nic=link))
        fabric = replace(base.cluster.fabric, link=link)
        space = replace(base, cluster=replace(base.cluster, groups=(group,), fabric=fabric))
        evaluate = PlanEvaluator(space.model, space.framework, space.cluster, space.batch)
        found = VarunaPlanner().search(space, evaluate)
        times = []
        for ranks, micro, zero in itertools.product((1, 2, 3, 4, 8), (1, 2), (0, 1)):
            replicas = 16 // ranks
            if 80 % (replicas * micro):
                continue
            stages = [Stage((n,)) for n in partition_layers(space.model.num_hidden_layers, ranks)]
            stages[-1] = replace(stages[-1], recompute="none")
            plan = Plan(
                data_parallel=replicas, pipeline_parallel=ranks, zero_stage=zero, recompute="full",
                schedule="varuna" if ranks > 1 else "1f1b", stages=tuple(stages) if ranks > 1 else (),
                options=(("micro_batch_size", micro),),
            )  # fmt: skip
            times.append((plan_score(evaluate(plan)), ranks))
        assert found.best[1].seconds == min(times)[0]
        assert found.considered == len(times)
        depths[slower] = found.best[0].pipeline_parallel
    assert depths[1e-6] <= depths[1.0] <= depths[64.0]
    assert depths[1e-6] < depths[64.0]


def test_runners_up_say_why_they_lose() -> None:
    lines = brute_force().explain()
    assert len(lines) == problem().keep - 1
    assert all("%" in line for line in lines)


def test_nothing_fits_is_an_answer_with_reasons() -> None:
    tight = replace(problem(), tensor_parallel=(1,), pipeline_parallel=(1,), zero_stage=(0,))
    found = Exhaustive().search(tight, evaluator())
    assert not found and found.reasons["memory"] == found.considered > 0
    with pytest.raises(LookupError, match="by memory"):
        _ = found.best

"""Arithmetic of planners on layers of stated cost: latency, room and what fits, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from simulator.strategies.planner.alpa import AlpaPlanner, submeshes
from simulator.strategies.planner.galvatron import GalvatronPlanner
from simulator.strategies.planner.merak import MerakPlanner
from simulator.strategies.planner.problem import LayerCosts, PlanProblem
from simulator.strategies.planner.stage_choice import SHARES, best_of_stage, joined, microbatch_sizes, room_of, ways_of
from simulator.strategies.planner.varuna import VarunaPlanner
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch
from simulator.workload.plan import Plan
from simulator.workload.stage import Stage
from tests.unit.strategies.training_cases import FRAMEWORK, cluster, model

NODE = cluster().groups[0].node
ROOM = NODE.accelerator.memory_usable
LAYERS = 24


@dataclass
class Stated:
    """Layers that cost what the test says, the same under every plan or as ``of`` it."""

    of: Callable[[Plan], LayerCosts]

    def layers(self, plan: Plan, kind: str = "", ends: bool = False) -> list[LayerCosts]:
        """All alike."""
        return [self.of(plan)] * LAYERS


def problem(**given: object) -> PlanProblem:
    """24 layers on 16 accelerators without tensor parallelism."""
    base = PlanProblem(
        model(), FRAMEWORK, cluster(), Batch(64, 1, 1024), tensor_parallel=(1,), pipeline_parallel=(4,),
        micro_batch_size=(1,), zero_stage=(1,), recompute=("none",), sequence_parallel=(False,),
    )  # fmt: skip
    return replace(base, **given)  # type: ignore[arg-type]


def candidates(planner: type, space: PlanProblem, of: Callable[[Plan], LayerCosts]) -> dict[Plan, float]:
    """Plans worth running and their latency by the planner's own formula [s]."""
    found = {candidate.make(SHARES[0]): candidate.seconds for candidate in planner().candidates(space, Stated(of))}
    return {plan: seconds for plan, seconds in found.items() if plan is not None}


@pytest.mark.parametrize(("planner", "depths"), [(GalvatronPlanner, {4}), (AlpaPlanner, {1, 2, 4})])
@pytest.mark.parametrize("sync", [0.0, 0.5])
def test_equal_layers_take_the_pipelines_closed_form(planner: type, depths: set[int], sync: float) -> None:
    """p stages of n layers: (m + p − 1)·n·(t + sync/m), where m micro-batches share what is synchronised once a step.

    Layers that more devices do not speed up: Alpa, too, cuts them into as many stages as micro-batches of one sequence
    leave devices for, up to the four that are allowed.
    """
    found = candidates(planner, problem(), lambda plan: LayerCosts(0.02, 0.0, 0.0, sync))
    assert {plan.pipeline_parallel for plan in found} == depths
    for plan, seconds in found.items():
        p, m = plan.pipeline_parallel, 64 // plan.data_parallel
        assert plan.accelerators == 16
        assert seconds == pytest.approx((m + p - 1) * LAYERS / p * (0.02 + sync / m))


def test_the_mesh_of_a_stage_is_the_faster_one() -> None:
    space = problem(tensor_parallel=(1, 2), micro_batch_size=(1, 2))
    found = candidates(GalvatronPlanner, space, lambda plan: LayerCosts(0.02 / plan.tensor_parallel, 0.0, 0.0))
    assert {plan.tensor_parallel for plan in found if plan.option("micro_batch_size") * plan.data_parallel == 4} == {2}


@pytest.mark.parametrize(
    ("layers", "plain"), [((6, 6, 6, 6), True), ((7, 6, 6, 5), False), ((6, 6, 5, 5), True), ((5, 6, 6, 6), False)]
)
def test_stages_that_a_plan_without_stages_would_have_are_not_written(layers: tuple[int, ...], plain: bool) -> None:
    """Without stages the first ones hold one layer more where they do not divide; the others are told."""
    (way,) = ways_of(problem(), 4, 4, 8)
    plan = joined([(way, count, "") for count in layers], problem(), names=False)
    assert plan.pipeline_parallel == 4 and plan.data_parallel == 4 and plan.option("micro_batch_size") == 1
    assert plan.stages == (() if plain else tuple(Stage((count,)) for count in layers))


def test_a_narrow_stage_keeps_its_own_mesh_beside_the_widest() -> None:
    """Micro-batches of eight sequences: two on each of four ranks, or four on each of two pairs."""
    space = problem(tensor_parallel=(1, 2), micro_batch_size=(2, 4))
    by_width = {way.plan.data_parallel: way for way in ways_of(space, 4, 8, 8)}
    plan = joined([(by_width[4], 10, ""), (by_width[2], 14, "")], space, names=False)
    assert plan.data_parallel == 4 and plan.option("micro_batch_size") == 2
    assert plan.stages == (Stage((10,)), Stage((14,), tensor_parallel=2, data_parallel=2))


def recomputing(plan: Plan) -> LayerCosts:
    """A micro-batch of a kept layer takes a little less than a twelfth of the room; recomputed, none but more time."""
    again = plan.recompute == "full"
    return LayerCosts(0.04 if again else 0.03, 0.0, 0.0 if again else 0.97 * ROOM / 12.1)


@pytest.mark.parametrize(("batch", "again"), [(64, (3, 2, 0, 0)), (8, (0, 0, 0, 0)), (12, (2, 2, 0, 0))])
def test_layers_are_recomputed_where_micro_batches_in_flight_do_not_fit(batch: int, again: tuple[int, ...]) -> None:
    """Stage k of four holds min(m, 4 − k) micro-batches of its six layers: 12 of them fit, the others are recomputed.

    m = 16: 3, 4, 6 and 6 layers are kept with 4, 3, 2 and 1 in flight; m = 3: 4 with 3 in flight; m = 2: all six.
    """
    space = problem(batch=Batch(batch, 1, 1024), recompute=("none", "full"))
    evenly = replace(Plan(pipeline_parallel=4, data_parallel=4, zero_stage=1).with_(micro_batch_size=1))
    staged = MerakPlanner().staged(space, evenly, Stated(recomputing), SHARES[0])
    assert staged is not None and staged.option("recomputed_layers") == again
    ways = candidates(GalvatronPlanner, space, recomputing)
    (plan,) = (p for p in ways if p.data_parallel == 4)
    counts = [sum(group.layers for group in stage.groups if group.recompute == "full") for stage in plan.stages]
    assert tuple(counts or (0,) * 4) == again
    slowest = max(6 * 0.03 + 0.01 * count for count in again)
    total = 24 * 0.03 + 0.01 * sum(again)
    assert ways[plan] == pytest.approx(total + (batch // 4 - 1) * slowest)


def test_meraks_own_schedule_holds_one_more_on_the_last_stage_but_one() -> None:
    space = problem(recompute=("none", "full"))
    ahead = Plan(pipeline_parallel=4, data_parallel=4, zero_stage=1, schedule="shifted-critical-path")
    staged = MerakPlanner().staged(space, ahead, Stated(recomputing), SHARES[0])
    assert staged is not None and staged.option("recomputed_layers") == (3, 2, 2, 0)
    small = MerakPlanner().staged(space, ahead, Stated(recomputing), 0.1)
    assert small is not None and small.option("recomputed_layers") == (6, 6, 6, 5)  # room for 1.2
    states = lambda plan: LayerCosts(0.03, ROOM, 0.0)  # noqa: E731
    assert MerakPlanner().staged(space, ahead, Stated(states), SHARES[0]) is None


@pytest.mark.parametrize(("behind", "batch", "most"), [(0, 64, 12), (1, 64, 8), (3, 64, 4), (3, 2, 8)])
def test_a_stage_takes_the_layers_whose_states_and_micro_batches_fit(behind: int, batch: int, most: int) -> None:
    """Of two ways the fast one holds S + min(m, k + 1)·A per layer with S = A = room/24; the slow one nothing."""
    room = room_of(problem(), NODE, 1.0)
    costs = {"none": LayerCosts(0.1, room / 24.01, room / 24.01), "full": LayerCosts(0.2, 0.0, 0.0)}
    space = problem(batch=Batch(batch, 1, 1024), recompute=("none", "full"))
    ways = ways_of(space, 1, 1, NODE.accelerators)
    times = best_of_stage(space, Stated(lambda plan: costs[plan.recompute]), ways, NODE, behind, LAYERS, 1.0)
    for first in range(LAYERS):
        for past in range(LAYERS + 1):
            layers = past - first
            expected = math.inf if layers < 1 else 0.1 * layers if layers <= most else 0.2 * layers
            assert times.seconds[first, past] == pytest.approx(expected)
    assert np.isinf(times.seconds[:, 0]).all()


def test_room_reserve_and_gaps_are_the_part_of_the_memory_that_stages_may_fill() -> None:
    space = problem(framework=load_framework("megatron-core-0.8"))
    given = space.framework.constants
    for share in SHARES:
        filled = room_of(space, NODE, share) * (1 + given["fragmentation"].value) + given["memory_reserve"].value
        assert filled == pytest.approx(share * ROOM)


def test_sub_meshes_are_powers_of_two_inside_a_node_and_whole_nodes_beyond() -> None:
    """Alpa §5.2: (1, 2^k) and (n, all of a node); beyond four nodes in powers of two here."""
    assert submeshes(8, 4) == [1, 2, 4]
    assert submeshes(8, 16) == [1, 2, 4, 8, 16]
    assert submeshes(8, 128) == [1, 2, 4, 8, 16, 24, 32, 64, 128]
    assert submeshes(4, 24) == [1, 2, 4, 8, 12, 16]


def test_micro_batches_of_a_stage_divide_the_batch_and_need_a_rank_each() -> None:
    assert microbatch_sizes(problem(batch=Batch(48, 1, 1024))) == [1, 2, 3, 4, 6, 8, 12, 16]
    assert microbatch_sizes(problem(batch=Batch(6, 1, 1024), micro_batch_size=(1, 2))) == [1, 2, 3, 6]
    wide = problem(tensor_parallel=(1, 2, 4), micro_batch_size=(1, 2), zero_stage=(1, 2))
    found = ways_of(wide, 8, 4, 4)
    assert {w.plan.zero_stage for w in found} == {1}  # 2 would reduce gradients in every micro-batch
    assert {(w.plan.tensor_parallel, w.plan.data_parallel, w.plan.option("micro_batch_size")) for w in found} == {
        (2, 4, 1), (4, 2, 2),
    }  # fmt: skip


@pytest.mark.parametrize(("ranks", "replicas"), [(1, 16), (3, 5), (4, 4), (5, 3), (32, 0)])
def test_varuna_uses_as_many_whole_pipelines_as_there_are_accelerators_for(ranks: int, replicas: int) -> None:
    """Micro-batches of one and two sequences where they divide the batch of 240; nothing is kept but on the last."""
    space = problem(
        pipeline_parallel=(ranks,), micro_batch_size=(1, 2), batch=Batch(240, 1, 1024), zero_stage=(0, 2, 3)
    )
    plans = list(VarunaPlanner().plans(space))
    fitting = [m for m in (1, 2) if replicas and 240 % (m * replicas) == 0 and ranks <= LAYERS]
    assert [(p.data_parallel, p.option("micro_batch_size"), p.zero_stage) for p in plans] == [
        (replicas, m, 0) for m in fitting
    ]
    for plan in plans:
        assert plan.recompute == "full" and plan.pipeline_parallel == ranks
        if ranks > 1:
            assert [stage.recompute for stage in plan.stages] == [None] * (ranks - 1) + ["none"]
            assert sum(sum(stage.layers) for stage in plan.stages) == LAYERS

"""What a stage of some layers takes under each way of running it on its devices, and the best way that fits.

Planners of unequal stages share this: a *way* is a plan of one stage (degrees, sharding, recomputation). Costs of
layers come from the evaluation; what they do not show (workspace, fragmentation of a real run) is left to ``share``,
the part of the memory that a stage may fill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.hardware.types import Node
from simulator.strategies.planner.problem import LayerPricing, PlanProblem, RankedPlans
from simulator.workload.plan import Plan
from simulator.workload.stage import Stage

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate

__all__ = [
    "Candidate",
    "StageTimes",
    "Way",
    "best_of_stage",
    "group_sizes",
    "joined",
    "microbatch_sizes",
    "run_best",
    "ways_of",
]

SHARES = (0.97, 0.9, 0.8, 0.65)
"""Parts of the memory that stages may fill, tried in turn until a plan fits."""

OWN = ("tensor_parallel", "sequence_parallel", "data_parallel", "zero_stage", "recompute")
"""What ways differ in."""

Floats = NDArray[np.float64]


class Way(NamedTuple):
    """One way to run a stage: a plan of its own mesh, for micro-batches of ``whole`` sequences over all its ranks."""

    plan: Plan
    whole: int


@dataclass(frozen=True)
class StageTimes:
    """Best time of a stage by the layers it holds, and which way that is.

    Attributes
    ----------
    seconds
        Of one micro-batch, infinite where nothing fits [first, past].
    way
        Index of the way [first, past].
    """

    seconds: Floats
    way: NDArray[np.int64]


class Candidate(NamedTuple):
    """A plan that is worth running: its latency by the planner's own formula [s], and how to make it in less room."""

    seconds: float
    make: Callable[[float], Plan | None]


def ways_of(problem: PlanProblem, devices: int, whole: int, per_node: int) -> list[Way]:
    """Every way to run a stage on ``devices``; micro-batches on a rank are those the problem allows."""
    found = []
    for tp in problem.tensor_parallel:
        dp, rest = divmod(devices, tp)
        if rest or not dp or tp > per_node or whole % dp or whole // dp not in problem.micro_batch_size:
            continue
        splits = [s for s in problem.sequence_parallel if tp > 1 or not s] or [False]
        options = {**problem.settled, "micro_batch_size": whole // dp}
        for split in splits:
            for zero in (z for z in problem.zero_stage if z < 2):  # gathering or scattering in every micro-batch
                found += [
                    Way(Plan(tp, data_parallel=dp, sequence_parallel=split, zero_stage=zero, recompute=recompute,
                             precision=problem.precision[0], options=tuple(sorted(options.items()))), whole)
                    for recompute in problem.recompute
                ]  # fmt: skip
    return found


def microbatch_sizes(problem: PlanProblem) -> list[int]:
    """Sequences of a micro-batch over all ranks of a stage that divide the batch, from few to many."""
    batch = problem.batch.global_batch_size
    most = problem.size * max(problem.micro_batch_size)
    return [w for w in range(1, min(batch, most) + 1) if batch % w == 0]


def room_of(problem: PlanProblem, node: Node, share: float) -> float:
    """Bytes that states and activations of a rank may take."""
    constants = problem.framework.constants
    reserve, fragmentation = constants.get("memory_reserve"), constants.get("fragmentation")
    usable = share * node.accelerator.memory_usable - (reserve.value if reserve else 0.0)
    return usable / (1 + (fragmentation.value if fragmentation else 0.0))


def group_sizes(layers: int, most: int) -> list[int]:
    """Layers of each group when they are joined into at most so many, as even as can be."""
    return [len(part) for part in np.array_split(np.arange(layers), min(layers, most))]


def grouped(values: Sequence[float], groups: int) -> Floats:
    """Sums of neighbours, in so many groups as even as can be."""
    return np.array([float(part.sum()) for part in np.array_split(np.array(values, dtype=np.float64), groups)])


def best_of_stage(
    problem: PlanProblem, evaluate: LayerPricing, ways: Sequence[Way], node: Node, behind: int, groups: int,
    share: float = SHARES[0],
) -> StageTimes:  # fmt: skip
    """The fastest way that fits for every run of layer groups.

    Parameters
    ----------
    behind
        Stages behind it: under 1F1B it holds so many micro-batches and one more.
    groups
        Layers are joined into so many groups.
    """
    seconds = np.full((groups, groups + 1), np.inf)
    chosen = np.full((groups, groups + 1), -1, dtype=np.int64)
    room = room_of(problem, node, share)
    for index, way in enumerate(ways):
        microbatches = problem.batch.global_batch_size // way.whole
        layers = evaluate.layers(way.plan, node.name, ends=True)
        time = _runs([c.seconds + c.sync / microbatches for c in layers], groups)
        flights = min(microbatches, behind + 1)
        held = _runs([c.states + flights * c.activations for c in layers], groups)
        better = (held <= room) & (time < seconds) & (np.arange(groups + 1) > np.arange(groups)[:, None])
        seconds[better], chosen[better] = time[better], index
    return StageTimes(seconds, chosen)


def _runs(values: Sequence[float], groups: int) -> Floats:
    """Sums of the groups first .. past−1 [first, past]."""
    total = np.concatenate(([0.0], np.cumsum(grouped(values, groups))))
    sums: Floats = total[None, :] - total[:-1, None]
    return sums


def joined(stages: Sequence[tuple[Way, int, str]], problem: PlanProblem, names: bool) -> Plan:
    """A plan of stages: the way, the layers and the node type of each; ``names`` says where they must sit."""
    whole = stages[0][0].whole
    widest = max(way.plan.data_parallel for way, _, _ in stages)
    base = stages[0][0].plan
    options = tuple(sorted({**problem.settled, "micro_batch_size": whole // widest}.items()))
    plan = replace(base, pipeline_parallel=len(stages), data_parallel=widest, options=options)
    kept = []
    for way, layers, kind in stages:
        own = {n: v for n in OWN if (v := getattr(way.plan, n)) != getattr(plan, n)}
        kept.append(Stage((layers,), accelerator=kind if names else "", **own))
    plan = replace(plan, stages=tuple(kept))
    return plan if names else _plain(plan)


def _plain(plan: Plan) -> Plan:
    """Stages of one mesh that hold as many layers are written as a plan without stages."""
    sizes = [sum(stage.layers) for stage in plan.stages]
    alike = len(set(plan.stage_plans)) == 1
    even = sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1
    return plan.stage_plans[0] if alike and even else plan


def run_best(
    candidates: Iterable[Candidate], evaluate: Callable[[Plan], Estimate], found: RankedPlans, keep: int
) -> RankedPlans:
    """Run the candidates of the least latency, each in less room where it does not fit."""
    ranked = sorted(candidates, key=lambda c: c.seconds)
    seen = {plan for plan, _ in found}
    found.considered += len(ranked)
    ratios: list[float] = []
    for candidate in ranked[: 4 * keep]:
        for share in SHARES:
            plan = candidate.make(share)
            if plan is None or plan in seen:
                found.reasons["memory" if plan is None else "equal"] += 1
                break
            seen.add(plan)
            estimate = evaluate(plan)
            if estimate.feasible:
                found.predicted[plan] = candidate.seconds
                ratios.append(candidate.seconds / estimate.seconds)
            if estimate.feasible or share == SHARES[-1] or not estimate.reason.startswith("out of memory"):
                found.add(plan, estimate, keep)
                break
            found.evaluated += 1
    found.reasons["slower"] += max(0, len(ranked) - 4 * keep)
    if ratios:
        span = f"{min(ratios):.2f} to {max(ratios):.2f}"
        found.notes.append(f"the planner's own latency of {len(ratios)} plans was {span} times their step")
    return found

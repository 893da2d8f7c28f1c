"""Plans of a planner's own kind beside the best plans of equal stages, and what they gain on these."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from simulator.strategies.planner.exhaustive import Exhaustive
from simulator.strategies.planner.problem import LayerPricing, PlanProblem, RankedPlans
from simulator.strategies.planner.stage_choice import Candidate, run_best
from simulator.workload.plan import Plan

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate

__all__ = ["Kind", "gain", "search_beside_equal"]


class Kind(NamedTuple):
    """The plans that a planner adds, in the words of its notes.

    Attributes
    ----------
    name, best
        Of all of them, and of the best.
    equal
        What the others have, against which the gain is told.
    holds
        Whether a plan is one of them.
    """

    name: str
    best: str
    equal: str
    holds: Callable[[Plan], bool]


def search_beside_equal(
    problem: PlanProblem, evaluate: Callable[[Plan], Estimate], kind: Kind,
    candidates: Callable[[LayerPricing], Iterable[Candidate]],
) -> RankedPlans:  # fmt: skip
    """The best plans of the problem, then the candidates of the least latency, where layers have one price each."""
    found = Exhaustive().search(problem, evaluate)
    uniform = len({g.node.name for g in problem.cluster.groups}) == 1
    if not isinstance(evaluate, LayerPricing) or not uniform:
        found.notes.append(f"{kind.name} were not searched: they need one kind of node")
        return found
    equal = found[0][1].seconds if found else math.nan
    run_best(candidates(evaluate), evaluate, found, problem.keep)
    found.notes.append(gain(found, equal, kind))
    return found


def gain(found: RankedPlans, equal: float, kind: Kind) -> str:
    """What the best of the kind brings against a step of ``equal`` seconds (NaN: there is none)."""
    best = next(((plan, estimate) for plan, estimate in found if kind.holds(plan)), None)
    if best is None:
        return f"none of the {kind.name} is among the best plans"
    plan, estimate = best
    faster = f", {equal / estimate.seconds:.3f} times as fast as the best of {kind.equal}" if equal == equal else ""
    return f"{kind.best}: {estimate.seconds:.4g} s{faster} ({plan})"

"""Passes that follow a per-tensor decision: Checkmate and DTR (recompute), and the base of those that also swap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, Protocol

from simulator.registry import register
from simulator.strategies.offload.copies import Route, evict_activations
from simulator.strategies.protocols import PassStage
from simulator.strategies.recompute.dropping import recompute_tensors
from simulator.strategies.recompute.planning import Action, LayerProblem, greedy, optimal
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Mesh, Op, Tier
from simulator.workload.plan import Plan

__all__ = ["DTR", "Checkmate", "TensorPlanner", "View"]

ROUNDS = 6
"""Times the budget is corrected by what workspace and fragmentation turned out to take."""


class View(Protocol):
    """What the decision needs to know of the job (see ``simulator.training.decisions.JobView``)."""

    plan: Plan

    @property
    def mesh(self) -> Mesh:
        """Axis sizes."""

    @property
    def layers(self) -> tuple[Block, ...]:
        """The distinct layers as the other passes leave them."""

    def seconds(self, op: Op) -> float:
        """Time of an Op [s]."""

    def copy_seconds(self, size: float, tier: Tier = Tier.HOST) -> float:
        """Time of moving so many bytes to a tier [s]."""

    def pass_seconds(self, block: Block) -> tuple[float, float]:
        """Forward and backward of a layer [s]."""

    def room(self, plan: Plan) -> float:
        """HBM left on the fullest rank [B], negative when it does not fit."""

    def activations(self, plan: Plan) -> float:
        """Peak of saved activations on that rank [B]."""


class TensorPlanner:
    """Keep, recompute or swap each saved tensor of a layer under a memory budget.

    ``activation_share`` is the share of the saved bytes that may stay; without it the share is what fits: 1 where the
    plan fits as it is, else lowered until the peak is within the device's memory.
    """

    name: str
    stage = PassStage.RECOMPUTE
    actions: ClassVar[tuple[Action, ...]] = ("recompute",)
    solver: ClassVar[Literal["greedy", "swap-first", "optimal"]] = "optimal"
    tier: ClassVar[Tier] = Tier.HOST

    @property
    def decision(self) -> str:
        """Option that holds the decision: pairs of tensor name and action."""
        return "recompute_tensors" if self.stage is PassStage.RECOMPUTE else "offload_tensors"

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """The share must be one."""
        share = plan.option("activation_share")
        return (
            "" if share is None or 0 <= float(str(share)) <= 1 else f"activation_share {share} is not between 0 and 1"
        )

    def decide(self, view: View) -> Mapping[str, object]:
        """The decision, as options."""
        plan = view.plan
        if plan.option(self.decision) is not None:
            return {}
        share = plan.option("activation_share")
        if share is not None:
            return {self.decision: self._choose(view, float(str(share)))}
        free, chosen = view.room(plan), tuple[tuple[str, str], ...]()
        part, whole = 1.0, view.activations(plan)
        for _ in range(ROUNDS):
            if free >= 0 or part <= 0 or not whole:
                break
            part = max(0.0, part + 1.02 * free / whole)
            chosen = self._choose(view, part)
            free = view.room(plan.with_(**{self.decision: chosen}))
        return {self.decision: chosen}

    def _choose(self, view: View, share: float) -> tuple[tuple[str, str], ...]:
        found: dict[str, str] = {}
        for block in view.layers:
            forward, backward = view.pass_seconds(block) if self.hides(view.plan) else (0.0, 0.0)
            whole = sum(t.bytes(view.mesh) for t in block.saved)
            problem = LayerProblem(
                block, view.mesh, view.seconds, self._swap(view), forward, backward, share * whole, self.actions
            )
            found |= self.solve(problem)
        return tuple(sorted(found.items()))

    def hides(self, plan: Plan) -> bool:
        """Whether transfers run beside computation."""
        return True

    def _swap(self, view: View) -> Callable[[float], float]:
        return lambda size: view.copy_seconds(size, self.tier)

    def solve(self, problem: LayerProblem) -> Mapping[str, str]:
        """The choice for one layer: ``recompute``, ``swap``, or ``swap 0.4`` for a share of the tensor."""
        if self.solver == "optimal":
            return optimal(problem)
        return greedy(problem, swap_first=self.solver == "swap-first")

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Recompute and swap what was decided."""
        chosen = plan.option(self.decision)
        if block.name != "layer" or not isinstance(chosen, tuple):
            return block
        actions: dict[str, str] = dict(chosen)
        block = recompute_tensors(block, {n for n, a in actions.items() if a == "recompute"})
        prefetch = int(str(plan.option("offload_prefetch", 1)))
        swaps = {n: float(a.removeprefix("swap") or 1.0) for n, a in actions.items() if a.startswith("swap")}
        return evict_activations(block, {n: Route(self.tier, prefetch=prefetch, share=s) for n, s in swaps.items()})


@register(
    "checkmate", kind="pass", area="training", family="recompute",
    cites=("Jain et al. 2020 (Checkmate), arXiv 1910.02653",),
    catalogue=("Checkmate",), validated_by="closed_form",
)  # fmt: skip
class Checkmate(TensorPlanner):
    """The tensors whose recomputation costs least within the budget, by mixed-integer programming (per layer)."""


@register(
    "dtr", kind="pass", area="training", family="recompute", cites=("Kirisame et al. 2021 (DTR), arXiv 2006.09616",),
    catalogue=("DTR",), validated_by="closed_form",
)  # fmt: skip
class DTR(TensorPlanner):
    """Evicts the tensor of least recomputation cost per byte until the budget is met, in every layer alike.

    DTR itself decides while it runs and takes more from layers whose tensors are older; over a stack of layers that
    costs within 6 % of a layer's time of what this does (``tests/analytic/test_dtr_online.py``).
    """

    solver = "greedy"

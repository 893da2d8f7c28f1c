"""What a planner is asked, and what it answers: ranked plans, how many others there were, and why they lose."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from simulator.workload.framework import Framework
from simulator.workload.jobs import Batch
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan

if TYPE_CHECKING:
    from simulator.hardware.types import Cluster
    from simulator.results.estimate import Estimate

__all__ = ["Bounding", "LayerCosts", "LayerPricing", "PlanBound", "PlanProblem", "RankedPlans", "plan_score"]


@dataclass(frozen=True)
class PlanProblem:
    """A job without its plan, and the values each decision may take.

    Attributes
    ----------
    model, framework, cluster, batch
        What is to run where; ``batch.micro_batch_size`` is the default.
    accelerators
        How many to use; 0 = all of the cluster.
    tensor_parallel, pipeline_parallel, context_parallel, expert_parallel
        Degrees allowed; data parallelism takes the rest.
    micro_batch_size, virtual_stages, schedule, zero_stage, recompute, precision, sequence_parallel, offload
        Values allowed. Chunks above 1 go with schedules that take them; those that do not are infeasible, not dropped.
    options
        Further options of strategies with the values allowed.
    keep
        Plans to return.
    """

    model: ModelSpec
    framework: Framework
    cluster: Cluster
    batch: Batch
    accelerators: int = 0
    tensor_parallel: tuple[int, ...] = (1, 2, 4, 8)
    pipeline_parallel: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    context_parallel: tuple[int, ...] = (1,)
    expert_parallel: tuple[int, ...] = (1,)
    micro_batch_size: tuple[int, ...] = (1, 2, 4)
    virtual_stages: tuple[int, ...] = (1,)
    schedule: tuple[str, ...] = ("1f1b",)
    zero_stage: tuple[int, ...] = (0, 1, 2, 3)
    recompute: tuple[str, ...] = ("none", "selective", "full")
    precision: tuple[str, ...] = ("bf16",)
    sequence_parallel: tuple[bool, ...] = (False, True)
    offload: tuple[str, ...] = ("none",)
    options: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    keep: int = 5

    @property
    def layers(self) -> int:
        """Transformer layers of all stacks of the model."""
        stacks = (self.model, *self.model.towers, *((self.model.encoder,) if self.model.encoder else ()))
        return sum(count for stack in stacks for _, count in stack.layers)

    @property
    def settled(self) -> dict[str, object]:
        """Options that have one value, or the first of several: for planners that decide something else."""
        return {name: values[0] for name, values in self.options.items()}

    @property
    def size(self) -> int:
        """Accelerators to use."""
        return self.accelerators or self.cluster.accelerator_count

    def plans(self) -> Iterator[Plan]:
        """Every plan, degrees that do not multiply to the size left out; the same order every time."""
        names = sorted(self.options)
        degrees = itertools.product(
            self.tensor_parallel, self.pipeline_parallel, self.context_parallel, self.expert_parallel
        )
        for tp, pp, cp, ep in degrees:
            dp, rest = divmod(self.size, tp * pp * cp)
            if rest or not dp:
                continue
            splits = [s for s in self.sequence_parallel if tp > 1 or not s] or [False]
            for sp, zero, recompute, precision, offload in itertools.product(
                splits, self.zero_stage, self.recompute, self.precision, self.offload
            ):
                base = Plan(tp, cp, pp, dp, ep, sp, 1, "1f1b", zero, recompute, precision, offload)
                yield from self._scheduled(base, names)

    def _scheduled(self, base: Plan, names: list[str]) -> Iterator[Plan]:
        """``base`` with every schedule, chunk count, micro-batch and option."""
        piped = base.pipeline_parallel > 1
        schedules = self.schedule if piped else self.schedule[:1]
        for schedule, chunks in itertools.product(schedules, self.virtual_stages if piped else (1,)):
            for size, *values in itertools.product(self.micro_batch_size, *(self.options[n] for n in names)):
                extra = {"micro_batch_size": size, **dict(zip(names, values, strict=True))}
                options = tuple(sorted(extra.items()))
                yield replace(base, schedule=schedule, virtual_stages=chunks, options=options)


class PlanBound(NamedTuple):
    """What is known of a plan before it is run: a lower bound of its step [s], or why it cannot work."""

    seconds: float
    reason: str = ""


@runtime_checkable
class Bounding(Protocol):
    """An evaluation that can also bound a plan at a small part of its cost."""

    def bound(self, plan: Plan) -> PlanBound:
        """Lower bound of the step time; infinite with a reason where the plan cannot work."""


@dataclass(frozen=True)
class LayerCosts:
    """What one transformer layer costs under a plan.

    Attributes
    ----------
    seconds
        Forward and backward of one micro-batch [s].
    states, activations
        Bytes of its states on one rank, and of what one micro-batch keeps.
    sync
        Reduction of its gradients and gathering of its parameters, once per step [s].
    """

    seconds: float
    states: float
    activations: float
    sync: float = 0.0


@runtime_checkable
class LayerPricing(Protocol):
    """An evaluation that can also price the layers of a plan one by one."""

    def layers(self, plan: Plan, kind: str = "", ends: bool = False) -> list[LayerCosts]:
        """Costs in model order on nodes of a kind; with ``ends`` the embedding and the head count to their layers."""


def plan_score(estimate: Estimate) -> float:
    """What planners minimise: seconds of a step, infinite where it is infeasible."""
    return estimate.seconds if estimate.feasible and not math.isnan(estimate.seconds) else math.inf


class RankedPlans(list[tuple[Plan, "Estimate"]]):
    """Plans with their estimates, best first.

    Attributes
    ----------
    considered, evaluated
        Plans looked at, and those that were run in full; the others were bounded away.
    reasons
        How many plans fell for which reason: ``memory``, ``sizes`` (degrees and schedules that do not work) or
        ``slower`` (a lower bound of their step is above the plans returned).
    notes
        What the planner learned beside the plans.
    predicted
        Seconds by the planner's own formula of plans that fit and were run in full, where it has one.
    """

    def __init__(self, found: list[tuple[Plan, Estimate]] | None = None) -> None:
        super().__init__(found or [])
        self.considered = 0
        self.evaluated = 0
        self.reasons: Counter[str] = Counter()
        self.notes: list[str] = []
        self.predicted: dict[Plan, float] = {}

    @property
    def best(self) -> tuple[Plan, Estimate]:
        """The best plan.

        Raises
        ------
        LookupError
            If no plan works; the message says why the others fell.
        """
        if not self:
            fell = ", ".join(f"{n} by {why}" for why, n in self.reasons.most_common())
            raise LookupError(f"none of {self.considered} plans works: {fell or 'there was none'}")
        return self[0]

    def explain(self) -> list[str]:
        """One line per runner-up: how much slower than the best, and which parts of the time make the difference."""
        if not self:
            return []
        _, best = self[0]
        lines = []
        for plan, estimate in self[1:]:
            keys = {*best.time.parts, *estimate.time.parts}
            gaps = {k: estimate.time.parts.get(k, 0.0) - best.time.parts.get(k, 0.0) for k in keys}
            worse = sorted(((v, k) for k, v in gaps.items() if v > 0), reverse=True)[:2]
            why = ", ".join(f"{k} +{v:.3g} s" for v, k in worse)
            lines.append(f"{plan}: +{100 * (estimate.seconds / best.seconds - 1):.1f} % ({why or 'equal parts'})")
        return lines

    def add(self, plan: Plan, estimate: Estimate, keep: int) -> None:
        """Enter an evaluated plan if it is among the best ``keep``."""
        self.evaluated += 1
        if plan_score(estimate) == math.inf:
            self.reasons["memory" if estimate.reason.startswith("out of memory") else "sizes"] += 1
            return
        place = next((i for i, (_, e) in enumerate(self) if plan_score(estimate) < plan_score(e)), len(self))
        self.insert(place, (plan, estimate))
        if len(self) > keep:
            self.pop()
            self.reasons["slower"] += 1

    def limit(self, keep: int) -> float:
        """Step time that a further plan must beat [s]."""
        return plan_score(self[-1][1]) if len(self) >= keep else math.inf

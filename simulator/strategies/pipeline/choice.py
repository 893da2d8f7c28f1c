"""The schedule that a plan asks for, with the plan's options in it."""

from __future__ import annotations

from typing import Any, cast

from simulator.registry import lookup
from simulator.strategies.protocols import PipelineSchedule
from simulator.workload.plan import Plan

__all__ = ["schedule_of"]


def schedule_of(plan: Plan) -> PipelineSchedule:
    """An instance of the plan's schedule; one with options of its own reads them in ``for_plan(plan)``."""
    cls: Any = lookup("pipeline", plan.schedule)
    made = cls.for_plan(plan) if hasattr(cls, "for_plan") else cls()
    return cast(PipelineSchedule, made)

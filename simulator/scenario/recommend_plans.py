"""Time, memory and traffic of the plans a planner returned, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from simulator.results.estimate import LINK_CLASSES
from simulator.workload.plan import Plan

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate

__all__ = ["TIMES", "plan_rows"]

TIMES = ("seconds", "computation", "communication", "bubble", "other")
"""What a step is divided into; ``other`` is the optimizer, transfers to other tiers and the host."""

_COMPUTED = ("forward", "backward", "recompute")


def plan_rows(plans: Sequence[tuple[Plan, Estimate]]) -> tuple[dict[str, Any], ...]:
    """One row per plan: step and its parts [s], memory of the fullest stage [B], bytes of an accelerator by link."""
    return tuple(_row(plan, estimate) for plan, estimate in plans)


def _row(plan: Plan, estimate: Estimate) -> dict[str, Any]:
    parts = estimate.time.parts
    computation = sum(parts.get(name, 0.0) for name in _COMPUTED)
    communication = sum(seconds for name, seconds in parts.items() if name.endswith("_parallel"))
    bubble, fullest = parts.get("bubble", 0.0), estimate.memory.fullest
    return {
        "plan": str(plan), "seconds": estimate.seconds, "computation": computation, "communication": communication,
        "bubble": bubble, "other": estimate.seconds - computation - communication - bubble,
        "memory_peak": fullest.peak, "memory_capacity": fullest.capacity,
        **{f"bytes_{link}": size for link in LINK_CLASSES if (size := estimate.traffic.by_link.get(link, 0.0)) > 0},
    }  # fmt: skip

"""What executing one training step gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simulator.training.pipeline_timeline import PipelineTimeline
from simulator.training.second_order import SecondOrder

__all__ = ["StepRun"]


@dataclass(frozen=True)
class StepRun:
    """One executed step.

    Attributes
    ----------
    seconds
        Whole step.
    parts
        Exposed seconds by category of the busiest rank; they add up to ``seconds``.
    timeline
        Pipeline tasks.
    busiest
        That rank.
    second_order
        What fills the bubbles.
    """

    seconds: float
    parts: Mapping[str, float]
    timeline: PipelineTimeline
    busiest: int
    second_order: SecondOrder | None = None

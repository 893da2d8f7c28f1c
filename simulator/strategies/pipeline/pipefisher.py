"""PipeFisher: second-order work in the bubbles of an ordinary schedule."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.pipeline.one_f_one_b import OneFOneB

__all__ = ["PipeFisher"]


@register(
    "pipefisher",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Osawa et al., PipeFisher, arXiv 2211.14133",),
    catalogue=("PipeFisher",),
    validated_by="mechanism",
)
class PipeFisher(OneFOneB):
    """1F1B whose idle slots take curvature and inversion work (K-FAC); without such work it is 1F1B.

    The work is not part of the order: ``simulator.training.pipeline_fill.fill_bubbles`` places it.
    """

    name = "pipefisher"

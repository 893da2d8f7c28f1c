"""PipeFisher: second-order work in the bubbles of an ordinary schedule."""

from __future__ import annotations

from dataclasses import replace

from simulator.registry import Claim, register
from simulator.strategies.pipeline.one_f_one_b import OneFOneB
from simulator.strategies.protocols import ScheduleTraits
from simulator.workload.plan import Plan

__all__ = ["PipeFisher"]


@register(
    "pipefisher",
    kind="schedule",
    area="training",
    family="pipeline",
    cites=("Osawa et al., PipeFisher, arXiv 2211.14133",),
    catalogue=("PipeFisher",),
    claims=(
        Claim(
            "BERT-Base and -Large: utilisation greatly improved, simulated training time 50 to 75 %",
            "arXiv 2211.14133 abstract",
        ),
    ),
    validated_by="ratio",
)
class PipeFisher(OneFOneB):
    """1F1B whose idle slots take the curvature and inversion work of K-FAC, over as many steps as that needs.

    The work is not part of the order: ``simulator.training.second_order`` places it. Every step pays for multiplying
    its gradients by the inverses.
    """

    name = "pipefisher"

    def traits(self) -> ScheduleTraits:
        """As 1F1B, with second-order work in the bubbles."""
        return replace(super().traits(), second_order=True)

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """What is left out."""
        return (
            "pipefisher: K-FAC of the dense layers; not modelled: that fewer steps are needed, factors of experts, the "
            "exchange of factors among replicas, activations that wait for a bubble",
        )

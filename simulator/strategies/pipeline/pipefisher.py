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
        Claim(
            "a BERT-Base layer on a V100 in fp32 at 32 × 128 tokens: forward 6.1 ms, backward 9.7, factors 16.2, "
            "inversions 49.1, products with the inverses 3.9, 94.5 MiB of factors",
            "github.com/kazukiosawa/pipe-fisher prof/bert-base_time_memory_v100.csv @16ee8db",
        ),
    ),
    validated_by="published",
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

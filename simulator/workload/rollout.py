"""Reinforcement learning on generated text: what an iteration does before it updates the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from simulator.workload.jobs import Deployment

__all__ = ["Rollout"]


@dataclass(frozen=True)
class Rollout:
    """Generation of the sequences that one step trains on.

    Attributes
    ----------
    method
        Name of a registered method: ``ppo``, ``grpo``.
    deployment
        The engine that generates: all replicas, with the requests of one iteration.
    placement
        ``colocated``: training and generation take turns on the same accelerators; ``disaggregated``: generation has
        its own.
    lag
        Updates that generation runs ahead (disaggregated only): 0 waits, 1 overlaps with stale weights.
    offload
        Colocated: training states leave to host memory while the engine generates.
    """

    method: str
    deployment: Deployment
    placement: Literal["colocated", "disaggregated"] = "colocated"
    lag: int = 0
    offload: bool = True

    @property
    def extra_accelerators(self) -> int:
        """Accelerators beside those of the training plan."""
        mine = self.deployment.plan.accelerators * self.deployment.replicas
        return mine if self.placement == "disaggregated" else 0

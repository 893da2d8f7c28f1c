"""Reinforcement learning on generated text: which models score and learn what was generated."""

from __future__ import annotations

from typing import Protocol

from simulator.registry import register

__all__ = ["GRPO", "PPO", "RolloutMethod"]


class RolloutMethod(Protocol):
    """The stages between generation and the next one, counted in models of the actor's size."""

    name: str
    scoring_passes: int
    """Forward passes over the generated sequences (the preparation stage of HybridFlow, arXiv 2409.19256)."""
    updated_models: int
    """Models that are trained."""


@register(
    "ppo", kind="policy", area="training", family="rollout",
    cites=("Sheng et al. 2024 (HybridFlow), arXiv 2409.19256",), validated_by="closed_form",
)  # fmt: skip
class PPO:
    """Actor, reference, critic and reward score what was generated; actor and critic learn from it."""

    name: str
    scoring_passes, updated_models = 4, 2


@register(
    "grpo", kind="policy", area="training", family="rollout",
    cites=("Shao et al. 2024 (DeepSeekMath, GRPO), arXiv 2402.03300",), validated_by="closed_form",
)  # fmt: skip
class GRPO:
    """No critic: groups of answers are each other's baseline; actor and reference score, rewards come from rules."""

    name: str
    scoring_passes, updated_models = 2, 1

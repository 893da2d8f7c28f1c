"""From the written goal of a training job to the goal itself."""

from __future__ import annotations

from collections.abc import Callable

from simulator.scenario.spec_goal import COMPUTE_OPTIMAL, GoalSpec
from simulator.workload.goal import TOKENS_PER_PARAMETER, Goal

__all__ = ["goal_of"]


def goal_of(spec: GoalSpec | None, report: Callable[[tuple[str, ...], str], None]) -> Goal | None:
    """The goal; what does not go together is reported with its path inside ``goal``."""
    if spec is None:
        return None
    if (spec.tokens is None) == (spec.target_loss is None):
        report((), "give either 'tokens' (a budget, or compute-optimal) or 'target_loss'")
    if spec.reference_batch_size is not None and spec.critical_batch_size is None:
        report(("reference_batch_size",), "means nothing without 'critical_batch_size', which says what batches cost")
    if spec.extra_tokens and not spec.because:
        report(("extra_tokens",), "say in 'because' where the figure comes from: a paper, or a run of your own")
    tokens = -TOKENS_PER_PARAMETER if spec.tokens == COMPUTE_OPTIMAL else float(spec.tokens or 0.0)
    return Goal(
        tokens, spec.target_loss or 0.0, float(spec.critical_batch_size or 0.0),
        float(spec.reference_batch_size or 0.0), spec.extra_tokens, spec.because,
    )  # fmt: skip

"""From seconds per step to the time until a goal is reached."""

from __future__ import annotations

import math

from simulator.units import format_quantity
from simulator.workload.counting import active_parameters, parameters
from simulator.workload.goal import batch_factor, loss_after
from simulator.workload.jobs import TrainingJob

__all__ = ["goal_metrics", "goal_notes", "goal_reason"]


def _size(job: TrainingJob) -> float:
    """Parameters that the laws of loss are asked with: those a token meets."""
    return float(active_parameters(job.model))


def goal_reason(job: TrainingJob) -> str:
    """Empty, or why the job's goal cannot be reached."""
    return job.goal.reason(_size(job)) if job.goal else ""


def goal_metrics(job: TrainingJob, seconds: float) -> dict[str, float]:
    """Figures of the way to the goal, ``seconds`` per step; empty without a goal."""
    if job.goal is None:
        return {}
    needed = job.goal.tokens_needed(_size(job), job.batch.tokens)
    steps = math.ceil(needed / job.batch.tokens - 1e-9)
    found = {"tokens_needed": needed, "steps_needed": float(steps), "time_to_train": steps * seconds}
    if job.goal.critical_batch_size:
        found["batch_efficiency"] = 1 / batch_factor(job.batch.tokens, job.goal.critical_batch_size)
    useful = needed / (1 + job.goal.extra_tokens) * found.get("batch_efficiency", 1.0)
    return {**found, "expected_loss": loss_after(_size(job), useful)}


def goal_notes(job: TrainingJob) -> tuple[str, ...]:
    """What the way to the goal rests on."""
    goal = job.goal
    if goal is None:
        return ()
    notes = ["goal: losses are those of Chinchilla's data, tokenizer and fit (arXiv 2203.15556, dense models)"]
    if active_parameters(job.model) != parameters(job.model):
        notes.append("goal: a mixture of experts is counted with the parameters a token meets, which the fit is not of")
    if not goal.critical_batch_size:
        batch = format_quantity(job.batch.tokens, "tokens")
        notes.append(
            f"goal: no critical_batch_size is given: steps of {batch} tokens are taken to cost no tokens against small "
            "ones"
        )
    if goal.extra_tokens:
        notes.append(f"goal: {100 * goal.extra_tokens:g} % more tokens for staleness or compression: {goal.because}")
    return tuple(notes)

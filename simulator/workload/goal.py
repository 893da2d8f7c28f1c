"""What a training job is to reach: tokens for a loss, and what a batch size costs of them.

Loss of a model of N parameters after D tokens (Hoffmann et al. 2022, arXiv 2203.15556, approach 3, appendix D)
    L(N, D) = E + A/N^α + B/D^β.
Tokens at batch size B against the few that a small batch needs (McCandlish et al. 2018, arXiv 1812.06162, with
the critical batch size as gradient noise scale)
    S(B) = S_min (1 + B_crit/B), tokens(B) = S(B)·B = tokens_min (1 + B/B_crit).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["TOKENS_PER_PARAMETER", "Goal", "batch_factor", "least_loss", "loss_after", "tokens_for_loss"]

IRREDUCIBLE, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28
"""Chinchilla's parametric fit [nat per token], [tokens], [parameters]."""

TOKENS_PER_PARAMETER = 20.0
"""Tokens per parameter of a compute-optimal run (arXiv 2203.15556)."""


@dataclass(frozen=True)
class Goal:
    """A token budget or a loss.

    Attributes
    ----------
    tokens
        Budget [token]; 0 = what ``target_loss`` needs; negative: per parameter, −20 = 20 tokens per parameter.
    target_loss
        Loss to reach [nat per token]; 0 = none.
    critical_batch_size
        Batch at which twice the tokens of a small batch are needed [token]; 0 = not known, batches cost nothing.
    reference_batch_size
        Batch for which ``tokens`` is enough [token]; 0 = a batch far below the critical one.
    extra_tokens
        Further tokens, as a share, that staleness or compression costs.
    because
        Where ``extra_tokens`` was read or measured.
    """

    tokens: float = 0.0
    target_loss: float = 0.0
    critical_batch_size: float = 0.0
    reference_batch_size: float = 0.0
    extra_tokens: float = 0.0
    because: str = ""

    def tokens_needed(self, parameters: float, batch: float) -> float:
        """Tokens until the goal is reached with steps of ``batch`` tokens; infinite where the model cannot reach it."""
        budget = tokens_for_loss(parameters, self.target_loss) if self.target_loss else self.tokens
        budget = -budget * parameters if budget < 0 else budget
        factor = batch_factor(batch, self.critical_batch_size)
        reference = batch_factor(self.reference_batch_size, self.critical_batch_size)
        return budget * factor / reference * (1 + self.extra_tokens)

    def reason(self, parameters: float) -> str:
        """Empty, or why the goal cannot be reached whatever the time."""
        least = least_loss(parameters)
        if self.target_loss and self.target_loss <= least:
            return (
                f"goal: a loss of {self.target_loss:g} is out of reach, {parameters:.3g} parameters come to "
                f"{least:.3f} with endless data (arXiv 2203.15556); use a larger model or a higher target_loss"
            )
        return ""


def loss_after(parameters: float, tokens: float) -> float:
    """Loss of a model trained on so many tokens [nat per token]."""
    return least_loss(parameters) + float(B / tokens**BETA)


def least_loss(parameters: float) -> float:
    """Loss with endless data [nat per token]."""
    return IRREDUCIBLE + float(A / parameters**ALPHA)


def tokens_for_loss(parameters: float, loss: float) -> float:
    """Tokens until a loss is reached; infinite where it is below what the model can reach."""
    gap = loss - least_loss(parameters)
    return (B / gap) ** (1 / BETA) if gap > 0 else math.inf


def batch_factor(batch: float, critical: float) -> float:
    """Tokens needed with ``batch`` over those of a small batch."""
    return 1 + batch / critical if critical else 1.0

"""How many tokens one verification yields: from an acceptance rate, a measured mean or a measured table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from simulator.errors import ConfigError, did_you_mean
from simulator.strategies.settings import Settings

__all__ = ["GOLDEN_LENGTHS", "accepted_tokens", "best_draft_length", "chain_tokens", "speedup", "tree_tokens"]

GOLDEN_LENGTHS: Mapping[str, tuple[float, ...]] = {
    "dsv4-pro-mtp-thinking": (1.79, 2.27, 2.49, 2.54, 2.55, 2.55, 2.54, 2.58),
    "dsv4-pro-mtp": (1.92, 2.61, 2.97, 3.0, 3.1, 3.16, 3.0, 3.11),
    "dsv4-dspark": (1.84, 2.51, 3.01, 3.36, 3.61, 3.77, 3.73, 3.47),
    "glm-5.2-mtp": (1.84, 2.5, 2.99, 3.33, 3.61, 3.78, 3.91, 4.06),
    "kimi-k2.5-eagle3-thinking": (1.83, 2.43, 2.88, 3.24, 3.46, 3.62, 3.71, 3.77),
    "kimi-k2.5-eagle3": (1.8, 2.33, 2.75, 3.06, 3.25, 3.43, 3.46, 3.51),
    "kimi-k3-dspark": (1.84, 2.45, 2.87, 3.22, 3.44, 3.54, 3.78, 3.88),
    "minimax-m3-eagle3-thinking": (1.78, 2.38, 2.83, 3.11, 3.35, 3.45, 3.53, 3.74),
    "qwen3.5-mtp-thinking": (1.93, 2.73, 3.39, 3.97, 4.41, 4.8, 5.04, 5.21),
    "qwen3.5-mtp": (1.92, 2.7, 3.33, 3.83, 4.2, 4.48, 4.73, 4.71),
}
"""Tokens per verification, the bonus token included, with 1 to 8 draft tokens: golden acceptance lengths of
SemiAnalysisAI/InferenceX @843c625, SPEED-Bench coding, vLLM on B300."""


def chain_tokens(acceptance: float, drafts: int) -> float:
    """Expected tokens of one verification of a chain of drafts: Σ α^i for i = 0 .. γ = (1 − α^(γ+1)) / (1 − α).

    Leviathan et al. 2022, arXiv 2211.17192, eq. 1: every draft is accepted with probability ``acceptance``
    independently, and the verification itself gives one token more than it accepts.
    """
    return sum(acceptance**i for i in range(drafts + 1))


def tree_tokens(acceptance: float, widths: Sequence[int]) -> float:
    """Expected tokens of one verification of a token tree: 1 + Σ over depths of Π (1 − (1 − α)^width).

    The path goes on to the next depth if one of the ``width`` children is accepted, each independently. Width 1
    everywhere is a chain.
    """
    total, alive = 1.0, 1.0
    for width in widths:
        alive *= 1.0 - (1.0 - acceptance) ** width
        total += alive
    return total


def speedup(acceptance: float, drafts: int, draft_cost: float) -> float:
    """Time of plain over speculative decoding while verification costs no more than one step: E / (γ·c + 1).

    ``draft_cost`` c is the time of a draft step over that of the target (arXiv 2211.17192, theorem 3.8). It does not
    know that verification becomes compute bound; :class:`simulator.serving.speculative.SpeculativeCost` does.
    """
    return chain_tokens(acceptance, drafts) / (drafts * draft_cost + 1.0)


def best_draft_length(acceptance: float, draft_cost: float, most: int = 64) -> int:
    """The number of drafts with the greatest :func:`speedup`."""
    return max(range(most + 1), key=lambda drafts: speedup(acceptance, drafts, draft_cost))


def accepted_tokens(settings: Settings, widths: Sequence[int]) -> float:
    """Tokens per verification, from whichever of three keys is given.

    ``acceptance`` (rate per draft token), ``accepted_length`` (measured mean, bonus token included) or
    ``accepted_lengths`` (measured by number of draft tokens: a list, or a name of :data:`GOLDEN_LENGTHS`).

    Parameters
    ----------
    settings
        What the scenario says.
    widths
        Candidates at each depth of the draft.
    """
    given = [key for key in ("acceptance", "accepted_length", "accepted_lengths") if key in settings]
    if not widths:
        return 1.0
    if len(given) != 1:
        raise ConfigError(
            f"{settings.where}: needs one of 'acceptance' (rate per draft token), 'accepted_length' "
            f"(measured mean with "
            f"the bonus token) and 'accepted_lengths' (measured by number of draft tokens), has {len(given)}"
        )
    depth = len(widths)
    if given == ["acceptance"]:
        return tree_tokens(settings.number("acceptance", high=1.0), widths)
    if given == ["accepted_length"]:
        return settings.number("accepted_length", low=1.0, high=depth + 1)
    return _measured(settings, depth)


def _measured(settings: Settings, depth: int) -> float:
    value = settings.values["accepted_lengths"]
    if isinstance(value, str):
        if value not in GOLDEN_LENGTHS:
            hint = did_you_mean(value, GOLDEN_LENGTHS) or f"known: {', '.join(GOLDEN_LENGTHS)}"
            raise ConfigError(f"{settings.where}.accepted_lengths: no table '{value}', {hint}")
        value = GOLDEN_LENGTHS[value]
    if not isinstance(value, list | tuple) or not all(isinstance(v, int | float) for v in value):
        raise ConfigError(f"{settings.where}.accepted_lengths: {value!r} is not a list of lengths, one per draft token")
    if depth > len(value):
        raise ConfigError(
            f"{settings.where}: {depth} draft tokens, but accepted lengths are measured for 1 to {len(value)} only"
        )
    length = float(value[depth - 1])
    if not 1.0 <= length <= depth + 1:
        raise ConfigError(f"{settings.where}.accepted_lengths: {length:g} is not between 1 and {depth} drafts + 1")
    return length

"""What an iteration rests on: its seconds by trust of the constants behind them."""

from __future__ import annotations

from simulator.constants import Trust
from simulator.cost.priced import weakest
from simulator.serving.iteration import ReplicaCost
from simulator.serving.token_costs import Part
from simulator.strategies.protocols import BatchShape

__all__ = ["trust_shares"]


def trust_shares(cost: ReplicaCost, batch: BatchShape) -> dict[str, float]:
    """Share of the seconds of an iteration by the weakest trust among the constants of each part; they sum to 1.

    Parameters
    ----------
    cost
        The model itself: drafts, towers and adapters beside it are left out, and so are weights that arrive from
        outside the device.

    Notes
    -----
    Token-wise Ops are told apart one by one, attention by kind of layer, the host by constant.
    """
    total = dict.fromkeys(Trust, 0.0)
    mine = cost.local(batch)
    tokens, rows = cost.tokens(mine), cost.rows(mine)
    for stage, layers in enumerate(cost.layers_of_stage):
        parts: list[tuple[Part, int, int]] = [(part, count, tokens) for part, count in layers.items()]
        parts += [("embedding", 1, tokens)] if stage == 0 else []
        parts += [("head", 1, rows)] if stage == cost.stages - 1 else []
        for part, count, size in parts:
            for trust, seconds in cost.costs.by_trust(part, size).items():
                total[trust] += count * seconds
        known = cost.device.constants.entries
        for term, count in cost.attention[stage]:
            trust = weakest(known[name].trust for name in term.constants if name in known)
            decoding = term.decode(mine.decodes, mine.decode_context)[0] if mine.decodes else 0.0
            total[trust] += count * (decoding + (term.prefill(mine.prefill) if mine.prefill else 0.0))
    for key, times in (
        ("host_per_step", 1),
        ("host_per_sequence", batch.decodes + len(batch.prefill)),
        ("host_per_layer", sum(sum(layers.values()) for layers in cost.layers_of_stage)),
    ):
        constant = cost.framework.constants.get(key)
        if constant is not None:
            total[constant.trust] += times * constant.value * cost.scale.get(constant.id, 1.0)
    whole = sum(total.values())
    return {str(trust.value): seconds / whole for trust, seconds in total.items() if seconds} if whole else {}

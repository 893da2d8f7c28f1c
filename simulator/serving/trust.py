"""What an iteration rests on: its seconds by trust of the constants behind them."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.constants import Trust
from simulator.cost.sensitivity import by_trust
from simulator.serving.iteration import ReplicaCost
from simulator.serving.token_costs import Part
from simulator.strategies.protocols import BatchShape
from simulator.strategies.serving_offload.streaming import RESIDENT
from simulator.workload.model import AttentionSpec

__all__ = ["trust_shares"]


def trust_shares(cost: ReplicaCost, batch: BatchShape) -> dict[str, float]:
    """Share of the seconds of an iteration by trust of the constants behind them; they sum to 1.

    Parameters
    ----------
    cost
        The model itself: drafts, towers and adapters beside it are left out, and so are weights that arrive from
        outside the device.

    Notes
    -----
    Token-wise Ops are told apart one by one, attention by kind of layer, the host by constant; what rests on several
    constants is divided by :func:`~simulator.cost.sensitivity.by_trust`.
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
        for part, count in layers.items():
            if part.attention is not None:
                for trust, seconds in _attention(cost, part.attention, cost.attended(mine)).items():
                    total[trust] += count * seconds
    launched = cost.framework.constants.get("host_per_launch")
    if launched is not None and cost.stream is RESIDENT:
        gaps = sum(cost.layer_gaps(stage) for stage in range(cost.stages))
        host = cost.host_seconds(batch.decodes + len(batch.prefill))
        total[launched.trust] += max(0.0, cost.breakdown(batch)["host"] - gaps - host)
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


def _attention(cost: ReplicaCost, spec: AttentionSpec, batch: BatchShape) -> dict[Trust, float]:
    """Seconds of one layer's attention by trust."""

    def seconds(scale: Mapping[str, float]) -> float:
        device = cost.device.moved(scale) if scale else cost.device
        term = cost.term_on(device, spec)
        decoding = term.decode(batch.decodes, batch.decode_context)[0] if batch.decodes else 0.0
        return decoding + (term.prefill(batch.prefill) if batch.prefill else 0.0)

    known = cost.device.constants.entries
    used = cost.term_on(cost.device, spec).constants
    return by_trust(seconds, [known[name] for name in sorted(used) if name in known])

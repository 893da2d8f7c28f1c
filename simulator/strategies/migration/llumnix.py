"""Llumnix: requests go from crowded replicas, and from those that leave, to free ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simulator.errors import ConfigError
from simulator.registry import register
from simulator.strategies.serving_protocols import ReplicaView, RequestState

__all__ = ["Llumnix"]


@register(
    "llumnix",
    kind="policy",
    area="serving",
    family="migration",
    cites=(
        "Sun et al. 2024 (Llumnix), OSDI 2024, arXiv 2406.03243",
        "https://github.com/AlibabaPAI/llumnix, docs/Arguments.md (thresholds, stages, shortest running request)",
    ),
    catalogue=("MLLM/PD routers (Llumnix, Mooncake)",),
    validated_by="closed_form",
)
class Llumnix:
    """Pairs replicas below a freeness with those above it, lowest with highest; the shortest running request moves.

    Freeness is free KV blocks per running request: iterations a replica can go on, in units of a block. The blocks that
    the first of its waiting requests asks for count as used, which makes room for it elsewhere (defragmentation). A
    replica that leaves has none at all.

    Parameters
    ----------
    threshold
        Freeness below which requests leave and above which they may come (``--migrate-out-threshold``).
    last_blocks, max_stages
        ``--migration-last-stage-max-blocks`` and ``--migration-max-stages``.
    """

    name: str

    def __init__(self, threshold: float = 3.0, last_blocks: int = 16, max_stages: int = 3) -> None:
        if threshold < 0.0 or last_blocks < 1 or max_stages < 1:
            raise ConfigError(
                f"llumnix needs a threshold from 0 on, blocks and stages from 1 on: {threshold}, {last_blocks}, "
                f"{max_stages}"
            )
        self.threshold, self.last_blocks, self.max_stages = threshold, last_blocks, max_stages

    def freeness(self, replica: ReplicaView, now: float) -> float:
        """Free KV blocks, less those the first in the queue asks for, per running request."""
        free = replica.kv_blocks - replica.kv_blocks_at(now)
        if replica.waiting:
            free -= math.ceil(replica.waiting[0].prefill_target / replica.block_size)
        return free / max(1, replica.running)

    def pairs(
        self, replicas: Sequence[ReplicaView], leaving: Sequence[ReplicaView], now: float
    ) -> list[tuple[int, int]]:
        """Those that leave first, then from the least free on; the freest take first."""
        known = sorted((self.freeness(replica, now), replica.index) for replica in replicas)
        sources = [(-math.inf, replica.index) for replica in leaving]
        sources += [one for one in known if one[0] < self.threshold]
        targets = [one for one in reversed(known) if one[0] > self.threshold]
        return [(source[1], target[1]) for source, target in zip(sources, targets, strict=False)]

    def pick(self, replica: ReplicaView) -> RequestState | None:
        """The shortest of those that decode."""
        return min(replica.decoding, key=lambda r: (r.input_tokens + replica.produced(r), r.index), default=None)

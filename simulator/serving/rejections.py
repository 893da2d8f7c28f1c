"""Which requests no replica can ever serve, found before anything runs."""

from __future__ import annotations

import numpy as np

from simulator.serving.replica import Replica
from simulator.strategies.protocols import RequestState
from simulator.workload.requests.table import RequestTable

__all__ = ["impossible"]

_STRETCH = 1 << 20
"""Requests that are judged at a time: long tables are most of the memory of a summary."""


def impossible(table: RequestTable, replica: Replica) -> bytes:
    """Per request, why it can never be served: index into :data:`~simulator.serving.run.REJECTIONS`, 0 if it can."""
    limit, longest, cache = replica.max_model_len, replica.policy.longest_prefill(replica), replica.kv_policy
    reasons = bytearray()
    for start in range(0, len(table), _STRETCH):
        inputs, outputs = (c[start : start + _STRETCH] for c in (table.input_tokens, table.output_tokens))
        held = total = inputs.astype(np.int64) + outputs
        reason = np.where(inputs > longest, 3, 0).astype(np.uint8)
        if not cache.grows:
            pairs = zip(inputs.tolist(), outputs.tolist(), strict=True)
            reserved = (cache.reserved_tokens(RequestState(0, 0.0, i, o), limit) for i, o in pairs)
            held = np.maximum(total, np.fromiter(reserved, dtype=np.int64, count=len(inputs)))
        reason[held > replica.pool.most_tokens] = 2
        if limit:
            reason[total > limit] = 1
        reasons += reason.tobytes()
    return bytes(reasons)

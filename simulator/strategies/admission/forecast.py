"""When a request would get its first token, as far as one can tell on its arrival."""

from __future__ import annotations

from simulator.strategies.protocols import BatchShape, ReplicaView, RequestState

__all__ = ["first_token_seconds"]


def first_token_seconds(request: RequestState, replica: ReplicaView, now: float) -> float:
    """Time until the first token of ``request`` on ``replica`` [s].

    Prompt tokens queued there and its own uncached ones, in iterations of the full token budget beside the requests
    that decode now, whose contexts are taken as its own. Waiting for KV blocks is not foreseen.
    """
    own = request.input_tokens - replica.cached_prefix(request, now)
    tokens = replica.queued_tokens + max(own, 1)
    decodes = max(0, min(replica.running, replica.max_batch_seqs) - len(replica.prefilling))
    budget = max(1, replica.max_num_batched_tokens - decodes)
    context = decodes * request.input_tokens
    full, rest = divmod(tokens, budget)
    seconds = 0.0
    if full:
        seconds += full * replica.predict(BatchShape(((budget, 0),), decodes, context, request.input_tokens))
    if rest:
        seconds += replica.predict(BatchShape(((rest, 0),), decodes, context, request.input_tokens))
    return seconds

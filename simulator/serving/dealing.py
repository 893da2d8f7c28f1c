"""Sequences of a batch dealt out over ranks that each compute some of them whole."""

from __future__ import annotations

from simulator.strategies.protocols import BatchShape

__all__ = ["dealt"]


def dealt(batch: BatchShape, ranks: int) -> BatchShape:
    """What the fullest of ``ranks`` has of ``batch``; prompts go whole to the rank with least of them."""
    if ranks == 1:
        return batch
    decodes = -(-batch.decodes // ranks)
    context = batch.decode_context * decodes // batch.decodes if batch.decodes else 0
    shares: list[list[tuple[int, int]]] = [[] for _ in range(min(ranks, len(batch.prefill)))]
    loads = [0] * len(shares)
    for chunk in sorted(batch.prefill, reverse=True):
        lightest = loads.index(min(loads))
        shares[lightest].append(chunk)
        loads[lightest] += chunk[0]
    fullest = tuple(shares[loads.index(max(loads))]) if shares else ()
    return BatchShape(fullest, decodes, context, batch.decode_max_context)

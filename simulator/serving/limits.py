"""Sizes an engine is started with."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EngineLimits"]


@dataclass(frozen=True)
class EngineLimits:
    """Sizes an engine is started with.

    Attributes
    ----------
    kv_blocks, block_size
        KV cache: blocks, and tokens per block.
    max_num_batched_tokens
        Token budget of one iteration.
    max_num_seqs
        Requests that may hold KV blocks.
    max_model_len
        Longest prompt plus output [tokens]; 0 = no limit but the cache.
    pipeline_stages
        Micro-batches in flight.
    watermark
        Share of the blocks an admission leaves free.
    """

    kv_blocks: int
    block_size: int = 16
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    max_model_len: int = 0
    pipeline_stages: int = 1
    watermark: float = 0.01

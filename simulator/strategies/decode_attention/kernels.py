"""How the work of decode attention is spread over the multiprocessors of a device.

One query token per sequence leaves a fused kernel with a grid of sequences × heads thread blocks. A block streams the
keys and values of its head through one multiprocessor, which takes at most its share of the memory bandwidth: a grid
smaller than the device leaves the rest of the bandwidth unused, however long the context is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar, NamedTuple

from simulator.registry import Claim, register
from simulator.strategies.settings import Settings

__all__ = ["DecodeAttention", "FlashAttention", "FlashDecoding", "Grid"]

_TABLE = "PyTorch blog, Flash-Decoding for long-context inference, 13 October 2023, component-level micro-benchmarks"


class Grid(NamedTuple):
    """Thread blocks of a decode kernel.

    Attributes
    ----------
    splits
        Pieces that each sequence's keys are cut into; 0: as many as fill the device.
    packed
        Whether the query heads that share a key/value head sit in one block and read it once.
    """

    splits: int = 0
    packed: bool = True

    def stretch(self, sequences: int, heads: int, kv_heads: int, multiprocessors: int) -> float:
        """Time over that of one read of the cache at full bandwidth, at least 1.

        Blocks are rounded up to whole waves over the multiprocessors (0 = not known: always full).
        """
        reads = 1.0 if self.packed else heads / max(1, kv_heads)
        if not self.splits or multiprocessors <= 0 or sequences <= 0:
            return reads
        blocks = sequences * (kv_heads if self.packed else heads) * self.splits
        return reads * math.ceil(blocks / multiprocessors) * multiprocessors / blocks


class DecodeAttention(ABC):
    """A kernel; the keys of ``deployment.decode_attention``."""

    name: str
    keys: ClassVar[Collection[str]] = ()

    def __init__(self, settings: Settings) -> None:
        settings.only(self.keys)
        self.settings = settings

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """Its thread blocks."""


@register(
    "flash-attention",
    kind="policy",
    area="serving",
    family="decode_attention",
    cites=("Dao et al. 2022 (FlashAttention), arXiv 2205.14135", "Dao 2023 (FlashAttention-2), arXiv 2307.08691"),
    catalogue=("Flash-Decoding(++), FlashAttention",),
    claims=(
        Claim("A100, 16 query heads of 128 for 2 key/value heads, fp16: 65,536 cached tokens in 2,300.6 us at batch 1, "
              "as 16 × 4,096 in 401.7 us, as 256 × 256 in 390.5 us (version 2.0.9)", _TABLE),
    ),
    validated_by="published",
)  # fmt: skip
class FlashAttention(DecodeAttention):
    """One block per sequence and query head: a small batch leaves multiprocessors idle, grouped heads read again.

    The kernels of version 2.0 that were made for prompts, used for single tokens. Batches that fill the device with
    heads that are not shared are as fast as ``flash-decoding``.
    """

    @property
    def grid(self) -> Grid:
        """Sequences times query heads."""
        return Grid(1, packed=False)


@register(
    "flash-decoding",
    kind="policy",
    area="serving",
    family="decode_attention",
    cites=("Dao, Haziza, Massa & Sizov 2023 (Flash-Decoding), PyTorch blog",
           "Hong et al. 2023 (FlashDecoding++), arXiv 2311.01282"),
    catalogue=("Flash-Decoding(++), FlashAttention",),
    claims=(
        Claim("A100, 16 query heads of 128 for 2 key/value heads, fp16: 65,536 cached tokens in 56-78 us however they "
              "are cut into sequences, 131,072 of one sequence in 106.6 us", _TABLE),
    ),
    validated_by="published",
)  # fmt: skip
class FlashDecoding(DecodeAttention):
    """A sequence's keys are cut into pieces of their own blocks, so that one long context fills the device too.

    ``splits`` fixes the pieces per sequence; 0 takes as many as fill the device, which is what engines do when a
    deployment says nothing: the decode curves of the device profiles were measured on such kernels. With ``splits`` 1
    and heads that are not shared it is ``flash-attention``. The reduction over the pieces is part of the measured
    launch; FlashDecoding++'s common maximum, which saves its rescaling, is not told apart.
    """

    keys = ("splits",)

    @property
    def grid(self) -> Grid:
        """Sequences times key/value heads times pieces."""
        return Grid(self.settings.count("splits", 0), packed=True)

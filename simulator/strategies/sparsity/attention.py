"""Attention over part of the context: heavy hitters, sinks and a window, block-sparse patterns, pruned tokens."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar

from simulator.registry import Claim, register
from simulator.strategies.settings import Settings
from simulator.strategies.sparsity.kept_context import KeptContext

__all__ = ["H2O", "BlockSparse", "SpAtten", "SparseAttention", "StreamingLLM"]


class SparseAttention(ABC):
    """Which part of the context is attended and held; the keys of ``deployment.sparse_attention``."""

    name: str
    keys: ClassVar[Collection[str]] = ()
    quality: ClassVar[str] = ""

    def __init__(self, settings: Settings) -> None:
        settings.only(self.keys)
        self.settings = settings

    @property
    @abstractmethod
    def kept(self) -> KeptContext:
        """The part."""


@register(
    "h2o",
    kind="policy",
    area="serving",
    family="sparse_attention",
    cites=("Zhang et al. 2023 (H2O), arXiv 2306.14048",),
    catalogue=("H2O",),
    claims=(
        Claim(
            "throughput up to 29×, 29× and 3× over DeepSpeed ZeRO-Inference, Accelerate and FlexGen "
            "with 20 % heavy hitters, OPT-6.7B and OPT-30B; latency up to 1.9× at equal batch size",
            "README of FMInference/H2O @04e3356",
        ),
    ),
    validated_by="closed_form",
)
class H2O(SparseAttention):
    """The cache keeps ``budget`` of a context (share, or tokens from 2 on): half heavy hitters, half recent tokens.

    Prompts are prefilled densely. The scores that are summed up to find the heavy hitters are not priced.
    """

    keys = ("budget",)
    quality = "accuracy held with 20 % of the cache on OPT, LLaMA and GPT-NeoX tasks (arXiv 2306.14048 abstract)"

    @property
    def kept(self) -> KeptContext:
        """A share of the context, or a number of tokens."""
        budget = self.settings.number("budget", 0.2)
        if budget <= 1.0:
            return KeptContext(ratio=budget, evicts=True)
        return KeptContext(cap=int(min(budget, 1 << 40)), evicts=True)


@register(
    "streaming-llm",
    kind="policy",
    area="serving",
    family="sparse_attention",
    cites=("Xiao et al. 2023 (StreamingLLM), arXiv 2309.17453",),
    catalogue=("H2O",),
    claims=(
        Claim("up to 22.2× over the sliding window with recomputation", "README of mit-han-lab/streaming-llm @0341753"),
    ),
    validated_by="closed_form",
)
class StreamingLLM(SparseAttention):
    """``sinks`` first tokens and a ``window`` of recent ones; the middle is dropped."""

    keys = ("sinks", "window")
    quality = (
        "stable language modelling to 4 million tokens, but what left the window is not known any more "
        "(README of mit-han-lab/streaming-llm)"
    )

    @property
    def kept(self) -> KeptContext:
        """Sinks and window."""
        return KeptContext(cap=self.settings.count("sinks", 4) + self.settings.count("window", low=1), evicts=True)


@register(
    "block-sparse",
    kind="policy",
    area="serving",
    family="sparse_attention",
    cites=(
        "Child et al. 2019 (Sparse Transformer), arXiv 1904.10509",
        "BigBird, arXiv 2007.14062",
        "Longformer, arXiv 2004.05150",
    ),
    catalogue=("Sparse Transformer/BigBird/Longformer, DeepSpeed SA",),
    claims=(
        Claim(
            "training up to 6.3× faster for BERT base, 5.3× BERT large, 6.1× GPT-2, and 10-16× "
            "longer sequences on one V100-32GB",
            "DeepSpeed docs/_posts/2020-09-09-sparse-attention.md @077e674",
        ),
    ),
    validated_by="closed_form",
)
class BlockSparse(SparseAttention):
    """Local, global and random blocks: ``local`` + ``global_tokens`` + ``random`` tokens per query, in blocks of
    ``block``.

    Each part is rounded up to whole blocks. The cache keeps everything; ``density`` instead of the counts says the
    share of the scores directly.
    """

    keys = ("local", "global_tokens", "random", "block", "density", "sequence")
    quality = "comparable or higher accuracy than full attention when trained with it (DeepSpeed Sparse Attention post)"

    @property
    def kept(self) -> KeptContext:
        """Share of the scores, or tokens per query against a prompt of ``sequence`` tokens."""
        if "density" in self.settings:
            density = self.settings.number("density", high=1.0)
            return KeptContext(ratio=density, density=density)
        block = self.settings.count("block", 16, low=1)
        parts = (
            self.settings.count("local", 0),
            self.settings.count("global_tokens", 0),
            self.settings.count("random", 0),
        )
        cap = sum(math.ceil(part / block) * block for part in parts)
        mean = (self.settings.count("sequence", low=1) + 1) / 2
        return KeptContext(cap=max(1, cap), density=min(1.0, max(1, cap) / mean))


@register(
    "spatten",
    kind="policy",
    area="serving",
    family="sparse_attention",
    cites=("Wang et al. 2020 (SpAtten), arXiv 2012.09852",),
    catalogue=("SpAtten",),
    claims=(
        Claim(
            "DRAM access ÷10.0 on average over 30 benchmarks; 162× over TITAN Xp, 347× over Xeon",
            "abstract of arXiv 2012.09852",
        ),
    ),
    validated_by="closed_form",
)
class SpAtten(SparseAttention):
    """Token and head pruning with bits fetched on demand: the published ``dram_reduction`` divides the cache reads.

    The factor belongs to its accelerator; on other devices it is a what-if. Whether pruned tokens also save prefill
    scores is said by ``density``.
    """

    keys = ("dram_reduction", "density")
    quality = "no accuracy loss over 30 benchmarks (abstract of arXiv 2012.09852)"

    @property
    def kept(self) -> KeptContext:
        """All tokens, a fraction of their bytes."""
        reduction = self.settings.number("dram_reduction", 10.0, low=1.0)
        return KeptContext(volume=1.0 / reduction, density=self.settings.number("density", 1.0, high=1.0))

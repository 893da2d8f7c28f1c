"""Two micro-batches in flight: the all-to-all of the one hides behind the computation of the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar

from simulator.registry import Claim, register
from simulator.strategies.settings import Settings

__all__ = ["BatchOverlap", "DualMicroBatch"]

OVERVIEW = (
    "deepseek-ai/open-infra-index @56d8685, day 6: DeepSeek-V3/R1 inference system overview; "
    "github.com/deepseek-ai/profile-data @4496024, README"
)


class BatchOverlap(ABC):
    """How a batch is divided; the keys of ``deployment.batch_overlap``."""

    name: str
    keys: ClassVar[Collection[str]] = ()

    def __init__(self, settings: Settings) -> None:
        settings.only(self.keys)
        self.settings = settings

    @abstractmethod
    def compute_share(self, prompts: bool) -> float:
        """Share of its speed that the computation of an iteration keeps beside messages; ``prompts``: it has some."""


@register(
    "dual-micro-batch",
    kind="policy",
    area="serving",
    family="batch_overlap",
    cites=("DeepSeek-AI 2024 (DeepSeek-V3), arXiv 2412.19437 §3.4", OVERVIEW),
    claims=(
        Claim("73.7k input tokens/s per node of 8 H800 in prefill (56.3 % from cache), 14.8k output tokens/s in decode "
              "at 20 to 22 tokens/s per user", "deepseek-ai/open-infra-index @56d8685, day 6"),
    ),
    validated_by="published",
)  # fmt: skip
class DualMicroBatch(BatchOverlap):
    """Halves of a batch take turns: while one computes, the rows of the other travel to their experts and back.

    A layer takes twice the longer of what a half computes and what it sends, once both halves are under way; decoding
    divides attention in two steps so that its stages are of a length. Kernels that send hold multiprocessors while they
    do: ``prefill_share`` (108 of 132) of the computing speed is left with prompts, ``decode_share`` (1: messages
    written by the network card) without. Only messages between experts are hidden.
    """

    keys = ("prefill_share", "decode_share")

    def compute_share(self, prompts: bool) -> float:
        """108 of 132 multiprocessors with prompts, all without, unless the deployment says otherwise."""
        if prompts:
            return self.settings.number("prefill_share", 108 / 132, low=0.01, high=1.0)
        return self.settings.number("decode_share", 1.0, low=0.01, high=1.0)

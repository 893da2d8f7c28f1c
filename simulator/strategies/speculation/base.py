"""What a speculation strategy tells the serving mechanism."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from simulator.strategies.settings import Settings
from simulator.strategies.speculation.acceptance import accepted_tokens
from simulator.workload.model import ModelSpec

__all__ = ["ACCEPTANCE_KEYS", "Draft", "Speculation"]

ACCEPTANCE_KEYS = ("acceptance", "accepted_length", "accepted_lengths")


@dataclass(frozen=True)
class Draft:
    """What drafts the tokens.

    Attributes
    ----------
    model
        Its layers, priced like any served model.
    steps
        Tokens per sequence of each of its passes, one after another.
    copies
        How often its weights exist (heads of their own for every position).
    own_embedding, own_head
        Whether these are its own; otherwise they are the target's and take no memory.
    reads_prompts
        Whether it has to process prompts too and caches them.
    """

    model: ModelSpec
    steps: tuple[int, ...]
    copies: int = 1
    own_embedding: bool = True
    own_head: bool = True
    reads_prompts: bool = True


class Speculation(ABC):
    """A way of drafting tokens that the target model verifies together.

    Verification keeps the target's distribution (rejection sampling, arXiv 2211.17192 appendix A.1), so a lossless
    method costs no quality; ``quality`` says where that does not hold.

    Parameters
    ----------
    settings
        The keys of ``deployment.speculation``.
    """

    name: str
    keys: ClassVar[Collection[str]] = ()
    quality: ClassVar[str] = "lossless: the target verifies every token (arXiv 2211.17192 appendix A.1)"

    def __init__(self, settings: Settings) -> None:
        settings.only({*self.keys, *ACCEPTANCE_KEYS})
        self.settings = settings
        self.widths = self._widths(settings)
        self.expected_tokens = accepted_tokens(settings, self.widths)

    @abstractmethod
    def _widths(self, settings: Settings) -> tuple[int, ...]:
        """Candidates at each depth of the draft."""

    @property
    def verify_tokens(self) -> int:
        """Tokens per sequence that one verification computes: the last accepted one and every node of the tree."""
        total, nodes = 1, 1
        for width in self.widths:
            nodes *= width
            total += nodes
        return total

    def draft(self, target: ModelSpec) -> Draft | None:
        """Who drafts for ``target``; ``None`` where drafts cost no device time."""
        return None

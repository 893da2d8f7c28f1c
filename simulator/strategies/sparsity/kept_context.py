"""Which part of a request's context attention reads and the cache holds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALL", "KeptContext"]


@dataclass(frozen=True)
class KeptContext:
    """Attention over part of the context.

    A context of c tokens is read as min(ratio·c, cap) tokens per generated token.

    Attributes
    ----------
    ratio
        Share of the context that is attended by a generated token.
    cap
        Most tokens attended, 0 = no limit.
    density
        Share of the scores computed when prompts are prefilled.
    volume
        Bytes read per attended token over those stored (bits fetched on demand).
    evicts
        Whether what is not attended leaves the cache as well.
    """

    ratio: float = 1.0
    cap: int = 0
    density: float = 1.0
    volume: float = 1.0
    evicts: bool = False

    def tokens(self, context: float) -> float:
        """Tokens attended of a context [tokens]."""
        kept = self.ratio * context
        return min(kept, self.cap) if self.cap else kept

    def held(self, context: float) -> float:
        """Tokens of a context that stay in the cache [tokens]."""
        return self.tokens(context) if self.evicts else context


ALL = KeptContext()
"""Dense attention over a full cache."""

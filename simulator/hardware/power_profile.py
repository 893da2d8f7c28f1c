"""What an accelerator draws, as its profile says it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PowerProfile"]


@dataclass(frozen=True)
class PowerProfile:
    """Idle and peak power [W]; ``exponent`` shapes P = idle + (peak − idle)·u^exponent."""

    idle: float
    peak: float
    exponent: float = 0.7

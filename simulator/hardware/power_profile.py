"""What an accelerator draws, as its profile says it: so much without work, at work, per operation and per byte.

P = idle + min(peak − idle, active + compute·c + memory·m), with the shares c and m of peak FLOP/s and of memory
bandwidth in use. What is above the peak is kept from being drawn by the device itself, which lowers its clock: the
time of the work says so already.

The three terms are fitted on A100 (benchmarks/fits/power_terms.py). Elsewhere they are the defaults below, as shares
of peak − idle.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ACTIVE_SHARE", "COMPUTE_SHARE", "MEMORY_SHARE", "PowerProfile"]

ACTIVE_SHARE = 0.1
"""Of peak − idle, with clocks up and little else: H200 draws 137 of 700 W at least while it generates, 75 W idle (arXiv
2605.11999, abstract); 0.16 on A100."""

COMPUTE_SHARE = 1.2
"""At all of the peak FLOP/s, if the device could: large GEMMs of H100 meet the limit of 700 W at 0.70 to 0.80 of it
(stas00/ml-engineering, compute/accelerator: 794.5 of 989 TFLOP/s at most), and 0.1 + 1.2 · 0.75 = 1."""

MEMORY_SHARE = 0.6
"""At the whole memory bandwidth: assumed. The 300 W at most of the same H200 ask for 0.26 over the share of its
bandwidth that was in use (all of it, says the abstract); 0.84 on A100."""


@dataclass(frozen=True)
class PowerProfile:
    """Draw of an accelerator.

    Attributes
    ----------
    idle, peak
        Without work, and the most it allows itself [W].
    active, compute, memory
        Beyond idling [W]: at work at all, at its peak FLOP/s of whatever type, at its whole memory bandwidth. Negative
        stands for the default share of peak − idle.
    """

    idle: float
    peak: float
    active: float = -1.0
    compute: float = -1.0
    memory: float = -1.0

    @property
    def shares(self) -> tuple[float, float, float]:
        """``active``, ``compute`` and ``memory`` as shares of peak − idle; zeros where there is no room."""
        room = self.peak - self.idle
        terms = (self.active, ACTIVE_SHARE), (self.compute, COMPUTE_SHARE), (self.memory, MEMORY_SHARE)
        first, second, third = (0.0 if room <= 0 else (share if w < 0 else w / room) for w, share in terms)
        return first, second, third

"""What a benchmark that repeats one kernel finds in the device's last-level cache, and a model does not.

Tables of kernels time the same operands again and again. Where those of one round fit into the cache, memory is not
read: an L40S with 96 MB then reads a KV cache at 2.8 and weights at 2 times the bandwidth of its memory. In a model the
other layers pass in between. So the bytes that were near are stated with each timing and have a rate of their own in
the curves (``cached``); prices of models never use it.
"""

from __future__ import annotations

__all__ = ["resident"]

ALL, NONE = 0.8, 1.1
"""Of the capacity: one round up to the first stays whole, and of one above the second nothing does; in between the
share falls along a line (benchmarks/fits/curves.py resident)."""


def resident(round_bytes: float, capacity: float) -> float:
    """Share of the operands that is still in a cache of ``capacity`` [B] after a round of ``round_bytes`` [B]."""
    if capacity <= 0.0:
        return 0.0
    return min(1.0, max(0.0, (NONE - round_bytes / capacity) / (NONE - ALL)))

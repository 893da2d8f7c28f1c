"""Reasons why sizes do not fit a schedule; each names the near sizes that do."""

from __future__ import annotations

__all__ = ["even", "exact_chunks", "multiple_of", "only_one_chunk", "positive"]


def positive(ranks: int, microbatches: int, chunks: int) -> str:
    """Empty, or which of the sizes is below 1."""
    sizes = {"pipeline_parallel": ranks, "micro-batches": microbatches, "virtual_stages": chunks}
    low = [f"{name} = {value}" for name, value in sizes.items() if value < 1]
    return f"{' and '.join(low)} must be at least 1" if low else ""


def only_one_chunk(name: str, chunks: int, instead: str) -> str:
    """Empty, or that the schedule has no model chunks."""
    if chunks == 1:
        return ""
    return f"{name} keeps one model chunk per rank, have virtual_stages = {chunks}: set 1, or use schedule {instead}"


def exact_chunks(name: str, chunks: int, needed: int) -> str:
    """Empty, or the number of chunks the placement needs."""
    return "" if chunks == needed else f"{name} needs virtual_stages = {needed}, have {chunks}"


def multiple_of(name: str, microbatches: int, step: int, what: str = "pipeline_parallel") -> str:
    """Empty, or the nearest multiples of ``step``."""
    if microbatches % step == 0:
        return ""
    below, above = microbatches // step * step, -(-microbatches // step) * step
    near = f"{below} or {above}" if below else f"{above}"
    return f"{name} needs micro-batches that are a multiple of {what} = {step}, have {microbatches}: use {near}"


def even(name: str, what: str, value: int) -> str:
    """Empty, or the even neighbours of ``value``."""
    if value % 2 == 0:
        return ""
    near = f"{value - 1} or {value + 1}" if value > 1 else f"{value + 1}"
    return f"{name} needs an even number of {what}, have {value}: use {near}"

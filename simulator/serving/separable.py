"""Iteration costs that are sums of terms with few arguments each, so that the terms can be tabulated.

A mixed iteration takes tokens(T) + rows(R) + gap + Σ over kinds of attention n·(launch + Σ chunks) + decode attention,
as :class:`~simulator.serving.iteration.ReplicaCost` describes. The compiled loop fills its tables from the functions
kept here, and sums in the order written here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from simulator.serving.compiled.tables import CostTables
from simulator.serving.launches import beside, decodes_beside
from simulator.strategies.protocols import BatchShape, Segment
from simulator.strategies.serving_protocols import FOREVER

__all__ = ["ChunkTerm", "Separable", "SeparableCost"]


@dataclass(frozen=True)
class ChunkTerm:
    """Prefill attention of layers that are alike.

    Attributes
    ----------
    layers
        How many.
    launch
        Of one kernel [s].
    seconds
        (new tokens, tokens already cached) → seconds of one chunk in that kernel.
    """

    layers: int
    launch: float
    seconds: Callable[[int, int], float]


@dataclass(frozen=True)
class SeparableCost:
    """A cost by terms; itself an :class:`~simulator.strategies.serving_protocols.IterationCost`.

    Attributes
    ----------
    tokens
        Tokens of an iteration with prompts → seconds.
    rows
        Sequences of an iteration with prompts → seconds.
    gap
        Of every iteration with prompts [s].
    chunks
        Prefill attention by kind.
    decodes
        Decoding sequences → (seconds of everything token-wise, seconds of attention without its context).
    per_context
        Decode attention per token of context [s].
    exposed, hidden
        Time an iteration waits for weights beside its own, and the least it takes for them [s].
    host_fixed, host_each
        Host time of an iteration, and per sequence [s].
    overlapped
        Whether the host works beside the device.
    launching, launching_prompts, launching_pieces, launch_exposed
        Time in which the host launches the kernels of an iteration one by one [s], without prompts and with; that of
        one with prompts which is replayed in pieces; the share of the shorter of it and the kernels that is not hidden.
    captured_tokens, captured_sequences
        Where it does: with prompts, more than so many tokens; without, more than so many sequences.
    tables
        What was answered before, where costs of the same engine share it.
    """

    tokens: Callable[[int], float]
    rows: Callable[[int], float]
    decodes: Callable[[int], tuple[float, float]]
    chunks: tuple[ChunkTerm, ...] = ()
    gap: float = 0.0
    per_context: float = 0.0
    exposed: float = 0.0
    hidden: float = 0.0
    host_fixed: float = 0.0
    host_each: float = 0.0
    overlapped: bool = False
    launching: float = 0.0
    launching_prompts: float = 0.0
    launching_pieces: float = 0.0
    launch_exposed: float = 0.0
    captured_tokens: int = 0
    captured_sequences: int = FOREVER
    tables: CostTables | None = field(default=None, compare=False)

    def separate(self) -> SeparableCost:
        """Itself."""
        return self

    def iteration(self, batch: BatchShape) -> float:
        """Duration of one iteration [s]."""
        decodes, sequences = batch.decodes, batch.decodes + len(batch.prefill)
        if batch.prefill:
            device = self.tokens(batch.tokens) + self.rows(sequences) + self.gap
            attention = 0.0
            for term in self.chunks:
                total = term.launch
                for chunk, cached in batch.prefill:
                    total += term.seconds(chunk, cached)
                attention += term.layers * total
            device += attention
        else:
            device = self.decodes(decodes)[0]
        if decodes:
            device += self.decodes(decodes)[1] + self.per_context * batch.decode_context
        if batch.prefill:
            launches = self.launching_prompts if batch.tokens > self.captured_tokens else self.launching_pieces
            device = beside(device, launches, self.launch_exposed)
        elif decodes > self.captured_sequences:
            device = beside(device, self.launching, self.launch_exposed)
        seconds = max(device + self.exposed, self.hidden)
        host = self.host_fixed + self.host_each * sequences
        return max(seconds, host) if self.overlapped else seconds + host

    def decode_segment(self, batch: BatchShape) -> Segment:
        """Durations of the next iterations of an unchanged decode batch."""
        linear, attention = self.decodes(batch.decodes)
        seconds = attention + self.per_context * batch.decode_context
        slope = self.per_context * batch.decodes
        seconds += linear
        valid = FOREVER
        if batch.decodes > self.captured_sequences:
            seconds, slope, valid = decodes_beside(seconds, slope, valid, self.launching, self.launch_exposed)
        seconds += self.exposed
        host = self.host_fixed + self.host_each * batch.decodes
        wait = max(self.hidden, host if self.overlapped else 0.0)
        if seconds < wait:
            if slope > 0:
                valid = min(valid, max(1, int(min((wait - seconds) / slope, 1e15)) + 1))
            seconds, slope = wait, 0.0
        return Segment(seconds if self.overlapped else seconds + host, slope, valid)


@runtime_checkable
class Separable(Protocol):
    """A cost that can be taken apart."""

    def separate(self) -> SeparableCost | None:
        """The same cost by terms, bit for bit; ``None`` where it is none, as with sliding windows."""

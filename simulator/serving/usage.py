"""What a replica did: time-weighted integrals, token counters and a sampled history of bounded size."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Progress", "ReplicaUsage"]

_MOST_SAMPLES = 1024


class Progress(NamedTuple):
    """What one or several replicas have done: time at work [s], iterations, tokens, ∫ KV blocks held over time [s]."""

    busy: float = 0.0
    iterations: float = 0.0
    prefill_tokens: float = 0.0
    decode_tokens: float = 0.0
    kv_block_time: float = 0.0

    def since(self, before: Progress) -> Progress:
        """What was done after ``before``."""
        return Progress(*(a - b for a, b in zip(self, before, strict=True)))


class ReplicaUsage:
    """Counters of one replica.

    Attributes
    ----------
    until
        Time up to which the integrals run [s].
    busy_time
        Time with an iteration in flight [s].
    waiting_time, running_time, kv_block_time
        ∫ requests waiting, ∫ requests holding blocks, ∫ KV blocks held over time [s].
    kv_blocks_peak, kv_blocks_total
        Most blocks held at once, and blocks there are.
    iterations, prefills, preemptions
        Iterations, completed prefills (each gives one token), preemptions.
    prefill_tokens, decode_tokens
        Tokens passed through the model, recomputation and padding included.
    recomputed_tokens
        Tokens whose keys and values were dropped by preemptions.
    cached_tokens, loaded_tokens
        Prompt tokens that needed no computing because the prefix cache had them, and how many of these came from
        slower tiers.
    swapped_blocks
        KV blocks copied to or from host memory by preemptions.
    """

    __slots__ = (
        "busy_time", "cached_tokens", "decode_tokens", "every", "index", "iterations", "kv_block_time",
        "kv_blocks_peak", "kv_blocks_total", "loaded_tokens", "preemptions", "prefill_tokens", "prefills",
        "recomputed_tokens", "running_time", "samples", "seen", "swapped_blocks", "until", "waiting_time",
    )  # fmt: skip

    def __init__(self, index: int) -> None:
        self.index = index
        self.until = 0.0
        self.busy_time = 0.0
        self.waiting_time = 0.0
        self.running_time = 0.0
        self.kv_block_time = 0.0
        self.kv_blocks_peak = 0
        self.kv_blocks_total = 0
        self.iterations = 0
        self.prefills = 0
        self.preemptions = 0
        self.prefill_tokens = 0
        self.decode_tokens = 0
        self.recomputed_tokens = 0
        self.cached_tokens = 0
        self.loaded_tokens = 0
        self.swapped_blocks = 0
        self.samples: list[tuple[float, int, int, int]] = []
        """(time [s], waiting, running, KV blocks held), evenly thinned in number of events."""
        self.every = 1
        """Wakes from one sample to the next."""
        self.seen = 0

    @property
    def progress(self) -> Progress:
        """By the last time the books were brought up to date."""
        return Progress(self.busy_time, self.iterations, self.prefill_tokens, self.decode_tokens, self.kv_block_time)

    def integrate(self, now: float, waiting: int, running: int, kv_blocks: int, flights: int) -> None:
        """Bring the integrals to ``now``; the numbers are those since the last call."""
        elapsed = now - self.until
        if elapsed > 0.0:
            self.until = now
            if flights:
                self.busy_time += elapsed
            self.waiting_time += elapsed * waiting
            self.running_time += elapsed * running
            self.kv_block_time += elapsed * kv_blocks

    def sample(self, now: float, waiting: int, running: int, kv_blocks: int) -> None:
        """Note the state; once the history is full every second sample is dropped and the pace halved."""
        self.seen = 0
        self.samples.append((now, waiting, running, kv_blocks))
        if len(self.samples) >= _MOST_SAMPLES:
            del self.samples[1::2]
            self.every *= 2

"""What every batching policy has to satisfy, as a check that anyone can run on a policy of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator.serving.run import ServingRun
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.protocols import BatchPolicy, BatchShape, Segment
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable

__all__ = ["ConformanceError", "check_batch_policy"]


class ConformanceError(Exception):
    """A batching policy broke a rule; the message says which and with what workload."""


class _LinearCost:
    """2 ms + 20 us per token + 1 us per token of context."""

    def iteration(self, batch: BatchShape) -> float:
        """Seconds."""
        context = batch.decode_context + sum(chunk + before for chunk, before in batch.prefill)
        return 2e-3 + 2e-5 * batch.tokens + 1e-6 * context

    def decode_segment(self, batch: BatchShape) -> Segment:
        """Affine in the context."""
        return Segment(self.iteration(batch), 1e-6 * batch.decodes, 50)


def check_batch_policy(policy: str | BatchPolicy, workloads: int = 12, seed: int = 0) -> None:
    """Serve random workloads, short of memory and not, and check the rules.

    Everybody who is accepted gets all tokens; exact jumps decide as iteration by iteration; tokens computed are those
    asked for, plus those recomputed; the cache is never overfull; the time integral of the number in system is the
    sum of the times in system (Little).

    Parameters
    ----------
    policy
        A registered name or an object of :class:`~simulator.strategies.protocols.BatchPolicy`.
    workloads
        How many.
    seed
        Of their lengths and times.

    Raises
    ------
    ConformanceError
        If one of the rules is broken.
    """
    for number in range(workloads):
        rng = np.random.Generator(np.random.PCG64([seed, number]))
        count = int(rng.integers(1, 50))
        table = RequestTable(
            np.cumsum(rng.exponential(1 / rng.choice([1.0, 30.0, 1000.0]), count)), _integers(rng, 1, 200, count),
            _integers(rng, 1, 100, count), "conformance", TraceProvenance("conformance", "generated", count, count),
            client=_integers(rng, 0, 3, count),
            priority=_integers(rng, 0, 3, count), session=_integers(rng, 0, 5, count),
        )  # fmt: skip
        limits: dict[str, Any] = {
            "kv_blocks": int(rng.choice([60, 2000])), "max_num_seqs": int(rng.choice([1, 8, 64])),
            "max_num_batched_tokens": 256, "replicas": int(rng.integers(1, 3)),
        }  # fmt: skip
        if rng.random() < 0.5:
            limits |= {"preemption": "swap", "host_memory": 1e5, "host_bandwidth": 1e6, "kv_bytes_per_token": 10.0}
        runs = [simulate_deployment(table, _LinearCost(), batching=policy, stride=s, **limits) for s in (None, 1)]
        for problem in _problems(*runs):
            raise ConformanceError(f"workload {number} of seed {seed} ({count} requests, {limits}): {problem}")


def _integers(rng: np.random.Generator, low: int, high: int, count: int) -> Any:
    return rng.integers(low, high, count)


def _problems(jump: ServingRun, single: ServingRun) -> list[str]:
    found = []
    accepted = jump.rejected == 0
    if not (jump.completed == accepted).all():
        found.append(f"{int((accepted & ~jump.completed).sum())} accepted requests were never finished")
        return found
    found += [
        f"'{column}' of exact jumps differs from that of single iterations: check the plan's horizon"
        for column in ("scheduled", "first_token", "finish")
        if not np.allclose(getattr(jump, column), getattr(single, column), rtol=1e-9, equal_nan=True)
    ]
    usage = jump.replicas
    asked = int((jump.input_tokens + jump.output_tokens - 1)[accepted].sum())
    computed = sum(u.prefill_tokens + u.decode_tokens + u.cached_tokens - u.recomputed_tokens for u in usage)
    if computed < asked:
        found.append(f"{computed} tokens computed, {asked} asked for")
    if any(u.kv_blocks_peak > u.kv_blocks_total for u in usage):
        found.append("the KV cache held more blocks than there are")
    integral = sum(u.waiting_time + u.running_time for u in usage)
    if not np.isclose(integral, jump.e2e[accepted].sum(), rtol=1e-9, atol=1e-9):
        found.append("requests in system over time are not the sum of times in system")
    return found

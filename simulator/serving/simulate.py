"""A deployment on a clock of its own, from the requests to what happened to them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from simulator.serving.compiled.choose import Loop
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.front_end import FrontEnd
from simulator.serving.limits import EngineLimits
from simulator.serving.run import ServingRun
from simulator.strategies.protocols import AdmissionPolicy, BatchPolicy, IterationCost, KVCachePolicy, Router
from simulator.workload.requests.table import RequestTable

if TYPE_CHECKING:
    from simulator.engine.clock import Clock

__all__ = ["simulate_deployment"]


def simulate_deployment(
    requests: RequestTable,
    cost: IterationCost,
    *,
    kv_blocks: int,
    block_size: int = 16,
    replicas: int = 1,
    batching: str | BatchPolicy = "chunked-prefill",
    router: str | Router = "round-robin",
    kv_cache: str | KVCachePolicy | None = None,
    admission: str | AdmissionPolicy = "always",
    max_num_batched_tokens: int = 8192,
    max_num_seqs: int = 256,
    max_model_len: int = 0,
    pipeline_stages: int = 1,
    watermark: float = 0.01,
    clock: Clock | None = None,
    until: float = math.inf,
    stride: int | None = None,
    seed: int = 0,
    loop: Loop = "auto",
    front_end: FrontEnd | None = None,
    **more_limits: Any,
) -> ServingRun:
    """Serve ``requests`` to the end, or until ``until`` [s], and return what happened.

    See :class:`DeploymentProcess` and :class:`~simulator.serving.replica.EngineLimits` for the parameters. With a
    ``clock`` of the caller everything else on it runs too.
    """
    if clock is None:
        from simulator.engine.clock import Clock as NewClock

        clock = NewClock()
    limits = EngineLimits(
        kv_blocks, block_size, max_num_batched_tokens, max_num_seqs, max_model_len, pipeline_stages, watermark,
        **more_limits,
    )  # fmt: skip
    process = DeploymentProcess(
        clock, requests, cost, limits, replicas=replicas, batching=batching, router=router, kv_cache=kv_cache,
        admission=admission, stride=stride, seed=seed, loop=loop, front_end=front_end,
    )  # fmt: skip
    done = process.start()
    clock.run(done if until == math.inf else clock.now + until)
    return process.result()

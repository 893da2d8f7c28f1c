"""Schedulers that plan an iteration while the one before it still runs.

Overlapped scheduling launches the next iteration before the results of the running one are there. Whoever comes while
decodes run finds the iteration after them launched already, and takes part in the one after that. Prompts are launched
kernel by kernel, so that the host is busy with them to their end: whoever comes meanwhile is seen then.
(sgl-project/sglang: ``event_loop_overlap``; NVIDIA/TensorRT-LLM: ``PyExecutor._executor_loop_overlap``.) Where workers
launch in processes of their own, the scheduler is an iteration ahead of prompts, too (vllm-project/vllm:
``EngineCore.step_with_batch_queue``).
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any, cast

from simulator.strategies.protocols import BatchPlan, BatchPolicy, ReplicaView, RequestState

__all__ = ["PlannedAhead", "planned_ahead"]


class _Known:
    """A replica as its scheduler knows it: some requests have not been seen yet."""

    def __init__(self, replica: ReplicaView, waiting: deque[RequestState]) -> None:
        self._replica, self.waiting = replica, waiting

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replica, name)


class PlannedAhead:
    """A batching policy whose plan is an iteration old.

    Parameters
    ----------
    base
        The policy.
    tokens
        Tokens per sequence of an iteration of the engine; a replica counts one per iteration.
    apart
        Whether the scheduler does not launch anything itself.

    Notes
    -----
    A request that comes while decodes run waits for 1.5 iterations in the mean, as an engine does; nobody waits for an
    idle engine.
    """

    def __init__(self, base: BatchPolicy, tokens: float = 1.0, apart: bool = False) -> None:
        self.base, self.name, self.kv_policy = base, base.name, base.kv_policy
        self.release_together, self.decodes_when_idle, self.moves_requests = False, True, False
        # 1.5 iterations of the engine, less the half of a replica's until its next boundary.
        self.lag = max(1, round(1.5 * tokens - 0.5))
        self._seen: dict[int, int] = {}
        self._apart, self._prompts = apart, -2

    def arrival_matters(self, replica: ReplicaView) -> bool:
        """Every arrival begins to be counted."""
        return True

    def longest_prefill(self, replica: ReplicaView) -> int:
        """As for the policy."""
        return self.base.longest_prefill(replica)

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """The policy's plan for the requests that were there when the last iteration was launched."""
        plan, at = None, replica.iterations
        fresh = self._fresh(replica.waiting, at)
        known = len(replica.waiting) - len(fresh)
        if fresh and (known or replica.decodes or replica.prefilling):
            view = _Known(replica, deque(islice(replica.waiting, known)))
            plan = self.base.schedule(cast(ReplicaView, view), now)
            plan = plan._replace(horizon=min(plan.horizon, self._seen[fresh[-1].index] + self.lag - at))
        if plan is None or not (plan.prefill or plan.moves or replica.decodes):
            plan = self.base.schedule(replica, now)
        if plan.prefill:
            self._prompts = at
        return plan

    def _fresh(self, waiting: deque[RequestState], at: int) -> list[RequestState]:
        """Who came too late for the iteration after the ``at``-th, the last to come first."""
        if not waiting:
            self._seen.clear()
            return []
        fresh, prompts = list[RequestState](), at == self._prompts + 1 and not self._apart
        for request in reversed(waiting):
            seen = self._seen.get(request.index, at)
            if request.preemptions or seen + self.lag <= at:
                break
            self._seen[request.index] = at - self.lag if prompts else seen
            if not prompts:
                fresh.append(request)
        return fresh


def planned_ahead(policy: BatchPolicy, tokens: float, apart: bool = False) -> BatchPolicy:
    """The policy as an overlapped scheduler follows it, where it batches iteration by iteration."""
    if policy.release_together or policy.moves_requests or not policy.decodes_when_idle:
        return policy
    return PlannedAhead(policy, tokens, apart)

"""Prompts that the engine holds back for some iterations, in front of another batching policy.

Both count iterations, not seconds: while requests decode, a waiting prompt is looked at again after a fixed number of
them. That number is the plan's horizon, so a replica still jumps over the decodes in between.
"""

from __future__ import annotations

from simulator.errors import ConfigError
from simulator.registry import lookup, register
from simulator.strategies.protocols import BatchPlan, BatchPolicy, ReplicaView

__all__ = ["BatchWait", "Polled"]


class _Held:
    """Traits of the policy behind."""

    name: str
    release_together = False
    kv_policy = "paged"
    moves_requests = False
    decodes_when_idle = True

    def __init__(self, base: str, iterations: int) -> None:
        if iterations < 0:
            raise ConfigError(f"iterations is a number of iterations, 0 or more, not {iterations}")
        self.base: BatchPolicy = lookup("batching", base)()
        self.iterations = iterations
        if self.base.release_together or self.base.moves_requests or not self.base.decodes_when_idle:
            raise ConfigError(
                f"prompts are held for policies that batch iteration by iteration, which '{base}' does not"
            )
        self.kv_policy = self.base.kv_policy

    def arrival_matters(self, replica: ReplicaView) -> bool:
        """As for the policy behind."""
        return self.base.arrival_matters(replica)

    def longest_prefill(self, replica: ReplicaView) -> int:
        """As for the policy behind."""
        return self.base.longest_prefill(replica)


@register(
    "polled",
    kind="policy",
    area="serving",
    family="batching",
    cites=(
        "sgl-project/sglang scheduler_recv_skipper.py and --scheduler-recv-interval: a decode counts 1, a prefill 1000",
    ),
    validated_by="closed_form",
)
class Polled(_Held):
    """The scheduler looks for new requests once per ``iterations`` decodes, and after every prefill (SGLang).

    Parameters
    ----------
    base
        Policy for the requests it has seen.
    iterations
        Decode iterations from one look to the next; 0 and 1 are the policy behind.

    Notes
    -----
    An idle engine looks all the time. A request that comes while others decode waits half the interval in the mean.
    """

    def __init__(self, base: str = "chunked-prefill-first", iterations: int = 1) -> None:
        super().__init__(base, iterations)
        self._anchor = 0

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """The policy behind at a look, else decodes until the next one."""
        every = max(1, self.iterations)
        if not replica.waiting or not replica.decodes:
            self._note(replica, plan := self.base.schedule(replica, now))
            return plan
        beyond = (replica.iterations - self._anchor) % every
        if beyond and not replica.prefilling and not any(r.preemptions for r in replica.waiting):
            return BatchPlan(horizon=every - beyond)
        self._note(replica, plan := self.base.schedule(replica, now))
        return plan if plan.prefill else plan._replace(horizon=min(plan.horizon, every))

    def _note(self, replica: ReplicaView, plan: BatchPlan) -> None:
        """The count starts anew with the iteration after a prefill."""
        if plan.prefill:
            self._anchor = replica.iterations + 1


@register(
    "batch-wait",
    kind="policy",
    area="serving",
    family="batching",
    cites=("NVIDIA/TensorRT-LLM PyExecutor: batch_wait_timeout_iters, batch_wait_max_tokens_ratio",),
    validated_by="closed_form",
)
class BatchWait(_Held):
    """Waiting prompts are held until they fill a share of the token budget, or for ``iterations`` at most.

    Parameters
    ----------
    base
        Policy for the prompts that are let through.
    iterations
        ``batch_wait_timeout_iters``: iterations that decodes go on alone; 0 is the policy behind.
    ratio
        ``batch_wait_max_tokens_ratio``: waiting prompts and decodes together reach this share of the token budget.

    Notes
    -----
    Nobody waits while nothing decodes.
    """

    def __init__(self, base: str = "chunked-prefill", iterations: int = 0, ratio: float = 1.0) -> None:
        super().__init__(base, iterations)
        if not 0.0 < ratio <= 1.0:
            raise ConfigError(f"ratio is a share of the token budget above 0 and up to 1, not {ratio}")
        self.ratio = ratio
        self._since = -1

    def arrival_matters(self, replica: ReplicaView) -> bool:
        """Any arrival may fill the budget, or start the count."""
        return replica.running < replica.max_num_seqs

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """Decodes alone until the wait is over."""
        if replica.waiting and replica.decodes and not replica.prefilling:
            if self._since < 0:
                self._since = replica.iterations
            left = self._since + self.iterations - replica.iterations
            tokens = replica.decodes + sum(r.remaining_prefill for r in replica.waiting)
            if left > 0 and tokens < self.ratio * replica.max_num_batched_tokens:
                return BatchPlan(horizon=left)
        plan = self.base.schedule(replica, now)
        if plan.prefill:
            self._since = -1
        return plan

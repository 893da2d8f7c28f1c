"""Request-level batches whose size or delay follows what is observed."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.batching.request_level import Static
from simulator.strategies.protocols import BatchPlan, BatchShape, ReplicaView

__all__ = ["ClipperAIMD", "ServerlessBatch"]


@register(
    "clipper-aimd",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Crankshaw et al., Clipper: A Low-Latency Online Prediction Serving System, NSDI 2017, section 4.3",),
    catalogue=("Clipper",),
    validated_by="closed_form",
)
class ClipperAIMD(Static):
    """The batch limit grows by a step while batches meet the objective and shrinks by a share when one does not.

    Parameters
    ----------
    slo
        Latency objective of a batch [s].
    step
        Additive increase [requests].
    backoff
        Multiplicative decrease (0.9: by 10 %, as in the paper).
    max_delay
        Longest time the oldest request waits for a full batch [s] (delayed batching); 0 starts at once.
    """

    decodes_when_idle = False

    def __init__(self, slo: float = 1.0, step: int = 1, backoff: float = 0.9, max_delay: float = 0.0) -> None:
        super().__init__(1)
        self.slo = slo
        self.step = step
        self.backoff = backoff
        self.max_delay = max_delay
        self._limit = 1.0
        self._started: float | None = None
        self._full = False

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """Learn from the batch that has ended, then form the next."""
        if replica.running:
            return BatchPlan()
        if self._started is not None:
            if now - self._started > self.slo:
                self._limit = max(1.0, self._limit * self.backoff)
            elif self._full:
                # Only a full batch says that a larger one could do.
                self._limit += self.step
            self._started = None
            self.max_batch_size = int(self._limit)
        if not replica.waiting:
            return BatchPlan()
        due = replica.waiting[0].arrival + self.max_delay
        if now < due and len(replica.waiting) < self.max_batch_size:
            return BatchPlan(decode=False, wake=due)
        plan = self.form(replica)
        if plan.prefill:
            self._started, self._full = now, len(plan.prefill) >= self.max_batch_size
        return plan

    def arrival_matters(self, replica: ReplicaView) -> bool:
        """Never: the running batch is closed."""
        return False


@register(
    "batch",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Ali et al., BATCH: Machine Learning Inference Serving on Serverless Platforms with Adaptive Batching, "
           "SC 2020",),
    catalogue=("BATCH",),
    validated_by="closed_form",
)  # fmt: skip
class ServerlessBatch(Static):
    """Batch size and time-out from a model of the arrivals: the cheapest batch that keeps the latency objective.

    A batch of b requests costs service(b)/b per request and takes its oldest request timeout + service(b); so b is
    the largest (service per request falls with b) whose expected filling time (b − 1)/λ leaves room for its service
    within the objective. λ is taken from the last arrivals: the paper fits a Markovian arrival process, of which
    this is the Poisson case. Memory size, its third knob, is the deployment's choice of hardware.

    Parameters
    ----------
    slo
        Latency objective [s].
    window
        Arrivals that λ is estimated from.
    """

    def __init__(self, slo: float = 1.0, window: int = 64) -> None:
        super().__init__(1)
        self.slo = slo
        self.window = window
        self._arrivals: dict[int, float] = {}

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """Form a batch when it is full or the oldest request has to start."""
        if replica.running or not replica.waiting:
            return BatchPlan()
        for request in replica.waiting:
            self._arrivals[request.index] = request.arrival
        times = sorted(self._arrivals.values())[-self.window :]
        self._arrivals = dict(sorted(self._arrivals.items(), key=lambda item: item[1])[-self.window :])
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0
        size, timeout = self.choose(replica, rate)
        self.max_batch_size = size
        due = replica.waiting[0].arrival + timeout
        if now < due and len(replica.waiting) < size:
            return BatchPlan(decode=False, wake=due)
        return self.form(replica)

    def choose(self, replica: ReplicaView, rate: float) -> tuple[int, float]:
        """Batch size and time-out [s] for ``rate`` arrivals per second."""
        first = replica.waiting[0]
        size, timeout = 1, 0.0
        while rate > 0.0 and size < replica.max_num_seqs:
            service = self.service(replica, size + 1, first.input_tokens, first.output_tokens)
            if size / rate + service > self.slo:
                break
            size += 1
            timeout = self.slo - service
        return size, timeout

    @staticmethod
    def service(replica: ReplicaView, size: int, prompt: int, output: int) -> float:
        """Time of a batch of equal requests [s]; all tokens at the middle context."""
        middle = prompt + output // 2
        step = replica.predict(BatchShape((), size, size * middle, middle)) if output > 1 else 0.0
        return replica.predict(BatchShape(((prompt, 0),) * size, 0, 0)) + (output - 1) * step

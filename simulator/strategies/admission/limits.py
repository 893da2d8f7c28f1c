"""Refusal on arrival: never, by queue length, or by the time to first token one can foresee."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.admission.forecast import first_token_seconds
from simulator.strategies.protocols import ReplicaView, RequestState

__all__ = ["Always", "FirstTokenDeadline", "QueueLimit"]


@register("always", kind="policy", area="serving", family="admission", validated_by="closed_form")
class Always:
    """Everybody may wait."""

    name: str

    def refuse(self, request: RequestState, replica: ReplicaView, now: float) -> str:
        """Never."""
        return ""


@register(
    "queue-limit",
    kind="policy",
    area="serving",
    family="admission",
    cites=("Erlang, 1917: loss systems (M/M/c/K)",),
    validated_by="closed_form",
)
class QueueLimit:
    """Refuses once so many requests wait at the chosen replica.

    Parameters
    ----------
    max_waiting
        Requests that may wait; 0 gives a loss system.
    """

    name: str

    def __init__(self, max_waiting: int = 1024) -> None:
        self.max_waiting = max_waiting

    def refuse(self, request: RequestState, replica: ReplicaView, now: float) -> str:
        """When the queue is full, an idle replica's first request aside."""
        waiting = replica.outstanding - replica.running
        full = waiting > self.max_waiting or (waiting == self.max_waiting and replica.running >= replica.max_num_seqs)
        return "queue full" if full else ""


@register(
    "ttft-deadline",
    kind="policy",
    area="serving",
    family="admission",
    cites=("Qin et al., Mooncake, FAST 2025, arXiv:2407.00079 (early rejection)",),
    catalogue=("MLLM/PD routers (Llumnix, Mooncake)",),
    validated_by="closed_form",
)
class FirstTokenDeadline:
    """Refuses a request whose first token would come too late: prompts queued before it, then its own.

    Parameters
    ----------
    ttft
        Longest foreseen time to first token [s].
    """

    name: str

    def __init__(self, ttft: float = 10.0) -> None:
        self.ttft = ttft

    def refuse(self, request: RequestState, replica: ReplicaView, now: float) -> str:
        """When the forecast is beyond the limit."""
        late = first_token_seconds(request, replica, now) > self.ttft
        return "predicted time to first token above the limit" if late else ""

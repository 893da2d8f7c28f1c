"""Policies that interrupt what runs for something more urgent."""

from __future__ import annotations

from abc import ABC, abstractmethod

from simulator.registry import register
from simulator.strategies.batching.prediction import LengthPredictor
from simulator.strategies.protocols import BatchPlan, Moves, ReplicaView, RequestState

__all__ = ["Preemptive", "Priority", "ShortestRemainingTime"]

Rank = tuple[float, float, int]


class Preemptive(ABC):
    """The best ranked requests run; others pause, and make room where the KV cache is short.

    Who steps back keeps its blocks as long as nobody better needs them; then the worst ranked give theirs up: to host
    memory where there is room, else to be computed again.
    """

    name: str
    release_together = False
    kv_policy = "paged"
    moves_requests = True
    decodes_when_idle = False

    @abstractmethod
    def rank(self, request: RequestState, replica: ReplicaView) -> Rank:
        """Least first."""

    def arrival_matters(self, replica: ReplicaView) -> bool:
        """Any arrival may be the most urgent."""
        return True

    def longest_prefill(self, replica: ReplicaView) -> int:
        """No limit of its own."""
        return 1 << 60

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """The best ranked, as far as seats, tokens and blocks go."""
        if not (replica.waiting or replica.prefilling or replica.paused or replica.swapped):
            return BatchPlan()
        return self.choose(replica)[0]

    def choose(self, replica: ReplicaView) -> tuple[BatchPlan, list[RequestState]]:
        """The plan, and those of the decoding, paused and swapped ones that take part."""
        places = dict.fromkeys(replica.decoding, "decoding")
        places |= dict.fromkeys(replica.paused, "paused") | dict.fromkeys(replica.prefilling, "prefilling")
        places |= dict.fromkeys(replica.waiting, "waiting") | dict.fromkeys(replica.swapped, "swapped")
        ranked = sorted(places, key=lambda r: self.rank(r, replica))
        room = _Room(replica, ranked, places)
        budget, seats = replica.max_num_batched_tokens, replica.max_batch_seqs
        prefill: list[tuple[RequestState, int]] = []
        decode: list[RequestState] = []
        for request in ranked:
            if seats == 0 or budget <= 0 or request in room.victims:
                break
            place = places[request]
            if not room.make(request, place):
                if prefill or decode:
                    break
                # Shared blocks come free for nobody alone: rather someone less urgent runs than no one.
                continue
            seats -= 1
            if place in ("waiting", "prefilling"):
                chunk = min(request.remaining_prefill, budget)
                prefill.append((request, chunk))
                budget -= chunk
            else:
                decode.append(request)
                budget -= 1
        chosen = set(decode)
        moves = Moves(
            pause=[r for r in ranked if places[r] == "decoding" and r not in chosen and r not in room.victims],
            resume=[r for r in decode if places[r] in ("paused", "swapped")],
            swap_out=[r for r in room.victims if places[r] != "prefilling"],
            preempt=[r for r in room.victims if places[r] == "prefilling"],
        )
        return BatchPlan(prefill, moves=moves if any(moves) else None), decode


class _Room:
    """KV blocks for those who come, at the cost of the worst ranked who have some."""

    def __init__(self, replica: ReplicaView, ranked: list[RequestState], places: dict[RequestState, str]) -> None:
        self._replica = replica
        self._free = replica.free_blocks - max(replica.watermark_blocks, 1)
        # Blocks already taken for coming tokens are given back when requests move.
        self._decodes = 0
        self._taken = 0
        self._worst = [r for r in ranked if places[r] in ("decoding", "paused", "prefilling")]
        self._safe: set[RequestState] = set()
        self.victims: dict[RequestState, None] = {}

    def make(self, request: RequestState, place: str) -> bool:
        """Room for one more; ``False`` where even the worst ranked cannot give enough."""
        self._safe.add(request)
        if place in ("decoding", "paused"):
            if self._taken and self._free - self._taken - self._decodes < 1:
                return False
            self._decodes += 1
            return True
        if place == "prefilling":
            return True
        needed = self._replica.blocks_for(request) if place == "waiting" else self._replica.held(request)
        victims: list[RequestState] = []
        free = self._free - self._taken - self._decodes
        while free < needed:
            if not self._worst or self._worst[-1] in self._safe:
                self._worst.extend(reversed(victims))
                return False
            victims.append(self._worst.pop())
            free += self._replica.frees(victims[-1])
        self._free += sum(self._replica.frees(v) for v in victims)
        self._taken += needed
        self._decodes += place == "swapped"
        self.victims |= dict.fromkeys(victims)
        return True


@register(
    "priority",
    kind="policy",
    area="serving",
    family="batching",
    cites=("vLLM documentation, scheduling_policy 'priority'",),
    validated_by="closed_form",
)
class Priority(Preemptive):
    """The most urgent requests run (greater ``priority`` first, then by arrival), at the cost of less urgent ones."""

    def rank(self, request: RequestState, replica: ReplicaView) -> Rank:
        """Urgency, then arrival."""
        return -request.priority, request.arrival, request.index


@register(
    "srtf",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Schrage, A Proof of the Optimality of the Shortest Remaining Processing Time Discipline, "
           "Operations Research 16(3), 1968",),
    validated_by="closed_form",
)  # fmt: skip
class ShortestRemainingTime(Preemptive):
    """The requests with the fewest predicted tokens to go run, at the cost of longer ones.

    Parameters
    ----------
    error
        σ of the logarithm of predicted over true output length.
    seed
        Of the predictor.
    """

    def __init__(self, error: float = 0.0, seed: int = 0) -> None:
        self._predictor = LengthPredictor(error, seed)

    def rank(self, request: RequestState, replica: ReplicaView) -> Rank:
        """Predicted tokens to go; one that has outlived its prediction is about to end."""
        left = self._predictor.output_tokens(request) - replica.produced(request)
        return max(left, 1), request.arrival, request.index

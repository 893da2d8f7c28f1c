"""A small model in front of a large one, on one clock: who is not sure of the small one's answer asks the large one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from simulator.serving.deployment import DeploymentProcess
from simulator.serving.limits import mean_limits
from simulator.serving.run import ServingRun
from simulator.serving.summary import ServingSummary, SummaryRows
from simulator.serving.usage import ReplicaUsage
from simulator.strategies.cascade.models import Cascade
from simulator.strategies.protocols import RequestState
from simulator.workload.jobs import ServiceLevel
from simulator.workload.requests.table import RequestTable

if TYPE_CHECKING:
    import simpy

    from simulator.engine.clock import Clock

__all__ = ["CascadedDeployment"]

Opener = Callable[..., DeploymentProcess]


class CascadedDeployment:
    """Serves every request with a small deployment, and those that are rerouted with a large one as well.

    Parameters
    ----------
    clock
        The one clock.
    requests
        What arrives at the small deployment.
    cascade
        Who is rerouted, what of the prompt is left, and after how long.
    small, large
        Make the two deployments from a request table and keywords of
        :class:`~simulator.serving.deployment.DeploymentProcess`.
    seed
        Of the draw who is rerouted.
    record, slo
        As of :class:`~simulator.serving.deployment.DeploymentProcess`.
    """

    def __init__(
        self, clock: Clock, requests: RequestTable, cascade: Cascade, small: Opener, large: Opener, seed: int = 0,
        record: Literal["full", "summary"] = "full", slo: ServiceLevel | None = None,
    ) -> None:  # fmt: skip
        self.clock, self.requests, self.cascade = clock, requests, cascade
        draws = np.random.Generator(np.random.PCG64(seed)).random(len(requests))
        self.rerouted = draws < cascade.reroute
        self._rows = SummaryRows(requests, slo=slo) if record == "summary" else None
        self._between: dict[int, RequestState] = {}
        """Requests that have the small model's answer and wait for the large one's, where no rows are kept."""
        self._ended = self._sample_at = 0
        self.small = small(requests, on_finish=self._answered, record=record)
        left = np.maximum(1, np.ceil(requests.input_tokens * (1.0 - cascade.pruned))).astype(np.int32)
        plain = dict.fromkeys(("session", "turn", "client", "priority", "think_time", "parent", "prefix_blocks"))
        cut: Any = {**plain, "prefix_block_tokens": 0, "closed_loop_concurrency": None}
        self.large = large(
            replace(requests, input_tokens=left, **cut), fed=True, record=record,
            on_finish=self._answered_again if self._rows else None,
        )  # fmt: skip
        self.done: simpy.Event | None = None

    def start(self) -> simpy.Event:
        """Begin now; the event fires with the :class:`ServingRun` when the last request has ended."""
        self.done = self.clock.event()
        first, second = self.small.start(), self.large.start()
        assert first.callbacks is not None and second.callbacks is not None
        first.callbacks.append(lambda _: self.large.close())
        done = self.done

        def ended(_: object) -> None:
            done.succeed(self.result())

        second.callbacks.append(ended)
        return self.done

    def _answered(self, request: RequestState, time: float) -> None:
        asked = self.rerouted[request.index]
        if self._rows is not None:
            self._sample(self._rows, time)
            if asked:
                self._between[request.index] = request
            else:
                self._count(self._rows, request, time)
        if asked:
            self.large.release(request.index, time + self.cascade.delay)

    def _sample(self, rows: SummaryRows, time: float) -> None:
        """Note how many are in the system, those who only wait to ask again left out."""
        if self.small.arrivals >= self._sample_at:
            inside = sum(len(d.held) + sum(r.outstanding for r in d.replicas) for d in (self.small, self.large))
            self._sample_at = rows.sample(self._ended + inside, time, 0, self._ended)

    def _answered_again(self, request: RequestState, time: float) -> None:
        first = self._between.pop(request.index)
        first.first_token = request.first_token
        first.preemptions += request.preemptions
        assert self._rows is not None
        self._count(self._rows, first, time)

    def _count(self, rows: SummaryRows, request: RequestState, time: float) -> None:
        self._ended += 1
        rows.finish(request, time)

    def result(self) -> ServingRun | ServingSummary:
        """What has happened so far; a rerouted request is answered by the large model."""
        return self._full() if self._rows is None else self._brief(self._rows)

    def _brief(self, rows: SummaryRows) -> ServingSummary:
        small, large = cast(ServingSummary, self.small.outcome()), cast(ServingSummary, self.large.outcome())
        whole = rows.summary((*small.replicas, *self._numbered(small.replicas, large.replicas)))
        whole.sketches["itl"] = deepcopy(small.sketches["itl"])
        whole.sketches["itl"].merge(large.sketches["itl"])
        refused = {
            reason: small.rejections.get(reason, 0) + large.rejections.get(reason, 0)
            for reason in (*small.rejections, *large.rejections)
        }
        unfinished = self.small.arrivals - whole.counts["requests"] - sum(refused.values())
        return replace(
            whole, counts={**whole.counts, "unfinished": unfinished}, rejections=refused,
            first_arrival=small.first_arrival,
        )  # fmt: skip

    @staticmethod
    def _numbered(small: Sequence[ReplicaUsage], large: Sequence[ReplicaUsage]) -> Sequence[ReplicaUsage]:
        """The large model's replicas, numbered on from the small one's."""
        for usage in large:
            usage.index = len(small) + usage.index % len(large)
        return large

    def _full(self) -> ServingRun:
        small, large = cast(ServingRun, self.small.outcome()), cast(ServingRun, self.large.outcome())
        asked = self.rerouted & small.completed
        reasons = tuple(dict.fromkeys([*small.reasons, *large.reasons]))
        codes = np.array([reasons.index(reason) for reason in large.reasons])
        count = len(small.replicas)
        self._numbered(small.replicas, large.replicas)

        def pick(name: str) -> Any:
            return np.where(asked, getattr(large, name), getattr(small, name))

        return replace(
            small, first_token=pick("first_token"), finish=pick("finish"),
            preemptions=small.preemptions + np.where(asked, large.preemptions, 0),
            replica=np.where(asked & (large.replica >= 0), large.replica + count, small.replica),
            rejected=np.where(asked, codes[large.rejected], small.rejected), reasons=reasons,
            gaps=np.concatenate([small.gaps, large.gaps]), replicas=(*small.replicas, *large.replicas),
            limits=mean_limits([*[small.limits] * count, *[large.limits] * len(large.replicas)]),
        )  # fmt: skip

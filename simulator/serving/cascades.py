"""A small model in front of a large one, on one clock: who is not sure of the small one's answer asks the large one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from simulator.serving.deployment import DeploymentProcess
from simulator.serving.limits import mean_limits
from simulator.serving.run import ServingRun
from simulator.strategies.cascade.models import Cascade
from simulator.strategies.protocols import RequestState
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
    """

    def __init__(
        self, clock: Clock, requests: RequestTable, cascade: Cascade, small: Opener, large: Opener, seed: int = 0
    ) -> None:  # fmt: skip
        self.clock, self.requests, self.cascade = clock, requests, cascade
        draws = np.random.Generator(np.random.PCG64(seed)).random(len(requests))
        self.rerouted = draws < cascade.reroute
        self.small = small(requests, on_finish=self._answered)
        left = np.maximum(1, np.ceil(requests.input_tokens * (1.0 - cascade.pruned))).astype(np.int32)
        plain = dict.fromkeys(("session", "turn", "client", "priority", "think_time", "parent", "prefix_blocks"))
        cut: Any = {**plain, "prefix_block_tokens": 0, "closed_loop_concurrency": None}
        self.large = large(replace(requests, input_tokens=left, **cut), fed=True)
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
        if self.rerouted[request.index]:
            self.large.release(request.index, time + self.cascade.delay)

    def result(self) -> ServingRun:
        """What has happened so far; a rerouted request is answered by the large model."""
        small, large = cast(ServingRun, self.small.outcome()), cast(ServingRun, self.large.outcome())
        asked = self.rerouted & small.completed
        reasons = tuple(dict.fromkeys([*small.reasons, *large.reasons]))
        codes = np.array([reasons.index(reason) for reason in large.reasons])
        count = len(small.replicas)
        for usage in large.replicas:
            usage.index = count + usage.index % len(large.replicas)

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

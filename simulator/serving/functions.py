"""Requests that go to functions: instances of somebody else that start with the request and are paid by the request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from simulator.strategies.serving_protocols import BatchShape, IterationCost, RequestState
from simulator.workload.fleets import Functions

if TYPE_CHECKING:
    from simulator.engine.clock import Clock
    from simulator.serving.deployment import DeploymentProcess

__all__ = ["FunctionBursts", "time_alone"]


def time_alone(cost: IterationCost, inputs: int, outputs: int) -> tuple[float, float]:
    """Prompt, and all further tokens of a request with nobody else on the replica [s]."""
    first = cost.iteration(BatchShape(((inputs, 0),), 0, 0))
    rest, context, left = 0.0, inputs + 1, outputs - 1
    while left > 0:
        base, slope, valid = cost.decode_segment(BatchShape((), 1, context, context))
        count = min(valid, left)
        rest += base * count + slope * (count * (count - 1) // 2)
        context += count
        left -= count
    return first, rest


class FunctionBursts:
    """Serves on functions what a policy sends there, each request on one of its own.

    Parameters
    ----------
    clock, process
        The one clock, the deployment whose requests these are.
    functions
        How quick and how expensive they are.
    wanted
        Whether the request that comes at a time [s] goes to a function.
    """

    def __init__(
        self, clock: Clock, process: DeploymentProcess, functions: Functions, wanted: Callable[[float], bool]
    ) -> None:
        self.clock, self.process, self.functions, self.wanted = clock, process, functions, wanted
        self.count = 0
        """Requests that went to one."""
        self._origin = clock.now
        process.on_arrival = self._arrives

    @property
    def cost(self) -> float:
        """Of all of them so far [USD]."""
        return self.count * self.functions.price

    def _arrives(self, request: RequestState, now: float) -> bool:
        if not self.wanted(now):
            return False
        self.count += 1
        functions = self.functions
        first, rest = time_alone(self.process.costs[0], request.input_tokens, request.output_tokens)
        request.scheduled = now + functions.startup
        request.first_token = request.scheduled + first / functions.speed
        finish = request.first_token + rest / functions.speed
        time = max(self._origin + finish, self.clock.now)
        self.clock.at(time, lambda: self.process.served(request, finish))
        return True

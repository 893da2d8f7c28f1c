"""A scheduler that learns can drive the simulator: sites and calls as an environment of Gymnasium (extra ``rl``).

One step is one call: the action says at which site it runs, the reward counts what was finished, spent and emitted
until the next call arrives. A policy that acts here leads to the very run that the same policy leads to in
``fmsim run``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from simulator.cluster.function_fleet import FleetRun, FunctionFleet
from simulator.cluster.functions_tenant import FunctionWorkload, make_keep_alive
from simulator.strategies.site_protocols import SiteView

__all__ = ["Reward", "SiteEnv"]

FEATURES = ("free", "queued", "warm", "latency", "slowness", "cold", "price", "carbon")
"""Per site: shares of the capacity, idle containers of the function, [s], 1, [s], [USD/h], [kg/h]; at most 1e3."""
MOST = 1e3


@dataclass(frozen=True)
class Reward:
    """What is taken off for each.

    Attributes
    ----------
    response
        Per second of response time of a finished call.
    missed
        Per call beyond the workload's response limit, or turned away.
    usd, carbon
        Per USD, and per kilogram.
    """

    response: float = 1.0
    missed: float = 1.0
    usd: float = 1.0
    carbon: float = 1.0


class SiteEnv(gym.Env[NDArray[np.float32], np.int64]):
    """Places the calls of one function workload, one after another.

    Observation: :data:`FEATURES` of every site as telemetry shows them, then the expected execution time of the call
    [s]. Action: number of the site.

    Parameters
    ----------
    workload
        From ``load_scenario(...).functions``.
    reward
        Weights.
    seed
        Of the telemetry's noise; ``reset(seed=...)`` sets another.

    Attributes
    ----------
    fleet, call
        What is simulated, and the number of the call that waits for a site.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(self, workload: FunctionWorkload, reward: Reward = Reward(), seed: int = 0) -> None:
        self.workload, self.weights, self._seed = workload, reward, seed
        self._sites = tuple(s for s in workload.sites if s.capacity >= 1)
        size = len(FEATURES) * len(self._sites) + 1
        self.observation_space = gym.spaces.Box(0.0, MOST, (size,), np.float32)
        self.action_space = gym.spaces.Discrete(len(self._sites))
        self.fleet: FunctionFleet | None = None
        self.call = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin anew; the calls are always those of the workload."""
        super().reset(seed=seed)
        self._seed = self._seed if seed is None else seed
        work = self.workload
        self.fleet = FunctionFleet(work.calls, self._sites, work.settings, make_keep_alive(work), self._seed)
        self.call, self._spent, self._emitted, self._counted = 0, 0.0, 0.0, 0
        if len(work.calls):
            self.fleet.advance(float(work.calls.arrival[0]))
        return self._look(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Place the call that waits, and go on to the next."""
        assert self.fleet is not None, "call reset first"
        placed = self.fleet.place(self.call, int(action))
        self.call += 1
        over = self.call >= len(self.workload.calls)
        info: dict[str, Any] = {}
        if over:
            info["run"] = self.fleet.finish()
        else:
            self.fleet.advance(float(self.workload.calls.arrival[self.call]))
        return self._look(), self._earned(placed), over, False, info

    @property
    def views(self) -> list[SiteView]:
        """What a registered policy would be shown at this step."""
        return self._views

    def result(self) -> FleetRun:
        """What became of the calls so far."""
        assert self.fleet is not None, "call reset first"
        return self.fleet.finish()

    def _earned(self, placed: bool) -> float:
        assert self.fleet is not None
        done = self.fleet.finished[self._counted :]
        self._counted += len(done)
        limit, weights = self.workload.response or np.inf, self.weights
        lost = 0.0 if placed else weights.missed
        for call in done:
            response = self.fleet.response_of(call)
            lost += weights.response * response + weights.missed * (response > limit)
        spent = sum(s.held * sum(s.site.rent) / 2 + s.power_cost for s in self.fleet.states)
        emitted = sum(s.carbon for s in self.fleet.states) / 1e3
        lost += weights.usd * (spent - self._spent) + weights.carbon * (emitted - self._emitted)
        self._spent, self._emitted = spent, emitted
        return -float(lost)

    def _look(self) -> NDArray[np.float32]:
        assert self.fleet is not None
        if self.call >= len(self.workload.calls):
            return np.zeros(self.observation_space.shape or (), np.float32)
        self._views = self.fleet.views(self.call)
        values: list[float] = []
        for v in self._views:
            values += [v.free / v.capacity, v.queued / v.capacity, v.warm, v.latency, v.slowness, v.cold]
            values += [v.price * 3600, v.carbon * 3.6]
        values.append(self.fleet.call(self.call).seconds)
        return np.clip(np.array(values, np.float32), 0.0, MOST)

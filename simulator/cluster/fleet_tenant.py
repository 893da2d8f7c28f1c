"""A deployment whose replicas come and go, as a tenant: autoscaling, loading, spot machines, and what they cost."""

from __future__ import annotations

import inspect
from typing import Any

from simulator.cluster.economics import Bill, with_item
from simulator.cluster.replica_failures import ReplicaFailures
from simulator.cluster.request_moves import RequestMoves
from simulator.cluster.serving_engine import Engine
from simulator.cluster.serving_tenant import Outcome, ServingTenant
from simulator.cluster.tenants import ClusterScenario, Commons
from simulator.cluster.weight_loading import WeightFlows, nominal_rate
from simulator.registry import lookup
from simulator.results.tables import Columns
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.scaling import ReplicaFleet
from simulator.workload.fleets import Autoscaling
from simulator.workload.jobs import Deployment
from simulator.workload.ops import TensorClass, Tier

__all__ = ["FleetTenant"]


class FleetTenant(ServingTenant):
    """A deployment under an autoscaler, or on machines that may be taken away or fail."""

    fleet: ReplicaFleet
    moves: RequestMoves

    def __init__(self, deployment: Deployment, scenario: ClusterScenario, number: int) -> None:
        super().__init__(deployment, scenario, number)
        self.fails = scenario.failures is not None
        # Without an autoscaler there are as many replicas as asked for, and one that is lost is replaced.
        fixed, model = deployment.replicas, scenario.failures
        restart = model.restart if model is not None else 0.0
        source = "host" if self.main.cluster.groups[0].node.nvme is None else "nvme"
        self.scaling = deployment.autoscaling or Autoscaling("", fixed, fixed, fixed, startup=restart, load_from=source)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the engine, and what the autoscaler assumes."""
        name, scaling = self.deployment.name, self.scaling
        notes = []
        if not scaling.startup and (self.deployment.autoscaling or self.deployment.spot or self.fails):
            notes.append(f"{name}: no start-up time is given: a replica is ready once its weights are there")
        if self._needs_target and not self.reason:
            notes.append(f"{name}: autoscaling aims at {self._batch:.0f} requests per replica, a full engine's batch")
        return (*super().warnings, *notes)

    @property
    def _needs_target(self) -> bool:
        """Whether the policy aims at so many requests per replica and the scenario does not say how many."""
        if not self.scaling.policy or "target" in self.scaling.options:
            return False
        return "target" in inspect.signature(lookup("autoscaling", self.scaling.policy)).parameters

    @property
    def _batch(self) -> float:
        return self.main.estimate.metrics["decode_batch"]

    def open(self, commons: Commons) -> DeploymentProcess:
        """The deployment, its replicas in the hands of the fleet."""
        process = super().open(commons)
        assert isinstance(process, DeploymentProcess)
        scaling, d = self.scaling, self.deployment
        stages = [s for s in self.main.estimate.memory.stages if s.tier is Tier.HBM]
        sizes = [s.by_class.get(TensorClass.PARAM.value, 0.0) for s in stages]
        rate = nominal_rate(commons.scenario.cluster, scaling.load_from, d.plan.accelerators)
        policy = None
        if scaling.policy:
            target = {"target": self._batch} if self._needs_target else {}
            policy = lookup("autoscaling", scaling.policy)(**target, **scaling.options)
        self.fleet = ReplicaFleet(
            commons.clock, process, policy, minimum=scaling.minimum, maximum=scaling.maximum, initial=scaling.initial,
            load=WeightFlows(commons, d.name, sizes, scaling.load_from), interval=scaling.interval,
            startup=scaling.startup, lead=scaling.startup + max(sizes) / rate,
            service=1.0 / self.main.estimate.metrics["capacity_requests_per_s"], spot=d.spot, seed=self.seed,
        )  # fmt: skip
        self.fleet.start()
        self.moves = RequestMoves(commons, d, process, self.fleet)
        commons.fleets[d.name] = self.fleet
        if commons.failing is not None:
            failures = ReplicaFailures(commons, self.fleet, d.name, scaling.maximum, self.seed)
            commons.failing.watch(failures, failures.nodes)
        return process

    def rented(self, engine: Engine, end: float) -> float:
        """From the order of every replica to its release."""
        return self.fleet.provisioned(end)

    def _bill(self, run: Outcome, end: float) -> Bill:
        charge, bursts = super()._bill(run, end), self.moves.bursts
        if bursts is None:
            return charge
        name = self.deployment.name
        return with_item(charge, name, f"{bursts.count} requests on functions", bursts.cost, "scenario", end)

    @property
    def price_share(self) -> float:
        """Of the spot market."""
        return self.deployment.spot.price if self.deployment.spot else 1.0

    def more_columns(self, run: Outcome, end: float) -> dict[str, Any]:
        """What the fleet did; shares are of the time that replicas were there."""
        fleet = self.fleet
        rented = fleet.provisioned(end)
        span = end or 1.0
        waits = [i.ready - i.ordered for i in fleet.lives if i.ready > i.ordered]
        busy = sum(r.busy_time for r in run.replicas)
        held = sum(r.kv_block_time for r in run.replicas)
        waiting = sum(r.waiting_time for r in run.replicas)
        return {
            "replicas_mean": rented / span,
            "replicas_ordered": len(waits),
            "startup_time": sum(waits) / len(waits) if waits else float("nan"),
            "revocations": sum(e.event == "replica revoked" for e in fleet.events),
            "restarts": fleet.restarts + self.moves.lost,
            **self.moves.columns(),
            **({"interruptions": sum(fleet.failures.values())} if self.fails else {}),
            "utilization": busy / rented if rented else float("nan"),
            "kv_occupancy_mean": held / (rented * self._blocks) if rented else float("nan"),
            "waiting_mean": (waiting + fleet.process.held_time) / span,
        }

    def more_tables(self) -> dict[str, Columns]:
        """Orders, starts, releases and revocations."""
        events = sorted(self.fleet.events, key=lambda e: e.time)
        if not events:
            return {}
        return {
            "events": {
                "time": [e.time for e in events],
                "workload": [self.deployment.name] * len(events),
                "replica": [e.replica for e in events],
                "event": [e.event for e in events],
                "detail": [e.detail for e in events],
            }
        }

"""Running requests of a deployment that move between its replicas over the shared fabric, and functions beside them."""

from __future__ import annotations

from typing import Any

from simulator.cluster.tenants import Commons
from simulator.cluster.weight_loading import endpoints_of
from simulator.hardware.types import Cluster
from simulator.registry import lookup
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.functions import FunctionBursts
from simulator.serving.migration import Migrations, Rebalancing
from simulator.serving.notice import MoveAtNotice
from simulator.serving.pools_transfer import FabricLink, kv_wire_bytes
from simulator.serving.scaling import ReplicaFleet
from simulator.workload.jobs import Deployment

__all__ = ["RequestMoves", "replica_link"]


def replica_link(commons: Commons, deployment: Deployment) -> FabricLink:
    """Carries keys and values between the replicas of a deployment."""
    fabric, name = commons.fabric, deployment.name
    places = [
        [end for _, end in endpoints_of(fabric.topology, commons.scenario.placement(name, replica))]
        for replica in range(deployment.replicas)
    ]
    return FabricLink(commons.clock, fabric, places, f"{name} keys and values")


def _outward_rate(cluster: Cluster, accelerators: int) -> float:
    """Out of a replica through the network ports of its share of the nodes [B/s]."""
    node = cluster.groups[0].node
    return node.nics * node.nic.bandwidth * accelerators / node.accelerators


class RequestMoves:
    """Whatever requests of a fleet do beside being served where they came to."""

    def __init__(
        self, commons: Commons, deployment: Deployment, process: DeploymentProcess, fleet: ReplicaFleet
    ) -> None:
        clock, spot, asked = commons.clock, deployment.spot, deployment.migration
        self.migrations: Migrations | None = None
        self.bursts: FunctionBursts | None = None
        if deployment.movable:
            model, kind = deployment.model, deployment.kv_dtype
            self.migrations = Migrations(
                clock, process, replica_link(commons, deployment), lambda tokens: kv_wire_bytes(model, tokens, kind)
            )
            if asked is not None:
                policy = lookup("migration", asked.policy)(**asked.options)
                Rebalancing(clock, self.migrations, policy, asked.interval).start()
            if spot is not None and spot.recovery:
                rate = _outward_rate(commons.scenario.cluster, deployment.plan.accelerators)
                planner = lookup("autoscaling", spot.recovery)
                fleet.on_notice = MoveAtNotice(clock, fleet, self.migrations, planner, rate)
        functions = deployment.autoscaling.functions if deployment.autoscaling else None
        if functions is not None:
            self.bursts = FunctionBursts(clock, process, functions, fleet.bursts)

    @property
    def lost(self) -> int:
        """Requests that began again because a replica went while they moved."""
        return self.migrations.lost if self.migrations is not None else 0

    def columns(self) -> dict[str, Any]:
        """Of the summary."""
        row: dict[str, Any] = {}
        if self.bursts is not None:
            row |= {"function_requests": self.bursts.count, "function_usd": self.bursts.cost}
        if self.migrations is not None:
            pauses, nan = self.migrations.pauses, float("nan")
            row |= {
                "requests_moved": len(pauses),
                "moves_given_up": self.migrations.given_up,
                "moved_bytes": self.migrations.bytes,
                "move_pause_mean": sum(pauses) / len(pauses) if pauses else nan,
                "move_pause_max": max(pauses, default=nan),
            }
        return row

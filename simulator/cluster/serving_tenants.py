"""Which kind of tenant a deployment is."""

from __future__ import annotations

from simulator.cluster.cascade_tenant import CascadeTenant
from simulator.cluster.fleet_tenant import FleetTenant
from simulator.cluster.instances_tenant import InstancesTenant
from simulator.cluster.pools_tenant import PoolsTenant
from simulator.cluster.serving_tenant import ServingTenant
from simulator.cluster.sharing_tenant import SharingTenant
from simulator.cluster.tenants import ClusterScenario, Tenant
from simulator.workload.jobs import Deployment

__all__ = ["serving_tenant"]


def serving_tenant(deployment: Deployment, scenario: ClusterScenario, number: int) -> Tenant:
    """The tenant of the ``number``-th deployment."""
    if deployment.sharing is not None:
        return SharingTenant(deployment, scenario, number)
    if deployment.cascade is not None:
        return CascadeTenant(deployment, scenario, number)
    if deployment.instances is not None:
        return InstancesTenant(deployment, scenario, number)
    if deployment.pools is not None:
        return PoolsTenant(deployment, scenario, number)
    comes_and_goes = any(x is not None for x in (deployment.autoscaling, deployment.spot, deployment.migration))
    if comes_and_goes or (scenario.failures is not None and not deployment.groups):
        return FleetTenant(deployment, scenario, number)
    return ServingTenant(deployment, scenario, number)

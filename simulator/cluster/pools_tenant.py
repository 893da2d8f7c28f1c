"""A deployment with a pool for prompts and one for tokens, as a tenant: keys and values travel on the shared fabric."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from simulator.cluster.request_moves import replica_link
from simulator.cluster.serving_engine import Engine
from simulator.cluster.serving_tenant import Outcome, ServingTenant
from simulator.cluster.tenants import ClusterScenario, Commons
from simulator.registry import lookup
from simulator.serving.pools import Pool, PooledDeployment, PoolsRun
from simulator.serving.pools_transfer import kv_wire_bytes
from simulator.serving.setup import policies
from simulator.workload.jobs import Deployment

__all__ = ["PoolsTenant"]


class PoolsTenant(ServingTenant):
    """Prompts and tokens on replicas of their own."""

    def __init__(self, deployment: Deployment, scenario: ClusterScenario, number: int) -> None:
        super().__init__(deployment, scenario, number)
        self.record = scenario.record

    @property
    def main(self) -> Engine:
        """The engine that decodes."""
        return self.engines[1]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of both engines; rows are kept in any case."""
        brief = (f"{self.deployment.name}: pools keep a row per request while they run, also with record: summary",)
        return (*super().warnings, *(brief if self.record == "summary" else ()))

    def open(self, commons: Commons) -> PooledDeployment:
        """The two pools, their link on the shared fabric."""
        d = self.deployment
        assert d.pools is not None
        options: dict[str, Any] = dict(d.pools.options)
        return PooledDeployment(
            commons.clock, d.requests, self._pool(self.engines[0]), self._pool(self.engines[1]),
            replica_link(commons, d),
            wire_bytes=lambda tokens: kv_wire_bytes(d.model, tokens, d.kv_dtype), layers=d.model.num_hidden_layers,
            policy=lookup("disaggregation", d.pools.policy)(**options),
        )  # fmt: skip

    def _pool(self, engine: Engine) -> Pool:
        part = engine.deployment
        chosen = policies(part, self.seed)
        return Pool(engine.cost, engine.limits, part.replicas, chosen["batching"], chosen.get("kv_cache"))

    def outcome(self) -> Outcome:
        """The requests and replicas of both pools."""
        return self._pools.run

    @property
    def _pools(self) -> PoolsRun:
        process = cast(PooledDeployment, self.process)
        done = process.done
        ended = done is not None and done.triggered
        return cast(PoolsRun, done.value) if done is not None and ended else process.result()

    def more_columns(self, run: Outcome, end: float) -> dict[str, Any]:
        """What travelled, and how long requests waited for it."""
        pools = self._pools
        waits = pools.transfer_wait[~np.isnan(pools.transfer_wait)]
        sent = float(np.nansum(pools.transfer_bytes))
        busy = [sum(run.replicas[i].busy_time for i in e.replicas) / (end * len(e.replicas)) for e in self.engines]
        columns: dict[str, Any] = {"kv_transfer_bytes": sent, "prefill_utilization": busy[0]}
        columns |= {"decode_utilization": busy[1]}
        if len(waits):
            columns |= {"kv_transfer_wait_mean": float(waits.mean())}
            columns |= {"kv_transfer_wait_p99": float(np.percentile(waits, 99))}
        return columns

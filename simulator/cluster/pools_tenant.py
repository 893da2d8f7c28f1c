"""A deployment with a pool for prompts and one for tokens, as a tenant: keys and values travel on the shared fabric."""

from __future__ import annotations

from typing import Any, cast

from simulator.cluster.request_moves import replica_link
from simulator.cluster.serving_engine import Engine
from simulator.cluster.serving_tenant import Outcome, ServingTenant
from simulator.cluster.tenants import Commons
from simulator.registry import lookup
from simulator.serving.pools import Pool, PooledDeployment, PoolsRun
from simulator.serving.pools_transfer import kv_wire_bytes
from simulator.serving.setup import policies

__all__ = ["PoolsTenant"]


class PoolsTenant(ServingTenant):
    """Prompts and tokens on replicas of their own."""

    shares = False

    @property
    def main(self) -> Engine:
        """The engine that decodes."""
        return self.engines[1]

    def open(self, commons: Commons) -> PooledDeployment:
        """The two pools, their link on the shared fabric."""
        d = self.deployment
        assert d.pools is not None
        options: dict[str, Any] = dict(d.pools.options)
        return PooledDeployment(
            commons.clock, d.requests, self._pool(self.engines[0]), self._pool(self.engines[1]),
            replica_link(commons, d),
            wire_bytes=lambda tokens: kv_wire_bytes(d.model, tokens, d.kv_dtype), layers=d.model.num_hidden_layers,
            policy=lookup("disaggregation", d.pools.policy)(**options), record=commons.scenario.record, slo=d.slo,
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
        busy = [sum(run.replicas[i].busy_time for i in e.replicas) / (end * len(e.replicas)) for e in self.engines]
        columns: dict[str, Any] = {"kv_transfer_bytes": pools.transfers.total, "prefill_utilization": busy[0]}
        columns |= {"decode_utilization": busy[1]}
        return columns | pools.transfers.wait_columns()

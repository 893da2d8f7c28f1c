"""A deployment with a pool for prompts and one for tokens, as a tenant: keys and values travel on the shared fabric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from simulator.cluster.request_moves import replica_link
from simulator.cluster.serving_engine import Engine
from simulator.cluster.serving_sharing import linked_pools
from simulator.cluster.serving_tenant import Outcome, ServingTenant
from simulator.cluster.tenants import Commons
from simulator.registry import lookup
from simulator.serving.linked_deployment import LinkedPools
from simulator.serving.pools import Pool, PooledDeployment
from simulator.serving.pools_run import PoolsRun
from simulator.serving.pools_transfer import kv_wire_bytes
from simulator.serving.replica import Replica
from simulator.serving.setup import policies

__all__ = ["PoolsTenant"]


class PoolsTenant(ServingTenant):
    """Prompts and tokens on replicas of their own."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the engines, and what replicas did whose links were lost."""
        cut = sorted(self.process.cut) if isinstance(self.process, LinkedPools) else []
        note = f"{self.deployment.name}: the ranks of replicas {cut} did not reach each other for a while: they went on"
        return (*super().warnings, note) if cut else super().warnings

    @property
    def main(self) -> Engine:
        """The engine that decodes."""
        return self.engines[1]

    def open(self, commons: Commons) -> PooledDeployment:
        """The two pools, their link on the shared fabric."""
        d = self.deployment
        assert d.pools is not None
        options: dict[str, Any] = dict(d.pools.options)
        prefill, decode = (self._pool(engine) for engine in self.engines)
        arguments = (commons.clock, d.requests, prefill, decode, replica_link(commons, d))
        more: dict[str, Any] = {
            "wire_bytes": lambda tokens: kv_wire_bytes(d.model, tokens, d.kv_dtype),
            "layers": d.model.num_hidden_layers, "policy": lookup("disaggregation", d.pools.policy)(**options),
            "record": commons.scenario.record, "slo": d.slo,
            "front_end": self.engines[0].front_end(d.pools.prefill.replicas),
        }  # fmt: skip
        self.shared = self.share(commons)
        return linked_pools(self.shared, *arguments, **more) if self.shared else PooledDeployment(*arguments, **more)

    def _pool(self, engine: Engine) -> Pool:
        part = engine.deployment
        chosen = policies(part, self.seed)
        cost = engine.cost if self.power is None else self.costs(engine)
        return Pool(cost, engine.limits, part.replicas, chosen["batching"], chosen.get("kv_cache"))

    def live(self) -> Sequence[Replica]:
        """Those of the prefill pool, then those of the decode pool."""
        return cast(PooledDeployment, self.process).replicas

    def truncate(self, number: int) -> None:
        """The clock of a replica has changed."""
        cast(PooledDeployment, self.process).truncate(number)

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

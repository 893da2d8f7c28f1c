"""Who sums the gradients: switches, parameter servers, BytePS's mix of both kinds of machine; sparse embeddings.

With ``local_group`` = g, ranks of a node first reduce among themselves, so that each sends Ψ/g over its own NIC, and
join the result again afterwards; without it every rank is a worker of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

from simulator.registry import Claim, register
from simulator.strategies.communication.base import CommunicationPass, gradient_reductions, number, positive_options
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import FLAT, Block, Collective, Op, OpKind, Phase, Stream
from simulator.workload.plan import Plan, base_axis, sub_axis

__all__ = ["BytePS", "EmbRace", "InNetworkAggregation", "ParameterServer", "byteps_volume", "server_volume"]


def server_volume(workers: int, servers: float) -> float:
    """Bytes on the busiest link, per direction, over the gradient's: a worker pushes and pulls Ψ, a server n·Ψ/k.

    Links are duplex and push and pull are pipelined, so each direction carries its own Ψ.
    """
    return max(1.0, workers / servers)


def byteps_volume(workers: int, servers: int) -> float:
    """Bytes on the busiest link, per direction, over the gradient's, with BytePS's optimal split (theorem 1).

    Each of k CPU machines sums 2(n−1)/(n²+kn−2k) of the gradient and each of n GPU machines (n−k)/(n²+kn−2k). A CPU
    machine then receives n times its share. k = 0 is ring all-reduce, k = n a full set of parameter servers.
    """
    n, k = workers, min(servers, workers)
    return 2 * n * (n - 1) / (n * n + k * n - 2 * k) if n > 1 else 0.0


class _Aggregated(CommunicationPass, ABC):
    """Replaces all-reduces by exchanges with something that sums."""

    changes = "aggregation"
    limits: ClassVar[dict[str, tuple[float, float, float]]] = {}

    @abstractmethod
    def volume(self, plan: Plan, workers: int) -> float:
        """Bytes on the busiest link, per direction, over the gradient's."""

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Gradients must be whole, and groups must divide."""
        if plan.zero_stage or plan.option("sharding", "zero") != "zero":
            return f"{self.name} sums whole gradients: use zero_stage 0 and sharding zero"
        group = plan.option("local_group", 1)
        if not isinstance(group, int) or group < 1 or plan.mesh["dpcp"] % group:
            return f"local_group {group!r} does not divide the {plan.mesh['dpcp']} data-parallel ranks"
        return positive_options(plan, self.limits)

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Reduce inside the group, exchange with the aggregator, join inside the group."""

        def change(op: Op) -> tuple[Op, ...]:
            axis, n = base_axis(op.axis), plan.mesh[op.axis]
            if op.collective is not Collective.ALL_REDUCE or axis != op.axis:
                return (op,)
            g = plan.group_size("local_group", axis, 1)
            workers = n // g
            if workers == 1:
                return (op,)
            near, far = sub_axis(axis, 1, g, n), sub_axis(axis, g, n, n)
            shards = tuple(t.sharded(FLAT, near) for t in op.reads) if g > 1 else op.reads
            wire = replace(op.wire, volume=op.wire.volume * self.volume(plan, workers))
            # Sums are exchanged with a third party: one message to it and, in the other direction, one from it.
            exchange = replace(
                op,
                name=f"{op.name}.exchange",
                collective=Collective.SEND_RECV,
                axis=far,
                reads=shards,
                writes=shards,
                wire=wire,
            )
            if g == 1:
                return (exchange,)
            scatter = replace(
                op, name=f"{op.name}.scatter", collective=Collective.REDUCE_SCATTER, axis=near, writes=shards
            )
            join = replace(op, name=f"{op.name}.join", collective=Collective.ALL_GATHER, axis=near, reads=shards)
            return (scatter, exchange, join)

        return gradient_reductions(block, change)


@register(
    "in-network",
    kind="pass",
    area="training",
    family="communication",
    cites=(
        "Sapio et al. 2021 (SwitchML), arXiv 1903.06701",
        "Lao et al. 2021 (ATP), NSDI",
        "Pan et al. 2023 (Libra), INFOCOM",
    ),
    catalogue=("Libra, SwitchML, ATP (in-network)",),
    validated_by="closed_form",
)
class InNetworkAggregation(_Aggregated):
    """Switches sum: each worker sends Ψ and receives Ψ instead of 2Ψ; cold parameters go to servers (Libra).

    Options: ``hot_share`` of the gradient summed in the switch (1), ``servers`` for the rest (as many as workers),
    ``local_group``.
    """

    limits: ClassVar[dict[str, tuple[float, float, float]]] = {"hot_share": (1, 0, 1), "servers": (1, 1e-9, 1e9)}
    quality = (
        "switches add integers: gradients are scaled to fixed point, an error its authors find negligible "
        "(arXiv 1903.06701)"
    )

    def volume(self, plan: Plan, workers: int) -> float:
        """Ψ for what is hot, a parameter server's volume for the rest."""
        hot = number(plan, "hot_share", 1)
        return hot + (1 - hot) * server_volume(workers, number(plan, "servers", workers))


@register(
    "parameter-server",
    kind="pass",
    area="training",
    family="communication",
    cites=("Li et al. 2014 (Parameter server), OSDI",),
    catalogue=("Parameter server / BytePS",),
    validated_by="closed_form",
)
class ParameterServer(_Aggregated):
    """Workers push Ψ and pull Ψ; the NICs of ``servers`` machines carry n·Ψ/k in each direction."""

    limits: ClassVar[dict[str, tuple[float, float, float]]] = {"servers": (1, 1e-9, 1e12)}

    def volume(self, plan: Plan, workers: int) -> float:
        """The busier of worker and server."""
        return server_volume(workers, number(plan, "servers", 1))


@register(
    "byteps",
    kind="pass",
    area="training",
    family="communication",
    cites=("Jiang et al. 2020 (BytePS), OSDI",),
    catalogue=("Parameter server / BytePS",),
    claims=(
        Claim(
            "communication-optimal for n GPU and k CPU machines: all-reduce at k = 0, parameter servers at k = n",
            "OSDI 2020 theorem 1",
        ),
    ),
    validated_by="closed_form",
)
class BytePS(_Aggregated):
    """Spare CPU machines (``servers`` = k) share the summation with the n GPU machines in the optimal proportion."""

    limits: ClassVar[dict[str, tuple[float, float, float]]] = {"servers": (0, 0, 1e6)}

    def volume(self, plan: Plan, workers: int) -> float:
        """Theorem 1."""
        return byteps_volume(workers, int(number(plan, "servers", 0)))


@register(
    "embrace",
    kind="pass",
    area="training",
    family="communication",
    cites=("Li et al. 2022 (EmbRace), arXiv 2110.09132",),
    catalogue=("EmbRace",),
    validated_by="closed_form",
)
class EmbRace(CommunicationPass):
    """The embedding table is spread over the replicas and rows travel all-to-all; dense gradients stay all-reduced.

    ``unique_rows``: rows a rank really exchanges over the tokens it looks up (1 = no token twice).
    """

    changes = "embedding"

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """A tied head would need the whole table."""
        if model.tie_word_embeddings:
            return "embrace spreads the embedding table; this model ties it to the head, whose gradient is dense"
        return positive_options(plan, {"unique_rows": (1, 0, 1)})

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Replace the table's all-reduce by exchanges of rows."""
        if block.name != "embedding" or plan.mesh["dpcp"] == 1:
            return block
        table = next(t.name for t in block.parameters if t.name.startswith("embedding.weight"))
        axis = "dpcp"
        states = tuple(t.sharded(FLAT, axis) if t.name.startswith(table) else t for t in block.states)
        rows = block.forward[0].writes[0]

        def exchange(name: str, phase: Phase) -> Op:
            sent = replace(rows, name=f"{rows.name}|{name}")
            wire = replace(block.forward[0].wire, volume=number(plan, "unique_rows", 1))
            return Op(
                f"embedding.{name}",
                OpKind.COLLECTIVE,
                phase,
                rows.dtype,
                (rows,),
                (sent,),
                wire=wire,
                collective=Collective.ALL_TO_ALL,
                axis=axis,
                stream=Stream.COMPUTE,
            )

        def dense(op: Op) -> tuple[Op, ...]:
            keep = tuple(not t.name.startswith(table) for t in op.reads)
            reads = tuple(t for t, k in zip(op.reads, keep, strict=True) if k)
            writes = tuple(t for t in op.writes if not t.name.startswith(table))
            return (replace(op, reads=reads, writes=writes),) if reads else ()

        changed = gradient_reductions(block, dense)
        return replace(
            changed,
            states=states,
            publish=tuple(o for op in block.publish for o in dense(op)),
            forward=(*block.forward, exchange("rows.all_to_all", Phase.FORWARD)),
            backward=(exchange("rows.grad.all_to_all", Phase.BACKWARD), *block.backward),
        )

"""When gradients leave: buckets, priorities, out-of-order gradients, fused updates; resharding between stages."""

from __future__ import annotations

from simulator.registry import Claim, register
from simulator.strategies.communication.base import CommunicationPass, number, positive_options
from simulator.strategies.protocols import CommunicationTraits
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan

__all__ = ["ByteScheduler", "CoCoNet", "CrossMeshResharding", "GradientBuckets", "Lina", "OutOfOrderBackprop"]

MIB = 1 << 20


@register(
    "buckets",
    kind="pass",
    area="training",
    family="communication",
    cites=("Li et al. 2020 (PyTorch DDP), arXiv 2006.15704", "Sergeev and Del Balso 2018 (Horovod), arXiv 1802.05799"),
    catalogue=("DDP (PyTorch, Horovod ring), large-batch LAMB",),
    validated_by="closed_form",
)
class GradientBuckets(CommunicationPass):
    """Gradients are bundled to ``bucket_size`` bytes (25 MiB, the DDP default) and reduced beside the backward."""

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """A bucket has a size."""
        return positive_options(plan, {"bucket_size": (25 * MIB, 1.0, 1e15)})

    def traits(self, plan: Plan) -> CommunicationTraits:
        """Buckets, overlapped."""
        return CommunicationTraits(bucket=number(plan, "bucket_size", 25 * MIB), overlaps=True)


@register(
    "bytescheduler",
    kind="pass",
    area="training",
    family="communication",
    cites=(
        "Peng et al. 2019 (ByteScheduler), SOSP",
        "Jayarajan et al. 2019 (P3), arXiv 1905.03960",
        "Hashemi et al. 2019 (TicTac), arXiv 1803.03288",
    ),
    catalogue=("ByteScheduler, P3, TicTac",),
    claims=(Claim("faster in every set-up tried, by up to 196 % (2.96 times)", "SOSP 2019 abstract"),),
    validated_by="ratio",
)
class ByteScheduler(CommunicationPass):
    """First-needed gradients overtake, and the next forward starts when its own parameters are there.

    ``credit_size`` (64 MiB) is what may be in flight: pieces inside it are pipelined, so it is both the message that is
    priced and the grain at which a more urgent gradient can overtake. The result is the same, only the order changes.
    """

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Sizes must be positive; a pipeline flush leaves no next forward to run into."""
        if plan.pipeline_parallel > 1:
            return "bytescheduler starts forwards before all updates: use pipeline_parallel 1, or communication buckets"
        return positive_options(plan, {"credit_size": (64 * MIB, 1.0, 1e15)})

    def traits(self, plan: Plan) -> CommunicationTraits:
        """Preemptive priority queue across steps."""
        size = number(plan, "credit_size", 64 * MIB)
        return CommunicationTraits(piece=size, overlaps=True, first_needed_first=True, crosses_steps=True)


@register(
    "lina",
    kind="pass",
    area="training",
    family="communication",
    cites=("Li et al. 2022 (Lina), arXiv 2210.17223",),
    catalogue=("Lina",),
    claims=(Claim("training step up to 1.73x shorter than the baseline on A100", "arXiv 2210.17223 abstract"),),
    validated_by="ratio",
)
class Lina(CommunicationPass):
    """All-to-alls of experts go first: reductions are cut into pieces of ``bucket_size`` and wait between them.

    Without it an all-to-all of the backward shares its link with the reductions that run beside it.
    """

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """There must be exchanges, and pieces have a size."""
        if plan.expert_parallel == 1:
            return "lina orders the all-to-alls of experts: use expert_parallel 2 or more, or another communication"
        return positive_options(plan, {"bucket_size": (25 * MIB, 1.0, 1e15)})

    def traits(self, plan: Plan) -> CommunicationTraits:
        """Pieces of the size of DDP's default bucket (25 MiB) unless said otherwise."""
        return CommunicationTraits(piece=number(plan, "bucket_size", 25 * MIB), overlaps=True, exchanges_first=True)


@register(
    "out-of-order-backprop",
    kind="pass",
    area="training",
    family="communication",
    cites=("Oh et al. 2022 (Out-of-order backprop), EuroSys",),
    catalogue=("Out-of-order backprop",),
    claims=(Claim("1.10 to 1.27 times in data-parallel training", "EuroSys 2022 abstract"),),
    validated_by="ratio",
)
class OutOfOrderBackprop(CommunicationPass):
    """Weight gradients of the first ``deferred_layers`` layers run last, in the order the next forward needs them."""

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Deferring is for data parallelism; pipelines split the backward by their schedule."""
        if plan.pipeline_parallel > 1:
            return "out-of-order-backprop in a pipeline is a schedule: use zb-h1 or another that splits the backward"
        return positive_options(plan, {"deferred_layers": (0, 0, model.num_hidden_layers)})

    def traits(self, plan: Plan) -> CommunicationTraits:
        """Deferred weight gradients and a queue by need."""
        count = int(number(plan, "deferred_layers", 0))
        return CommunicationTraits(overlaps=True, first_needed_first=True, crosses_steps=True, deferred_layers=count)


@register(
    "coconet",
    kind="pass",
    area="training",
    family="communication",
    cites=("Jangda et al. 2022 (CoCoNet), arXiv 2105.05720",),
    catalogue=("CoCoNet",),
    validated_by="closed_form",
)
class CoCoNet(CommunicationPass):
    """Reduction and update fused into kernels of ``fused_pieces`` pieces: one hides behind the other."""

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """At least one piece."""
        return positive_options(plan, {"fused_pieces": (8, 1, 4096)})

    def traits(self, plan: Plan) -> CommunicationTraits:
        """A flow shop of link and update kernel."""
        return CommunicationTraits(overlaps=True, fused_pieces=int(number(plan, "fused_pieces", 8)))


@register(
    "cross-mesh-resharding",
    kind="pass",
    area="training",
    family="communication",
    cites=("Zhuang et al. 2023 (Cross-mesh resharding), arXiv 2211.05322",),
    catalogue=("Alpa cross-mesh resharding",),
    claims=(Claim("GPT-3 end to end 10 % faster, up to 10 times in microbenchmarks", "arXiv 2211.05322 abstract"),),
    validated_by="ratio",
)
class CrossMeshResharding(CommunicationPass):
    """Replicated activations cross between stages once: each tensor-parallel rank sends a slice, joined on arrival.

    ``resharding: send_recv`` is the baseline in which every rank sends the whole tensor.
    """

    changes = "messages"

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Two ways are known."""
        way = plan.option("resharding", "broadcast")
        return "" if way in ("broadcast", "send_recv") else f"resharding must be broadcast or send_recv, have {way!r}"

    def traits(self, plan: Plan) -> CommunicationTraits:
        """Slices or whole tensors."""
        return CommunicationTraits(pipeline_split=plan.option("resharding", "broadcast") == "broadcast")

"""Training on clients that keep their data: rounds of local steps between a download and an upload."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np

from simulator.registry import register
from simulator.strategies.communication.base import CommunicationPass, gradient_reductions, number, positive_options
from simulator.strategies.protocols import CommunicationTraits
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Collective, Op
from simulator.workload.plan import Plan, base_axis

__all__ = ["FederatedAveraging", "slowest_of"]


@lru_cache(maxsize=256)
def slowest_of(wanted: int, invited: int, spread: float) -> float:
    """Mean time until ``wanted`` of ``invited`` clients are done, over that of the median client.

    Times are log-normal with standard deviation ``spread`` of their logarithm: E[X(k:n)] = ∫ F⁻¹(u) dBeta(u; k,
    n−k+1), by Gauss–Legendre quadrature over u.
    """
    if spread == 0.0 or invited == 0:
        return 1.0
    from scipy.special import betaln, log_ndtr

    nodes, weights = np.polynomial.legendre.leggauss(400)
    # u = Φ(z) for z from −9 to 9: what is integrated is smooth in z.
    z = 9.0 * nodes
    density = np.exp(
        (wanted - 1) * log_ndtr(z) + (invited - wanted) * log_ndtr(-z) - betaln(wanted, invited - wanted + 1)
        - z * z / 2 - 0.5 * math.log(2 * math.pi)
    )  # fmt: skip
    return float(np.sum(9.0 * weights * density * np.exp(spread * z)))


@register(
    "fedavg",
    kind="pass",
    area="training",
    family="communication",
    cites=(
        "McMahan et al. 2017 (FedAvg), arXiv 1602.05629",
        "Bonawitz et al. 2019 (rounds, over-selection), arXiv 1902.01046",
        "Lin et al. 2022 (FedNLP), arXiv 2104.08815",
    ),
    catalogue=("Federated FM systems (FedNLP, AdaFL, FwdLLM, FATE-LLM …)",),
    validated_by="closed_form",
)
class FederatedAveraging(CommunicationPass):
    """A round: a sample of the clients downloads, takes ``local_steps`` = H steps on its own data, and uploads.

    Every data-parallel rank is a client of the round; with ``peft: lora`` only adapters travel. The step time is the
    mean over the H steps of a round. Options:

    ``clients``
        Population the round is drawn from (by default those of the round).
    ``over_selection``
        Clients invited over clients awaited (1); ``dropout`` of the invited never report (0).
    ``client_spread``
        Standard deviation of the logarithm of the clients' computing times (0); the round waits for the slowest that
        is awaited. Clients on other hardware are other nodes of the cluster: the slowest kind sets the pace.
    ``server_links``
        Client links that the server's is worth (as many as clients); below, all share the server's.

    A client's link, the slower direction of it, is the cluster's fabric. Upload and download overlap neither with each
    other nor with the steps. Forward gradients (FwdLLM) are not modelled.
    """

    changes = "period"
    quality = "clients drift apart between rounds and see unlike data: the loss per token must be checked"

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Clients are whole: nothing is sharded across them; enough of the invited report."""
        if plan.zero_stage or plan.option("sharding", "zero") != "zero":
            return f"{self.name}: clients hold models of their own, nothing is sharded across them: use zero_stage 0"
        workers = plan.mesh["dpcp"]
        limits: dict[str, tuple[float, float, float]] = {
            "local_steps": (1, 1, 1e9), "clients": (workers, workers, 1e12), "over_selection": (1, 1, 1e3),
            "dropout": (0, 0, 0.999), "client_spread": (0, 0, 3), "server_links": (workers, 1e-9, 1e12),
        }  # fmt: skip
        if reason := positive_options(plan, limits):
            return reason
        if self._reporting(plan) < workers:
            return (
                f"{self.name}: of {self._invited(plan)} invited clients {self._reporting(plan)} report, fewer than the "
                f"{workers} awaited; raise over_selection to 1/(1 − dropout)"
            )
        return ""

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """How much of the population a round sees."""
        workers = plan.mesh["dpcp"]
        share = workers / number(plan, "clients", workers)
        return (*super().notes(plan), f"{self.name}: {workers} clients report in a round, {share:.3g} of all")

    def traits(self, plan: Plan) -> CommunicationTraits:
        """Exchanges come after the last step of a round, which ends with the slowest client that is awaited."""
        workers, spread = plan.mesh["dpcp"], number(plan, "client_spread", 0)
        return CommunicationTraits(overlaps=False, straggling=slowest_of(workers, self._reporting(plan), spread))

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """An upload and a download of what is trained in the place of its all-reduce, once per round."""
        workers = plan.mesh["dpcp"]
        crowd = max(1.0, workers / number(plan, "server_links", workers))

        def change(op: Op) -> tuple[Op, ...]:
            if op.collective is not Collective.ALL_REDUCE or base_axis(op.axis) != op.axis or workers == 1:
                return (op,)
            wire = replace(op.wire, every=int(number(plan, "local_steps", 1)), volume=op.wire.volume * crowd)
            return tuple(
                replace(op, name=f"{op.name}.{way}", collective=Collective.SEND_RECV, wire=wire)
                for way in ("upload", "download")
            )

        return gradient_reductions(block, change)

    @staticmethod
    def _invited(plan: Plan) -> int:
        return math.floor(plan.mesh["dpcp"] * number(plan, "over_selection", 1) + 1e-9)

    def _reporting(self, plan: Plan) -> int:
        return math.floor(self._invited(plan) * (1.0 - number(plan, "dropout", 0)) + 1e-9)

"""Small and large deployments composed: Tabi, EdgeFM, LLMCad, early exit.

Who is rerouted is a declared probability; the answers' quality is what the sources declare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from simulator.errors import ConfigError
from simulator.registry import Claim, register
from simulator.strategies.speculation.acceptance import tree_tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from simulator.workload.requests.table import RequestTable

__all__ = ["Cascade", "CascadeOutcome", "EarlyExit", "EdgeFM", "LLMCad", "Tabi"]


@dataclass(frozen=True)
class CascadeOutcome:
    """Latencies of a cascade.

    Attributes
    ----------
    latency
        Per request [s].
    rerouted
        Whether the large model was asked.
    """

    latency: NDArray[np.float64]
    rerouted: NDArray[np.bool_]


class Cascade:
    """A small model for everybody, a large one for those it is not sure about.

    Parameters
    ----------
    reroute
        Probability that the large model is asked, 0 to 1.
    pruned
        Share of the prompt's tokens dropped before it is.
    delay
        Seconds between the two, e.g. a network [s].
    """

    name: str
    quality = ""

    def __init__(self, reroute: float, pruned: float = 0.0, delay: float = 0.0) -> None:
        if not 0.0 <= reroute <= 1.0 or not 0.0 <= pruned < 1.0 or delay < 0.0:
            raise ConfigError(
                f"cascade: reroute {reroute:g} is a probability, pruned {pruned:g} a share below 1, "
                f"delay {delay:g} s not negative"
            )
        self.reroute, self.pruned, self.delay = reroute, pruned, delay

    def expected_latency(self, small: float, large: float) -> float:
        """t_small + P(reroute) · (delay + t_large · (1 − pruned)) [s]."""
        return small + self.reroute * (self.delay + large * (1.0 - self.pruned))

    def serve(
        self, requests: RequestTable, small: Callable[[RequestTable], NDArray[np.float64]],
        large: Callable[[RequestTable], NDArray[np.float64]], seed: int = 0,
    ) -> CascadeOutcome:  # fmt: skip
        """Run both deployments one after the other on the clock of the requests.

        Parameters
        ----------
        requests
            What arrives at the small model.
        small, large
            From a request table to the finish time of each request [s]; NaN where it was not served.
        seed
            Of the draw who is rerouted.
        """
        import numpy as np

        finish = small(requests)
        draw = np.random.Generator(np.random.PCG64(seed)).random(len(finish)) < self.reroute
        rerouted = draw & ~np.isnan(finish)
        latency = finish - requests.arrival
        if rerouted.any():
            rows = np.flatnonzero(rerouted)
            release = finish[rows] + self.delay
            order = np.argsort(release, kind="stable")
            rows, release = rows[order], release[order]
            inputs = np.maximum(1, np.ceil(requests.input_tokens[rows] * (1.0 - self.pruned))).astype(np.int32)
            second = replace(
                requests, arrival=release, input_tokens=inputs, output_tokens=requests.output_tokens[rows],
                session=None, turn=None, client=None, priority=None, think_time=None, parent=None, prefix_blocks=None,
                prefix_block_tokens=0, closed_loop_concurrency=None,
            )  # fmt: skip
            latency[rows] = large(second) - requests.arrival[rows]
        return CascadeOutcome(latency, rerouted)


@register(
    "tabi",
    kind="policy",
    area="serving",
    family="cascade",
    cites=("Wang et al. 2023 (Tabi), EuroSys 2023",),
    catalogue=("Tabi",),
    claims=(
        Claim(
            "average latency 21-40 % lower at equal tail latency and LLM-grade accuracy targets",
            "abstract, doi 10.1145/3552326.3587438",
        ),
    ),
    validated_by="closed_form",
)
class Tabi(Cascade):
    """Calibrated confidence of a small discriminative model decides; words are pruned on the way to the large one."""

    quality = "meets LLM-grade accuracy targets (abstract, EuroSys 2023)"


@register(
    "edgefm",
    kind="policy",
    area="serving",
    family="cascade",
    cites=("Yang et al. 2023 (EdgeFM), arXiv 2311.10986",),
    catalogue=("PowerInfer, LLM-in-a-flash, EdgeFM",),
    claims=(
        Claim(
            "end-to-end latency up to 3.2× lower, accuracy 34.3 % higher than the baseline",
            "abstract of arXiv 2311.10986",
        ),
    ),
    validated_by="closed_form",
)
class EdgeFM(Cascade):
    """An edge model answers; uncertain inputs are uploaded to the foundation model in the cloud."""

    quality = "accuracy close to the original foundation model (abstract of arXiv 2311.10986)"

    @classmethod
    def over(cls, reroute: float, upload: float, bandwidth: float, round_trip: float) -> EdgeFM:
        """With a network: ``upload`` bytes [B] at ``bandwidth`` [B/s] and one ``round_trip`` [s]."""
        return cls(reroute, delay=upload / bandwidth + round_trip)


@register(
    "llmcad",
    kind="policy",
    area="serving",
    family="cascade",
    cites=("Xu et al. 2023 (LLMCad), arXiv 2309.04255",),
    catalogue=("LLMCad",),
    claims=(Claim("up to 9.3× more tokens per second on a device", "abstract of arXiv 2309.04255"),),
    validated_by="closed_form",
)
class LLMCad:
    """A small model in memory drafts a token tree, the large one is streamed in to verify it.

    A round drafts, loads the large model and verifies; drafting goes on speculatively during the load, so the next
    round's drafts are free where the tree was right to its end.

    Parameters
    ----------
    acceptance
        Probability that a draft token is right.
    widths
        Candidates per depth of the tree.
    """

    name: str
    quality = "lossless: the large model validates every token (abstract of arXiv 2309.04255)"

    def __init__(self, acceptance: float, widths: Sequence[int]) -> None:
        self.acceptance, self.widths = acceptance, tuple(widths)

    def token_seconds(self, draft: float, load: float, verify: float) -> float:
        """Seconds per token.

        Parameters
        ----------
        draft
            Of one level of the tree by the small model [s].
        load
            Of the large model's weights from storage [s].
        verify
            Of one pass over the tree once they are there [s].
        """
        if not self.widths:
            return load + verify
        complete = 1.0
        for width in self.widths:
            complete *= 1.0 - (1.0 - self.acceptance) ** width
        drafting = draft * len(self.widths)
        hidden = complete * min(drafting, load)
        return (drafting - hidden + load + verify) / tree_tokens(self.acceptance, self.widths)


@register(
    "early-exit",
    kind="policy",
    area="serving",
    family="cascade",
    cites=("Schuster et al. 2022 (CALM), arXiv 2207.07061",),
    validated_by="closed_form",
)
class EarlyExit:
    """A token leaves the stack at the first layer that is confident enough; a batch runs as deep as its deepest token.

    Parameters
    ----------
    exits
        Probability that a token leaves after each layer; what is missing to 1 runs through all layers.
    """

    name: str
    quality = ""

    def __init__(self, exits: Sequence[float]) -> None:
        if any(p < 0 for p in exits) or sum(exits) > 1.0 + 1e-9:
            raise ConfigError("early-exit: exits are probabilities that add up to at most 1")
        self.exits = tuple(exits)

    def depth(self, tokens: int = 1) -> float:
        """Expected layers that run for a batch of so many independent tokens: Σ over layers of P(anyone is still
        in)."""
        left, total = 0.0, 0.0
        for p in self.exits:
            total += 1.0 - left**tokens
            left += p
        return total

"""Retrieval: prompts that begin with a common instruction and with documents that other prompts have too."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.workload.requests.arrivals import ArrivalSpec
from simulator.workload.requests.generators import generate_requests
from simulator.workload.requests.lengths import Fixed, LengthSpec
from simulator.workload.requests.table import PrefixBlocks, RequestTable

__all__ = ["DocumentLaw", "generate_with_documents"]

ONE = Fixed(1)

_MOST_DOCUMENTS = 10_000_000


@dataclass(frozen=True)
class DocumentLaw:
    """What prompts begin with.

    Attributes
    ----------
    count
        Documents there are.
    tokens
        Law of their lengths [tokens].
    per_request
        How many a prompt has, in order of relevance: each is drawn with a weight of 1 / rank^``skew``, none twice.
    skew
        0: all documents are equally popular.
    system_tokens
        Instruction before them, the same in all prompts.
    own_tokens
        What each prompt has of its own between the two: the time, who asks. A plain prefix cache ends there.
    """

    count: int
    tokens: LengthSpec
    per_request: LengthSpec = ONE
    skew: float = 0.0
    system_tokens: int = 0
    own_tokens: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MOST_DOCUMENTS or min(self.skew, self.system_tokens, self.own_tokens) < 0:
            raise ConfigError(
                f"documents: a count from 1 to {_MOST_DOCUMENTS:,}, a skew, system_tokens and own_tokens from 0 on, "
                f"not {self.count}, {self.skew:g}, {self.system_tokens} and {self.own_tokens}"
            )


def generate_with_documents(
    arrival: ArrivalSpec, law: DocumentLaw, own_tokens: LengthSpec, output_tokens: LengthSpec,
    duration: float | None = None, count: int | None = None, seed: int = 0, name: str = "documents",
) -> RequestTable:  # fmt: skip
    """Draw requests; ``own_tokens`` is what each adds after the documents.

    A prefix cache can reuse a document only behind the same documents: block ids are chained, one block per part with
    its own length.
    """
    plain = generate_requests(arrival, own_tokens, output_tokens, duration, count, seed, name)
    size = len(plain)
    streams = [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence([seed, 7]).spawn(3)]
    lengths = law.tokens.sample(streams[0], law.count)
    wanted = np.minimum(law.per_request.sample(streams[1], size), law.count)
    weights = np.arange(1, law.count + 1, dtype=np.float64) ** -law.skew
    cumulative = np.cumsum(weights / weights.sum())
    known: dict[tuple[int, int], int] = {}
    blocks: list[list[int]] = []
    tokens: list[list[int]] = []
    for row, n in enumerate(wanted.tolist()):
        chain, parts, before = [], [], -1
        if law.system_tokens:
            before = known.setdefault((before, -1), len(known))
            chain, parts = [before], [law.system_tokens]
        if law.own_tokens:
            before = known.setdefault((before, law.count + row), len(known))
            chain.append(before)
            parts.append(law.own_tokens)
        for document in _distinct(streams[2], cumulative, n):
            before = known.setdefault((before, document), len(known))
            chain.append(before)
            parts.append(int(lengths[document]))
        blocks.append(chain)
        tokens.append(parts)
    shared = np.array([sum(parts) for parts in tokens], dtype=np.int64)
    return replace(
        plain, input_tokens=(plain.input_tokens + shared).astype(np.int32),
        prefix_blocks=PrefixBlocks.from_lists(blocks, tokens),
    )  # fmt: skip


def _distinct(rng: np.random.Generator, cumulative: NDArray[np.float64], n: int) -> list[int]:
    """``n`` different documents in the order drawn."""
    found: dict[int, None] = {}
    while len(found) < n:
        drawn = np.searchsorted(cumulative, rng.random(2 * n), side="right")
        for document in np.minimum(drawn, len(cumulative) - 1).tolist():
            found.setdefault(document)
            if len(found) == n:
                break
        if len(found) < n and n > len(cumulative) // 2:  # nearly all of them: the rest in order of popularity
            found |= dict.fromkeys(d for d in range(len(cumulative)) if d not in found)
            return list(found)[:n]
    return list(found)

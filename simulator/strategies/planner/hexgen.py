"""HexGen: a pool of unlike accelerators cut into replicas, each with tensor and pipeline degrees of its own."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from simulator.errors import ConfigError
from simulator.registry import register

__all__ = ["Division", "HexGen", "NodePool", "RankedDivisions", "ReplicaShape"]

Division: TypeAlias = tuple[int, ...]
"""How many replicas there are of every shape."""

Score: TypeAlias = tuple[float, ...]
"""How good a division is, larger is better; compared from the first figure on."""


@dataclass(frozen=True)
class ReplicaShape:
    """A replica: accelerators of one kind under one tensor and one pipeline degree.

    Attributes
    ----------
    kind
        Of its nodes.
    capacity
        Requests it serves in a full engine [1/s].
    """

    kind: str
    tensor_parallel: int
    pipeline_parallel: int
    capacity: float

    @property
    def size(self) -> int:
        """Accelerators."""
        return self.tensor_parallel * self.pipeline_parallel


@dataclass(frozen=True)
class NodePool:
    """Equal nodes: how many, and accelerators in each."""

    nodes: int
    per_node: int

    def holds(self, sizes: Sequence[int]) -> bool:
        """Whether replicas fit as they are placed: largest first, small ones inside a node, no node twice."""
        node, used = 0, 0
        for size in sorted(sizes, reverse=True):
            if used and size > self.per_node - used:
                node, used = node + 1, 0
            more, used = divmod(used + size, self.per_node)
            node += more
        return node + (used > 0) <= self.nodes


@dataclass
class RankedDivisions:
    """What a search found.

    Attributes
    ----------
    ranked
        Divisions that were evaluated with their scores, best first.
    considered
        Divisions that fit the pool.
    exact
        Whether all of them were evaluated.
    """

    ranked: list[tuple[Score, Division]] = field(default_factory=list)
    considered: int = 0
    exact: bool = True


@register(
    "hexgen",
    kind="planner",
    area="serving",
    family="planner",
    cites=("Jiang et al. 2024 (HexGen), arXiv 2311.11514",),
    catalogue=("HexGen",),
    validated_by="closed_form",
)
class HexGen:
    """Divides a mixed pool into replicas of one kind of accelerator each; stages of unlike kinds or degrees are not.

    Up to ``simulations`` divisions are all evaluated. Of more, an evolution is: it begins with the divisions of the
    largest capacity (a dynamic programme per kind) and goes on with the best by merging, splitting, dropping, adding
    and exchanging replicas, as the paper's genetic search does.

    Parameters
    ----------
    simulations
        Divisions to evaluate at most.
    population
        Best ones that the next generation comes from.
    seed
        Of the changes.
    """

    name: str

    def __init__(self, simulations: int = 64, population: int = 6, seed: int = 0) -> None:
        if simulations < 1 or population < 1:
            raise ConfigError(
                f"hexgen needs at least one simulation and one survivor, have {simulations} and {population}"
            )
        self.simulations, self.population, self.seed = simulations, population, seed

    def search(
        self,
        shapes: Sequence[ReplicaShape],
        pools: Mapping[str, NodePool],
        evaluate: Callable[[Sequence[Division]], Sequence[Score]],
    ) -> RankedDivisions:
        """The best divisions found.

        Parameters
        ----------
        shapes
            Replicas that fit their memory.
        pools
            By kind.
        evaluate
            Scores of several divisions.
        """
        whole = _Space(shapes, pools)
        found = RankedDivisions(considered=whole.count())
        if found.considered <= self.simulations:
            every = list(whole.divisions())
            found.ranked = _sorted(zip(evaluate(every), every, strict=True))
            return found
        found.exact = False
        random_changes = random.Random(self.seed)
        seen: dict[Division, Score] = {}
        batch = whole.beginnings()
        while batch and len(seen) < self.simulations:
            batch = batch[: self.simulations - len(seen)]
            seen |= zip(batch, evaluate(batch), strict=True)
            best = [division for _, division in _sorted((s, d) for d, s in seen.items())[: self.population]]
            batch = []
            for rank, division in enumerate(best):  # the best have most children
                changed = sorted(whole.changes(division) - seen.keys() - set(batch))
                random_changes.shuffle(changed)
                batch += changed[: max(1, self.population // (rank + 1))]
        found.ranked = _sorted((score, division) for division, score in seen.items())
        return found


def _sorted(scored: Iterator[tuple[Score, Division]] | zip[tuple[Score, Division]]) -> list[tuple[Score, Division]]:
    """Best first; equal ones in the order of their counts, fewest replicas of the first shapes first."""
    return sorted(scored, key=lambda s: (tuple(-x for x in s[0]), s[1]))


class _Space:
    """The divisions of a pool."""

    def __init__(self, shapes: Sequence[ReplicaShape], pools: Mapping[str, NodePool]) -> None:
        self.shapes, self.pools = shapes, pools
        self.kinds = {kind: [i for i, s in enumerate(shapes) if s.kind == kind] for kind in pools}

    def fits(self, division: Division) -> bool:
        """Whether it is in the pool, and not nothing at all."""
        if not any(division) or min(division) < 0:
            return False
        return all(
            self.pools[kind].holds([self.shapes[i].size for i in own for _ in range(division[i])])
            for kind, own in self.kinds.items()
        )

    def _of_kind(self, kind: str) -> Iterator[Division]:
        """Counts of the shapes of one kind that fit together, nothing included."""
        pool, sizes = self.pools[kind], [self.shapes[i].size for i in self.kinds[kind]]

        def extend(done: Division, room: int) -> Iterator[Division]:
            if len(done) == len(sizes):
                if pool.holds([s for s, n in zip(sizes, done, strict=True) for _ in range(n)]):
                    yield done
                return
            size = sizes[len(done)]
            for count in range(room // size + 1):
                yield from extend((*done, count), room - count * size)

        return extend((), pool.nodes * pool.per_node)

    def count(self) -> int:
        """How many divisions there are; counting ends per kind at 20,000."""
        per_kind = [sum(1 for _ in itertools.islice(self._of_kind(kind), 20_000)) for kind in self.pools]
        return math.prod(per_kind) - 1

    def divisions(self) -> Iterator[Division]:
        """All of them."""
        for parts in itertools.product(*(list(self._of_kind(kind)) for kind in self.pools)):
            division = [0] * len(self.shapes)
            for own, part in zip(self.kinds.values(), parts, strict=True):
                for i, count in zip(own, part, strict=True):
                    division[i] = count
            if any(division):
                yield tuple(division)

    def beginnings(self) -> list[Division]:
        """Of every kind as many as possible of the same shape, and the packing with the largest capacity."""
        found: dict[Division, None] = {}
        nothing = (0,) * len(self.shapes)
        found[self.fullest(range(len(self.shapes)))] = None
        for size in sorted({s.size for s in self.shapes}):
            found[self.fullest([i for i, s in enumerate(self.shapes) if s.size == size])] = None
        for kind in self.kinds.values():
            found[self.fullest(kind)] = None
        found.pop(nothing, None)
        return [division for division in found if self.fits(division)]

    def fullest(self, allowed: Sequence[int]) -> Division:
        """The most capacity from some shapes: an unbounded knapsack per kind, by dynamic programme.

        Where nodes have a rest that no replica fills, the least productive replicas are taken off until it fits.
        """
        division = [0] * len(self.shapes)
        for kind, own in self.kinds.items():
            usable = [i for i in own if i in allowed]
            room = self.pools[kind].nodes * self.pools[kind].per_node
            best: list[tuple[float, int | None]] = [(0.0, None)]
            for n in range(1, room + 1):
                options: list[tuple[float, int | None]] = [(best[n - 1][0], None)]
                options += [
                    (best[n - self.shapes[i].size][0] + self.shapes[i].capacity, i)
                    for i in usable
                    if self.shapes[i].size <= n
                ]
                best.append(max(options, key=lambda o: o[0]))
            left = room
            while left:
                taken = best[left][1]
                left -= 1 if taken is None else self.shapes[taken].size
                if taken is not None:
                    division[taken] += 1
            while any(division[i] for i in own) and not self.pools[kind].holds(
                [self.shapes[i].size for i in own for _ in range(division[i])]
            ):
                present = [i for i in own if division[i]]
                division[min(present, key=lambda i: self.shapes[i].capacity / self.shapes[i].size)] -= 1
        return tuple(division)

    def changes(self, division: Division) -> set[Division]:
        """What one change makes: a replica more or less, one or half of a shape exchanged, two for one, one for two."""
        found = set()
        for own in self.kinds.values():
            for gone in (None, *own):
                for come in (None, *own):
                    half = 0 if gone is None else division[gone] // 2
                    for times_gone, times_come in ((1, 1), (1, 2), (2, 1), (half, 0), (half, half)):
                        new = list(division)
                        if gone is not None:
                            new[gone] -= times_gone
                        if come is not None:
                            new[come] += times_come
                        found.add(tuple(new))
        return {new for new in found if new != division and self.fits(new)}

"""Which saved tensors of a layer to keep, compute again or swap under a memory budget: one problem, two solvers.

Exact: a mixed-integer linear programme in the spirit of Checkmate restricted to one layer's backward, with swaps as in
POFO. Greedy: the rules of DTR (cost per byte) and Capuchin (swap first while it hides, then recompute).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from simulator.strategies.recompute.dropping import recompute_chain
from simulator.workload.ops import Block, Mesh, Op, TensorClass

__all__ = ["Action", "LayerProblem", "greedy", "optimal"]

Action = Literal["recompute", "swap"]


@dataclass(frozen=True)
class LayerProblem:
    """One layer's choice.

    Attributes
    ----------
    block, mesh
        The layer, sharded, with nothing dropped yet.
    seconds
        Time of an Op [s].
    swap_seconds
        Time of moving so many bytes in one direction [s]; infinite where there is no tier to swap to.
    forward_seconds, backward_seconds
        Computation under which evictions and fetches may hide [s].
    budget
        Bytes of saved activations that may stay per layer and micro-batch [B].
    actions
        What may be done with a tensor besides keeping it.
    """

    block: Block
    mesh: Mesh
    seconds: Callable[[Op], float]
    swap_seconds: Callable[[float], float]
    forward_seconds: float
    backward_seconds: float
    budget: float
    actions: tuple[Action, ...]

    @cached_property
    def sizes(self) -> dict[str, float]:
        """Bytes of each saved tensor on one rank."""
        return {t.name: t.bytes(self.mesh) for t in self.block.saved}

    @cached_property
    def made(self) -> frozenset[str]:
        """Tensors that the layer itself produces; only these can be recomputed."""
        return frozenset(t.name for op in self.block.forward for t in op.writes)

    def kept(self, choice: Mapping[str, Action]) -> float:
        """Bytes that stay in HBM from forward to backward, inputs that the recomputation needs included."""
        dropped = {n for n, a in choice.items() if a == "recompute"}
        chain = recompute_chain(self.block.forward, dropped, set(self.sizes) - dropped)
        outside = {
            t.name: t.bytes(self.mesh)
            for op in chain
            for t in op.reads
            if t.cls is TensorClass.ACTIVATION and t.name not in self.made and t.name not in self.sizes
        }
        return sum(size for name, size in self.sizes.items() if name not in choice) + sum(outside.values())

    def cost(self, choice: Mapping[str, Action]) -> float:
        """Extra seconds of one layer and micro-batch: recomputed Ops, and transfers that do not hide."""
        dropped = {n for n, a in choice.items() if a == "recompute"}
        chain = recompute_chain(self.block.forward, dropped, set(self.sizes) - dropped)
        moved = sum(self.sizes[n] for n, a in choice.items() if a == "swap")
        out = self.swap_seconds(moved) if moved else 0.0
        return (
            sum(self.seconds(op) for op in chain)
            + max(0.0, out - self.forward_seconds)
            + max(0.0, out - self.backward_seconds)
        )


def greedy(problem: LayerProblem, swap_first: bool = False) -> dict[str, Action]:
    """Drop the tensor with the least extra time per byte freed until the budget is met or nothing is left.

    ``swap_first`` prefers swaps as long as they hide completely (Capuchin), whatever recomputation costs.
    """
    choice: dict[str, Action] = {}
    while problem.kept(choice) > problem.budget:
        best: tuple[tuple[int, float], str, Action] | None = None
        have, paid = problem.kept(choice), problem.cost(choice)
        for name in problem.sizes:
            for action in problem.actions if name not in choice else ():
                if action == "recompute" and name not in problem.made:
                    continue
                trial: dict[str, Action] = {**choice, name: action}
                freed = have - problem.kept(trial)
                if freed <= 0:
                    continue
                extra = problem.cost(trial) - paid
                rank = (0 if swap_first and action == "swap" and extra <= 0 else 1, extra / freed)
                if best is None or rank < best[0]:
                    best = (rank, name, action)
        if best is None:
            break
        choice[best[1]] = best[2]
    return choice


def optimal(problem: LayerProblem) -> dict[str, Action]:
    """The choice of least extra time within the budget, by mixed-integer linear programming.

    Variables: keep s_t, swap w_t for saved tensors; run again r_o for Ops; keep b_x for inputs from outside; stalls
    e ≥ 0 of both directions. s + w + r ≥ 1 for every saved tensor; an Op runs again only if its inputs are there:
    r_o ≤ s + w + r of a producer. The greedy answer is returned where no choice meets the budget.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    index = _Variables(problem)
    n = index.count
    cost = np.zeros(n)
    for number, op in enumerate(problem.block.forward):
        cost[index.again(number)] = problem.seconds(op)
    cost[index.stall :] = 1.0
    scale = max(float(cost[: index.stall].max(initial=0.0)), 1e-12)
    cost[: index.stall] += 1e-9 * scale  # among equals, do least
    rows = [(row, low) for row, low in index.rows()]
    matrix = np.array([row for row, _ in rows]) if rows else np.zeros((0, n))
    lows = np.array([low for _, low in rows])
    upper = np.ones(n)
    upper[index.stall :] = np.inf
    for name, at in index.swap.items():
        if "swap" not in problem.actions or not np.isfinite(problem.swap_seconds(problem.sizes[name])):
            upper[at] = 0.0
    if "recompute" not in problem.actions:
        upper[index.first_op : index.first_outside] = 0.0
    integral = np.ones(n)
    integral[index.stall :] = 0
    found = milp(
        cost,
        constraints=LinearConstraint(matrix, lows, np.inf),
        bounds=Bounds(np.zeros(n), upper),
        integrality=integral,
    )
    if found.x is None:
        return greedy(problem)
    kept = {name for name, at in index.keep.items() if found.x[at] > 0.5}
    swapped = {name for name, at in index.swap.items() if found.x[at] > 0.5} - kept
    return {name: "swap" if name in swapped else "recompute" for name in problem.sizes if name not in kept}


class _Variables:
    """Numbering of the programme's variables, and its constraints as ``row · x ≥ low``."""

    def __init__(self, problem: LayerProblem) -> None:
        self.problem = problem
        names, forward = list(problem.sizes), problem.block.forward
        self.keep = {name: i for i, name in enumerate(names)}
        self.swap = {name: len(names) + i for i, name in enumerate(names)}
        self.first_op = 2 * len(names)
        self.first_outside = self.first_op + len(forward)
        reads = {t.name: t for op in forward for t in op.reads if t.cls is TensorClass.ACTIVATION}
        outside = [t for t in reads.values() if t.name not in problem.made and t.name not in self.keep]
        self.outside = {t.name: self.first_outside + i for i, t in enumerate(outside)}
        self.outside_bytes = {t.name: t.bytes(problem.mesh) for t in outside}
        self.stall = self.first_outside + len(outside)
        self.count = self.stall + 2

    def again(self, number: int) -> int:
        """Variable of running forward Op ``number`` again."""
        return self.first_op + number

    def _writers(self, name: str, before: int) -> list[int]:
        ops = self.problem.block.forward
        return [i for i, op in enumerate(ops[:before]) if name in {t.name for t in op.writes}]

    def rows(self) -> list[tuple[list[float], float]]:
        """All constraints."""
        problem, ops = self.problem, self.problem.block.forward
        found: list[tuple[list[float], float]] = []

        def add(terms: Mapping[int, float], low: float) -> None:
            row = [0.0] * self.count
            for at, value in terms.items():
                row[at] += value
            found.append((row, low))

        def there(name: str, before: int) -> list[dict[int, float]]:
            """Ways of having a tensor, one group per Op that must have written it."""
            direct = {self.keep[name]: 1.0, self.swap[name]: 1.0} if name in self.keep else {}
            if name in self.outside:
                return [{self.outside[name]: 1.0}]
            writers = self._writers(name, before)
            return [{**direct, self.again(w): 1.0} for w in writers] or [direct]

        for name in self.keep:
            for ways in there(name, len(ops)):
                add(ways, 1.0)
        for number, op in enumerate(ops):
            for tensor in op.reads:
                if tensor.cls is TensorClass.ACTIVATION:
                    for ways in there(tensor.name, number):
                        add({**ways, self.again(number): -1.0}, 0.0)
        bytes_kept = {at: -problem.sizes[name] for name, at in self.keep.items()}
        bytes_kept |= {at: -self.outside_bytes[name] for name, at in self.outside.items()}
        add(bytes_kept, -problem.budget)
        for offset, hidden in enumerate((problem.forward_seconds, problem.backward_seconds)):
            moving = {
                at: -problem.swap_seconds(problem.sizes[name])
                for name, at in self.swap.items()
                if "swap" in problem.actions
            }
            if all(abs(v) != float("inf") for v in moving.values()):
                add({**moving, self.stall + offset: 1.0}, -hidden)
        return found

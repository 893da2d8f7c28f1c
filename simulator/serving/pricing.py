"""Prices that engines of the same kind share, so that the next point of a sweep does not lower the model again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from simulator.cost.device import DeviceCost
from simulator.cost.network import NetworkCost
from simulator.hardware.types import Fabric, Node
from simulator.serving.compiled.tables import MOST_CHUNKS, CostTables
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block
from simulator.workload.plan import Plan

if TYPE_CHECKING:
    from simulator.serving.attention_terms import AttentionTerm
    from simulator.serving.token_costs import LinearCost

__all__ = ["Blocks", "Pricing", "pricing_of"]

_MOST_LOWERED = 16
"""Models with plan and framework that are remembered: a sweep's layouts."""

_MOST = 128
"""Engines that are remembered of each: hardware, each with its constants moved for intervals."""

_MOST_BLOCKS = 48
"""Compiled blocks that are remembered together: an interval prices some twenty of its engine again and again. Each is a
thousand objects, and more of them are work for the garbage collector."""

T = TypeVar("T")


class Blocks:
    """Compiled blocks of one model, plan and framework, whatever constants and nodes they are priced with.

    An interval moves one constant after the other: without this every move would lower the model again.
    """

    _known: ClassVar[OrderedDict[Hashable, Block]] = OrderedDict()

    def at(self, part: int, tokens: int, make: Callable[[], Block]) -> Block:
        """The block of a part for so many tokens, made the first time."""
        return _recent(self._known, (self, part, tokens), make, _MOST_BLOCKS)


@dataclass(eq=False)
class Pricing:
    """What has been priced for one model, plan and framework on one node type.

    Attributes
    ----------
    device, network
        Prices of Ops.
    blocks
        What is priced, shared with engines of other constants.
    knots
        (part, tokens) → cost, and the ids of the constants it rests on.
    terms
        Attention by mixer, cache type and what is kept.
    tables
        Answers to the compiled loop by cache type, what is kept and grid.
    """

    node: Node
    device: DeviceCost
    network: NetworkCost
    blocks: Blocks
    knots: dict[tuple[int, int], tuple[LinearCost, frozenset[str]]] = field(default_factory=dict)
    terms: dict[Hashable, AttentionTerm] = field(default_factory=dict)
    tables: dict[Hashable, CostTables] = field(default_factory=dict)

    def tables_of(self, key: Hashable, kinds: int) -> CostTables:
        """Answers that costs with an equal ``key`` share; begun anew where they have become many."""
        found = self.tables.get(key)
        if found is None or found.chunks > MOST_CHUNKS:
            found = self.tables[key] = CostTables(kinds)
        return found


class _Engines:
    """Engines of one model, plan and framework, by node, fabric and moved constants."""

    def __init__(self) -> None:
        self.blocks = Blocks()
        self.known: OrderedDict[Hashable, Pricing] = OrderedDict()


_known: OrderedDict[Hashable, _Engines] = OrderedDict()


def pricing_of(
    model: ModelSpec, plan: Plan, framework: Framework, node: Node, fabric: Fabric, scale: Mapping[str, float]
) -> Pricing:
    """The shared prices; equal arguments have the same ones while they are among the last that were asked for.

    Nothing in them depends on who asked before: a price is a pure function of its work.
    """
    table = node.accelerator.kernel_table
    age = Path(table).stat().st_mtime_ns if table else 0
    engines = _recent(_known, (model, plan, framework), _Engines, _MOST_LOWERED)
    # A node holds mappings and has no hash; profiles are loaded once, so equal nodes are mostly the same object, and
    # the entry keeps it alive.
    return _recent(
        engines.known, (id(node), fabric, tuple(sorted(scale.items())), age),
        lambda: Pricing(
            node, DeviceCost(node.accelerator, framework, scale), NetworkCost(node, fabric, framework, scale),
            engines.blocks,
        ),
        _MOST,
    )  # fmt: skip


def _recent(known: OrderedDict[Hashable, T], key: Hashable, make: Callable[[], T], most: int) -> T:
    """The entry of ``key``, made the first time; of more than ``most`` the one not asked for longest is forgotten."""
    found = known.get(key)
    if found is None:
        found = known[key] = make()
        if len(known) > most:
            known.popitem(last=False)
    else:
        known.move_to_end(key)
    return found

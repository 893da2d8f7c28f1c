"""Prices that engines of the same kind share, so that the next point of a sweep does not lower the model again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.cost.device import DeviceCost
from simulator.cost.network import NetworkCost
from simulator.hardware.types import Fabric, Node
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block
from simulator.workload.plan import Plan

if TYPE_CHECKING:
    from simulator.serving.attention_terms import AttentionTerm
    from simulator.serving.token_costs import LinearCost

__all__ = ["Blocks", "Pricing", "pricing_of"]

_MOST = 128
"""Kinds of engines that are remembered: a sweep's hardware and layouts, each with its constants moved for intervals."""

_MOST_LOWERED = 16
"""Models with plan and framework whose blocks are remembered."""

_MOST_BLOCKS = 64
"""Compiled blocks that are remembered of each: those that intervals price again, with room for a prompt's sizes."""


class Blocks:
    """Compiled blocks of one model, plan and framework, whatever constants and nodes they are priced with.

    An interval moves one constant after the other: without this every move would lower the model again.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, int], Block] = OrderedDict()

    def at(self, part: int, tokens: int, make: Callable[[], Block]) -> Block:
        """The block of a part for so many tokens, made the first time."""
        key = (part, tokens)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = make()
            if len(self._known) > _MOST_BLOCKS:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return found


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
    """

    node: Node
    device: DeviceCost
    network: NetworkCost
    blocks: Blocks
    knots: dict[tuple[int, int], tuple[LinearCost, frozenset[str]]] = field(default_factory=dict)
    terms: dict[Hashable, AttentionTerm] = field(default_factory=dict)


_known: OrderedDict[Hashable, Pricing] = OrderedDict()
_lowered: OrderedDict[Hashable, Blocks] = OrderedDict()


def pricing_of(
    model: ModelSpec, plan: Plan, framework: Framework, node: Node, fabric: Fabric, scale: Mapping[str, float]
) -> Pricing:
    """The shared prices; equal arguments have the same ones while they are among the last that were asked for.

    Nothing in them depends on who asked before: a price is a pure function of its work.
    """
    table = node.accelerator.kernel_table
    age = Path(table).stat().st_mtime_ns if table else 0
    # A node holds mappings and has no hash; profiles are loaded once, so equal nodes are mostly the same object, and
    # the entry keeps it alive.
    key = (model, plan, framework, id(node), fabric, tuple(sorted(scale.items())), age)
    found = _known.get(key)
    if found is None:
        found = _known[key] = Pricing(
            node, DeviceCost(node.accelerator, framework, scale), NetworkCost(node, fabric, framework, scale),
            _blocks_of(model, plan, framework),
        )  # fmt: skip
        if len(_known) > _MOST:
            _known.popitem(last=False)
    else:
        _known.move_to_end(key)
    return found


def _blocks_of(model: ModelSpec, plan: Plan, framework: Framework) -> Blocks:
    key = (model, plan, framework)
    found = _lowered.setdefault(key, Blocks())
    _lowered.move_to_end(key)
    if len(_lowered) > _MOST_LOWERED:
        _lowered.popitem(last=False)
    return found

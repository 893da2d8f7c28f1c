"""Reads a node profile that says only what somebody's own runs have taught about a shipped one.

``based_on`` names the node; ``learnt`` has, by id of a constant, a ``factor`` on its value, the ``sigma`` that is left
and the ``correlations`` with others. The accelerator keeps its name: what was measured on it still holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from simulator.constants import Learnt
from simulator.hardware.fields import read_name
from simulator.hardware.reader import Reader
from simulator.hardware.types import Accelerator, Link, Node, PowerProfile, ScaleUp
from simulator.units import UnitError, parse_quantity

__all__ = ["NOTHING", "read_overlay"]

_NO_LINK = Link("none", 0.0, 0.0)
_NO_ACCELERATOR = Accelerator(
    "", "", "", 0, {"bf16": 1.0}, 1.0, 1.0, 1.0, ScaleUp(_NO_LINK, 1, "none"), _NO_LINK, PowerProfile(0.0, 0.0)
)
NOTHING = Node("", _NO_ACCELERATOR, 1, _NO_ACCELERATOR.scale_up, _NO_LINK, 0, 0.0, 0.0)
"""Stands in for a node that could not be read, until the errors are reported."""


def read_overlay(reader: Reader, stem: str, load_node: Callable[[str], Node]) -> Node:
    """The node that the profile is based on, with what was learnt; errors are recorded in ``reader.issues``."""
    name, sources = read_name(reader, stem), reader.texts("sources")
    found: list[Node] = []

    def load(base: str) -> str:
        found.append(load_node(base))
        return base

    reader.reference("based_on", load, "")
    learnt = _learnt(reader, "; ".join(sources))
    if not sources:
        reader.error("'sources' is missing: say which runs taught this", "sources")
    reader.finish()
    base = found[0] if found else NOTHING
    accelerator = replace(base.accelerator, learnt={**base.accelerator.learnt, **learnt})
    return replace(base, name=name, accelerator=accelerator, sources=(*sources, *base.sources))


def _learnt(reader: Reader, source: str) -> dict[str, Learnt]:
    section = reader.section("learnt", required=True)
    if section is None:
        return {}
    found = {}
    for key in section.keys():  # noqa: SIM118
        one = section.section(key)
        if one is None:
            continue
        factor, sigma = one.quantity("factor", "ratio"), one.quantity("sigma", "ratio")
        if factor <= 0:
            one.error("must be above 0: it multiplies the constant", "factor")
        others = one.section("correlations")
        correlated = []
        for other in others.keys() if others is not None else ():
            assert others is not None
            correlated.append((other, _correlation(others, other)))
        if others is not None:
            others.finish()
        one.finish()
        found[key] = Learnt(factor, sigma, source, tuple(correlated))
    section.finish()
    return found


def _correlation(others: Reader, key: str) -> float:
    node = others.take(key, required=True)
    try:
        share = parse_quantity(node.value, "ratio") if node is not None else 0.0
    except UnitError as error:
        others.error(str(error), key)
        return 0.0
    if not -1 <= share <= 1:
        others.error("a correlation lies between -1 and 1", key)
    return share

"""Loading a plan of purchases: keys checked like a scenario's, prices and capacities filled in, assumptions said."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import ValidationError

from simulator.cluster.buying import MONTH, BuyingPlan, Cloud, Demand, Lot
from simulator.data import find_file
from simulator.errors import ConfigError, IssueCollector
from simulator.hardware.profiles import load_node
from simulator.hardware.types import Node
from simulator.scenario.document import dotted, place_of
from simulator.scenario.problems import issues_of
from simulator.scenario.spec_buying import BuyingSpec, CapacitySpec, DemandSpec, LotSpec, OrderSpec
from simulator.yaml_marks import MarkedNode, load_yaml

__all__ = ["load_plan"]

NO_PRICE = "no purchase price of '{}' is known: give 'price: [low, high]'"


def load_plan(source: str | Path) -> BuyingPlan:
    """The plan of a file, or a shipped one by name (``scenarios/plans``).

    Raises
    ------
    ConfigError
        With everything that is wrong, each with its place.
    """
    path = find_file("scenarios/plans", str(source), "plan")
    shown = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    tree = load_yaml(path, shown)
    issues = IssueCollector(shown)
    try:
        spec = BuyingSpec.model_validate(tree.to_plain(), context={"base": path.parent})
    except ValidationError as error:
        issues.extend(issues_of(error, tree, BuyingSpec))
        issues.raise_if_any()
        raise
    builder = _Builder(spec, tree, issues, path.parent)
    plan = builder.plan()
    issues.raise_if_any()
    return plan


class _Builder:
    """Turns a checked document into a plan."""

    def __init__(self, spec: BuyingSpec, tree: MarkedNode, issues: IssueCollector, base: Path) -> None:
        self.spec, self.tree, self.issues, self.base = spec, tree, issues, base
        self.notes: list[str] = []

    def _error(self, loc: tuple[str | int, ...], message: str) -> None:
        place = place_of(self.tree, loc)
        self.issues.add(message, dotted(loc), place.line, place.column)

    def plan(self) -> BuyingPlan:
        """Everything put together."""
        spec = self.spec
        lots = [self._there(lot, i) for i, lot in enumerate(spec.fleet)]
        lots += [self._order(order, i) for i, order in enumerate(spec.purchases)]
        if not lots and spec.cloud is None:
            self._error((), "needs 'fleet', 'purchases' or 'cloud': nothing serves the demand")
        cloud = None
        if spec.cloud is not None:
            low, high = spec.cloud.price or (0.0, 0.0)
            source = ", ".join(filter(None, (spec.cloud.source, spec.cloud.as_of)))
            cloud = Cloud((low / spec.cloud.capacity, high / spec.cloud.capacity), source)
        if "value_loss" not in spec.model_fields_set:
            self.notes.append(f"machines lose {spec.value_loss:.0%} of their value per year (assumed)")
        if not any(spec.power_price):
            self.notes.append("power_price is not given: electricity is counted as free")
        prices = spec.power_price
        return BuyingPlan(
            name=spec.name, months=spec.months, demand=self._demand(spec.demand), lots=tuple(lots), cloud=cloud,
            unit=spec.demand.unit, loss=spec.value_loss, discount=spec.discount_rate,
            power_price=sum(prices) / len(prices), pue=spec.pue, hosting=sum(spec.hosting or (0.0, 0.0)) / 2,
            maintenance=sum(spec.maintenance or (0.0, 0.0)) / 2, target=spec.target_load, notes=tuple(self.notes),
        )  # fmt: skip

    def _demand(self, spec: DemandSpec) -> Demand:
        if (spec.start is None) == (not spec.points):
            self._error(("demand",), "needs either 'start' or 'points: {0: ..., 12: ...}'")
            return Demand(((0.0, 0.0),))
        if spec.start is not None:
            return Demand(((0.0, spec.start),), spec.growth)
        return Demand(tuple((float(m), value) for m, value in sorted(spec.points.items())), spec.growth)

    def _there(self, spec: LotSpec, index: int) -> Lot:
        node, age = load_node(spec.node), spec.age / MONTH
        price = spec.price or node.price.purchase or (0.0, 0.0)
        if not any(price):
            self.notes.append(f"fleet[{index}]: {NO_PRICE.format(node.name)}; it is sold for nothing")
        capacity = self._capacity(spec.capacity, node, ("fleet", index, "capacity"))
        life = max(self.spec.life / MONTH, age)
        return Lot(node, spec.count, capacity, price, -1.0 - age, 0.0, age, life, _source(node, spec.price))

    def _order(self, spec: OrderSpec, index: int) -> Lot:
        node, loc = load_node(spec.node), ("purchases", index)
        price = spec.price or node.price.purchase
        if price is None and node.accelerator.price.purchase is not None:
            low, high = node.accelerator.price.purchase
            price = (low * node.accelerators, high * node.accelerators)
            self.notes.append(f"purchases[{index}]: the price of '{node.name}' is that of its accelerators alone")
        if price is None:
            self._error((*loc, "node"), NO_PRICE.format(node.name))
            price = (0.0, 0.0)
        more = spec.network or (0.0, 0.0)
        if spec.network is None:
            self.notes.append(f"purchases[{index}]: 'network' is not given: switches and cables are counted as free")
        capacity = self._capacity(spec.capacity, node, (*loc, "capacity"))
        return Lot(
            node, spec.count, capacity, (price[0] + more[0], price[1] + more[1]), float(spec.month),
            spec.month + spec.lead_time / MONTH, 0.0, self.spec.life / MONTH, _source(node, spec.price),
        )  # fmt: skip

    def _capacity(self, spec: float | CapacitySpec, node: Node, loc: tuple[str | int, ...]) -> float:
        if not isinstance(spec, CapacitySpec):
            return spec
        path = self.base / spec.scenario
        try:
            return simulated(str(path) if path.is_file() else spec.scenario, node.name, spec.workload, spec.metric)
        except ConfigError as error:
            for issue in error.issues:
                self._error(loc, str(issue))
            return 1.0


@cache
def simulated(scenario: str, node: str, workload: str | None, metric: str) -> float:
    """A figure of a run per node, with the scenario's nodes replaced.

    Raises
    ------
    ConfigError
        If the scenario does not load, does not fit, or has no such figure.
    """
    from simulator.scenario.load import load_scenario
    from simulator.scenario.run import run_scenario

    loaded = load_scenario(scenario, [f"cluster.nodes.profile={node}"])
    rows = run_scenario(loaded).rows("summary")
    row = next((r for r in rows if workload in (None, r["workload"])), None)
    if row is None:
        raise ConfigError(f"'{scenario}' has no workload '{workload}'")
    if not row["feasible"]:
        raise ConfigError(f"'{scenario}' does not work on {node}: {row['reason']}")
    value = row.get(metric)
    if not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"'{scenario}' has no figure '{metric}' above 0")
    return float(value) / loaded.cluster.node_count


def _source(node: Node, given: object) -> str:
    return "plan" if given else f"{node.price.source} ({node.price.as_of})"

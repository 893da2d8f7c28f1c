"""Buying over time against closed forms."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from simulator.cluster.buying import (
    MONTH,
    BuyingPlan,
    Cloud,
    Demand,
    Lot,
    break_even,
    break_even_load,
    discounted_break_even,
    run_plan,
)
from simulator.errors import ConfigError
from simulator.hardware.power import node_power
from simulator.hardware.profiles import load_node
from simulator.scenario.buying import load_plan

NODE = load_node("dgx-h100")
PER_MONTH = 1000.0 / MONTH
"""Cloud price of one unit of demand: 1,000 USD a month."""


def lot(count: int = 1, price: float = 12_000.0, ordered: float = 0.0, lead: float = 0.0, life: float = 600.0) -> Lot:
    return Lot(NODE, count, 1.0, (price, price), ordered, ordered + lead, life=life)


def plan(*lots: Lot, months: int = 36, demand: float = 1.0, **more: object) -> BuyingPlan:
    made = BuyingPlan("p", months, Demand(((0.0, demand),)), lots, Cloud((PER_MONTH, PER_MONTH)), loss=0.999999)
    return replace(made, **more)  # type: ignore[arg-type]


def crossing(found: BuyingPlan) -> int:
    """First month whose costs up to its end are no more than those of renting; with worthless machines."""
    rows = run_plan(found).rows
    return next(row.month + 1 for row in rows if row.present <= row.cloud_only * (1 + 1e-12))


@given(st.floats(2_000, 30_000), st.sampled_from([0.0, 0.05, 0.2]))
def test_break_even_is_where_the_months_cross(price: float, discount: float) -> None:
    months = discounted_break_even(price, 0.0, 1000.0, discount)
    if months > 58:
        return
    found = crossing(plan(lot(price=price), months=60, discount=discount))
    assert months <= found + 1e-9 <= months + 1 + 1e-6


def test_closed_forms_at_their_limits() -> None:
    assert break_even(12_000, 200, 1200) == pytest.approx(12)
    assert break_even(12_000, 1200, 1200) == math.inf
    assert discounted_break_even(12_000, 200, 1200, 1e-9) == pytest.approx(12, rel=1e-6)
    assert discounted_break_even(1e9, 200, 1200, 0.1) == math.inf
    assert break_even_load(12_000, 0, 200, 1200, 12) == pytest.approx(1.0)


def test_the_load_at_which_buying_pays_is_where_both_cost_the_same() -> None:
    months = 24
    load = break_even_load(12_000, 0.0, 0.0, 1000.0, months)
    owned = run_plan(plan(lot(), months=months, demand=load)).rows[-1]
    assert owned.present == pytest.approx(owned.cloud_only, rel=1e-5)


def test_an_order_is_paid_at_once_and_works_after_its_lead_time() -> None:
    rows = run_plan(plan(lot(ordered=2, lead=3), months=12)).rows
    assert [r.month for r in rows if r.capex] == [2]
    assert [r.month for r in rows if r.capacity] == list(range(5, 12))
    assert [r.month for r in rows if r.cloud] == list(range(5))
    assert sum(r.cloud for r in rows) == pytest.approx(5000)


def test_machines_are_sold_at_the_end_of_their_life_for_what_is_left() -> None:
    found = run_plan(plan(lot(price=8000.0, life=24), months=36, loss=0.5)).rows
    assert [r.month for r in found if r.resale] == [23]
    assert found[23].resale == pytest.approx(8000 / 4)
    assert found[24].capacity == 0
    end = run_plan(plan(lot(price=8000.0), months=12, loss=0.5)).rows
    assert end[-1].resale == pytest.approx(4000), "what is left is sold in the last month"


def test_running_costs_are_power_maintenance_and_hosting() -> None:
    price = 0.1 / 3.6e6
    row = run_plan(plan(lot(), demand=0.5, power_price=price, pue=1.5, hosting=1e-6, maintenance=0.12)).rows[0]
    watts = 1.5 * node_power(NODE, 0.5)
    assert row.power == pytest.approx(watts)
    assert row.opex == pytest.approx(watts * MONTH * price + 0.12 * 12_000 / 12 + 1e-6 * NODE.power_peak * MONTH)


def test_what_is_there_already_is_worth_money_to_who_rents_instead() -> None:
    old = Lot(NODE, 1, 1.0, (8000.0, 8000.0), -25.0, 0.0, age=24.0, life=60.0)
    rows = run_plan(plan(old, months=2, loss=0.5)).rows
    assert rows[0].capex == 0
    assert rows[0].cloud_only == pytest.approx(1000 - 2000)


def test_without_a_cloud_demand_stays_unmet() -> None:
    rows = run_plan(replace(plan(lot(), demand=3.0), cloud=None)).rows
    assert rows[0].unmet == pytest.approx(2.0)
    assert run_plan(replace(plan(lot(), demand=3.0), cloud=None)).pays_after is None


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(1, 100)), min_size=1, max_size=5, unique_by=lambda p: p[0]))
def test_demand_goes_through_its_points(points: list[tuple[int, float]]) -> None:
    demand = Demand(tuple(sorted((float(m), v) for m, v in points)), 0.1)
    assert all(demand.at(m) == pytest.approx(v) for m, v in points)
    last = max(points)
    assert demand.at(last[0] + 2) == pytest.approx(last[1] * 1.21)


def test_the_shipped_plan_runs_and_writes_its_table_and_figure(tmp_path: Path) -> None:
    from simulator.cli.app import app

    runner = CliRunner()
    answer = runner.invoke(app, ["buy", "grow-a-chat-fleet", "-o", str(tmp_path), "--json"])
    months = json.loads(answer.stdout)["months"]
    assert len(months) == 36
    assert (tmp_path / "plan.png").stat().st_size > 10_000
    assert (tmp_path / "plan.csv").read_text().count("\n") == 37
    for row in months:
        assert row["demand"] <= row["capacity"] + row["shortfall"] + 1e-6
        assert row["cost"] == pytest.approx(row["capex"] + row["opex"] + row["cloud"] - row["resale"])


def test_all_errors_of_a_plan_are_told_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "months: 0\ndemand: {growth: 5 %}\npurchases:\n  - {month: 1, node: dgx-h1000, count: 1, capacity: 1}\n"
        "  - {month: 1, node: dgx-h100, count: 1, capacity: 1, leed_time: 3 month}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_plan(path)
    told = {(i.line, i.path) for i in caught.value.issues}
    assert {(1, "months"), (4, "purchases[0].node"), (5, "purchases[1].leed_time")} <= told
    path.write_text("demand: {growth: 5 %}\ncloud: {price: 2 USD/h, capacity: 1}\n")
    with pytest.raises(ConfigError, match="either 'start' or 'points"):
        load_plan(path)


def test_a_capacity_can_come_from_a_simulated_scenario(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "demand: {start: 1000}\npurchases:\n  - {month: 0, node: dgx-h100, count: 1, network: 0,"
        " capacity: {scenario: quickstart, workload: chat}}\n"
    )
    import simulator

    made = load_plan(path).lots[0].capacity
    assert made == pytest.approx(simulator.run("quickstart").of("chat")["output_tokens_per_s"])

"""Laws that every queue policy and placement keeps, and those of elastic jobs, on drawn jobs and nodes."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cluster.conformance import check_job_queue, check_placement
from simulator.cluster.queue import QueueRules
from simulator.registry import lookup, strategies
from simulator.strategies.job_queue.elastic import best_sizes
from simulator.workload.goodput import Goodput
from simulator.workload.job_traces import JobTable

QUEUES = [r.name for r in strategies(family="job_queue")]
PLACEMENTS = [r.name for r in strategies(family="placement")]


@pytest.mark.parametrize("name", PLACEMENTS)
def test_every_placement_keeps_the_rules(name: str) -> None:
    check_placement(lookup("placement", name)())


@st.composite
def tables(draw: st.DrawFn) -> JobTable:
    count = draw(st.integers(1, 30))
    numbers = st.lists(st.floats(0.0, 200.0), min_size=count, max_size=count)
    submit = np.sort(np.array(draw(numbers)).round(1))
    run = 1.0 + np.array(draw(numbers)).round(1)
    sizes = st.lists(st.sampled_from([1, 1, 2, 3, 4, 8, 16]), min_size=count, max_size=count)
    tenants = st.lists(st.integers(0, 2), min_size=count, max_size=count)
    gpus, tenant = np.array(draw(sizes)), np.array(draw(tenants))
    due = np.where(gpus < 4, submit + 2 * run, math.inf)
    return JobTable(submit, run, gpus, tenant, ("a", "b", "c"), tenant, [""] * count, deadline=due)


@pytest.mark.parametrize("queue", QUEUES)
@settings(max_examples=25, deadline=None)
@given(jobs=tables(), placement=st.sampled_from(PLACEMENTS), cost=st.sampled_from([0.0, 7.0]))
def test_every_queue_keeps_the_rules(queue: str, jobs: JobTable, placement: str, cost: float) -> None:
    rules = QueueRules(preemption=cost, limits={1: 16.0})
    check_job_queue(lookup("job_queue", queue), lookup("placement", placement)(), jobs, [8, 8, 8, 8], rules)


@pytest.mark.parametrize("queue", ["pollux", "sia"])
@settings(max_examples=25, deadline=None)
@given(jobs=tables(), noise=st.floats(0.0, 100.0), sync=st.floats(0.0, 2.0))
def test_elastic_queues_keep_the_rules_with_elastic_jobs(queue: str, jobs: JobTable, noise: float, sync: float) -> None:
    rules = QueueRules(limits={1: 16.0})
    model = Goodput(noise, sync, largest=4.0)
    check_job_queue(lookup("job_queue", queue), lookup("placement", "best-fit")(), jobs, [8] * 4, rules, model)


@given(
    noise=st.floats(0.0, 1e3), sync=st.floats(0.0, 3.0), fixed=st.floats(0.0, 0.5), overlap=st.floats(1.0, 10.0),
    asked=st.integers(1, 16), more=st.integers(1, 64),
)  # fmt: skip
def test_goodput_is_bounded_by_linear_speed_and_is_one_at_the_gang_asked_for(
    noise: float, sync: float, fixed: float, overlap: float, asked: int, more: int
) -> None:
    model = Goodput(noise, sync, fixed=fixed, overlap=overlap, largest_batch=1.0)
    assert model.speed(asked, asked, 8) == pytest.approx(1.0)
    # With the batch as it is, computing is at most linear in the accelerators and never loses all of the exchange.
    linear = Goodput(noise, 0.0, largest_batch=1.0)
    assert linear.speed(more, asked, 8) == pytest.approx(more / asked)
    free = Goodput(math.inf, 0.0, largest_batch=32.0)
    assert free.speed(more, asked, 8) == pytest.approx(more / asked)
    batched = Goodput(noise, sync, fixed=fixed, overlap=overlap, largest_batch=32.0)
    assert batched.speed(more, asked, 8) >= model.speed(more, asked, 8) * (1 - 1e-12)


@settings(deadline=None)
@given(
    values=st.lists(
        st.dictionaries(st.integers(1, 6), st.floats(-3.0, 5.0), min_size=1, max_size=4), min_size=1, max_size=4
    ),
    room=st.integers(1, 12),
)  # fmt: skip
def test_sizes_are_those_of_all_combinations_worth_most(values: list[dict[int, float]], room: int) -> None:
    def worth(sizes: tuple[int, ...]) -> float:
        return sum(options.get(size, 0.0) for options, size in zip(values, sizes, strict=True))

    every = product(*([0, *options] for options in values))
    best = max(worth(sizes) for sizes in every if sum(sizes) <= room)
    found = best_sizes(values, room)
    assert sum(found) <= room
    assert worth(tuple(found)) == pytest.approx(best)

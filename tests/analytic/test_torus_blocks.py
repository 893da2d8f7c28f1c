"""Slices of a torus out of blocks: any through optical switches, a box of neighbours without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.cluster.failures import Hit
from simulator.cluster.queue import JobQueueProcess, QueueRules
from simulator.cluster.queue_failures import QueueFailures
from simulator.cluster.queue_nodes import NodePool
from simulator.cluster.queue_run import queued_jobs
from simulator.engine.clock import Clock
from simulator.registry import lookup
from simulator.strategies.cluster_protocols import QueuedJob
from simulator.workload.job_traces import JobTable

HOST, BLOCK = 4, 64
HOSTS = BLOCK // HOST
"""A TPU v4 block: 4 x 4 x 4 chips, four on each of 16 hosts."""


def slices(down: NDArray[np.bool_], blocks: int, grid: tuple[int, ...] = (), chips: int = BLOCK) -> int:
    """Slices of so many blocks that are placed until none fits; in each block that is down a host is missing."""
    placement = lookup("placement", "blocks")(optical=not grid, grid=grid or None)
    group = np.repeat(np.arange(len(down)), HOSTS)
    size = np.full(len(group), HOST)
    size[np.flatnonzero(down) * HOSTS + 3] = 0
    free, placed = size.copy(), 0
    while (place := placement.place(blocks * chips, free, size, group)) is not None:
        assert sum(count for _, count in place) == blocks * chips
        assert not {int(group[node]) for node, _ in place} & set(np.flatnonzero(down).tolist())
        for node, count in place:
            free[node] -= count
        assert free.min() >= 0
        placed += 1
    return placed


@pytest.mark.parametrize("blocks", [2, 4, 16, 27])
def test_switches_use_every_healthy_block(blocks: int) -> None:
    """Any n of H healthy blocks make a slice: H // n of them, and no more can there be without switches."""
    random = np.random.Generator(np.random.PCG64(blocks))
    for broken in (0, 1, 5, 17):
        down = np.zeros(64, bool)
        down[random.choice(64, broken, replace=False)] = True
        placed = slices(down, blocks)
        assert placed == (64 - broken) // blocks
        assert slices(down, blocks, (4, 4, 4)) <= placed


def test_a_box_needs_neighbours_and_switches_do_not() -> None:
    """On a ring of four blocks: with two opposite ones down no two that are left are neighbours; across the end is."""
    opposite, first = np.array([True, False, True, False]), np.array([False, True, True, False])
    assert (slices(opposite, 2), slices(opposite, 2, (4,))) == (1, 0)
    assert (slices(first, 2), slices(first, 2, (4,))) == (1, 1)


def test_one_broken_block_halves_what_a_static_machine_gives_to_halves() -> None:
    """4 x 4 x 4 blocks in halves: two slices while all are well, one with any block down, with and without switches.

    In quarters (boxes of 16 that are 4 long) one block down leaves three; one down in every row leaves none without
    switches, three with.
    """
    down = np.zeros(64, bool)
    for grid in ((), (4, 4, 4)):
        assert slices(down, 32, grid) == 2
    down[21] = True
    for grid in ((), (4, 4, 4)):
        assert slices(down, 32, grid) == 1
        assert slices(down, 16, grid) == 3
    x, y, z = np.unravel_index(np.arange(64), (4, 4, 4))
    latin = (x + y + z) % 4 == 0
    assert slices(latin, 16, (4, 4, 4)) == 0
    assert slices(latin, 16) == 3


def test_a_gang_of_one_block_needs_no_switches() -> None:
    """Gangs of one block are placed alike; halves of one, two to a block, also where a host is missing."""
    down = np.zeros(8, bool)
    down[2] = True
    assert slices(down, 1) == slices(down, 1, (2, 2, 2)) == 7
    group, size = np.repeat(np.arange(8), HOSTS), np.full(8 * HOSTS, HOST)
    size[2 * HOSTS] = 0
    for options in ({}, {"optical": False, "grid": (2, 2, 2)}):
        free, placed = size.copy(), 0
        placement = lookup("placement", "blocks")(**options)
        while (place := placement.place(BLOCK // 2, free, size, group)) is not None:
            assert len({int(group[node]) for node, _ in place}) == 1
            for node, count in place:
                free[node] -= count
            placed += 1
        assert placed == 2 * 7 + 1


def crashed(reconfiguration: float, **options: Any) -> QueuedJob:
    """A job of two blocks and 1000 s on a ring of four; one of its hosts fails after 400 s, back after 5000 s."""
    clock = Clock()
    pool = NodePool([HOST] * 4 * HOSTS, np.repeat(np.arange(4), HOSTS).tolist())
    placement = lookup("placement", "blocks")(reconfiguration=reconfiguration, **options)
    rules = QueueRules(checkpoint=100.0, restart=30.0)
    process = JobQueueProcess(clock, pool, lookup("job_queue", "fifo")(), placement, rules)
    gpus = np.array([2 * BLOCK, BLOCK])
    none = np.zeros(2, np.int64)
    table = JobTable(np.zeros(2), np.array([1000.0, 9000.0]), gpus, none, ("a",), none, ["", ""])
    jobs = queued_jobs(table)
    process.submit(jobs)
    failures = QueueFailures(process, 0)
    repaired = clock.event()

    def fail() -> None:
        failures.fail(Hit("host", jobs[0].nodes[0][0], repaired))

    clock.at(400.0, fail)
    clock.at(5400.0, repaired.succeed)
    clock.run()
    return jobs[0]


def test_a_failed_block_is_replaced_after_the_switches_are_set() -> None:
    """Blocks 0 and 1 work, 2 is taken, 0 fails: 1 and 3 are joined; 400 s less what the switches took are saved.

    Without switches 1 and 3 are no neighbours, and the job waits for the repair.
    """
    assert crashed(0.0).finish == pytest.approx(400 + 30 + 600)
    # 10 s of the first 400 are the switches': 390 s of work, of which 300 are saved.
    switched = crashed(10.0)
    assert switched.finish == pytest.approx(400 + 30 + 10 + 700)
    assert {node // HOSTS for node, _ in switched.nodes} == {1, 3}
    assert crashed(10.0, optical=False, grid=(4,)).finish == pytest.approx(5400 + 30 + 600)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"optical": False}, "needs 'grid'"),
        ({"optical": False, "grid": (4, 0)}, "at least 1"),
        ({"reconfiguration": -1.0}, "at least 0"),
        ({"reconfiguration": "10 s"}, "as 10.0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lookup("placement", "blocks")(**options)

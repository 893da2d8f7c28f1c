"""Chunks through stages whose kernels one thread launches: closed forms and limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.serving.launch_queue import time_through


def equal(chunks: int, stages: int) -> list[list[float]]:
    return [[1.0] * stages for _ in range(chunks)]


@pytest.mark.parametrize(("chunks", "stages"), [(1, 1), (2, 4), (8, 4), (8, 8)])
def test_without_limits_it_is_a_pipeline(chunks: int, stages: int) -> None:
    assert time_through(equal(chunks, stages), [900] * stages) == chunks + stages - 1


@pytest.mark.parametrize("kernels", [1040, 1500, 4096])
def test_a_stage_that_exceeds_its_queue_holds_up_the_first(kernels: int) -> None:
    """The thread comes back to the first of n stages when the last has begun and all but 1,024 of its kernels are done:
    n - 1 + x later, x = (kernels - 1,024) / kernels; the second chunk then takes its n stages."""
    share = (kernels - 1024) / kernels
    assert time_through(equal(2, 4), [kernels] * 4, 1024) == pytest.approx(3 + share + 4)
    assert time_through(equal(8, 4), [kernels] * 4, 1024) == pytest.approx(7 * (3 + share) + 4)


def test_two_chunks_fit_but_for_what_the_queue_lacks() -> None:
    """900 kernels a chunk: the second enters each stage at once, the third when the second is all but through: two
    chunks per 3 + 776 / 900."""
    ahead = (2 * 900 - 1024) / 900
    assert time_through(equal(2, 4), [900] * 4, 1024) == pytest.approx(5.0)
    assert time_through(equal(8, 4), [900] * 4, 1024) == pytest.approx(3 * (3 + ahead) + 1 + 4)


def test_buffers_bound_the_chunks_in_flight() -> None:
    """One buffer: the thread is back at the first of four stages when the chunk before last has left the last one, so
    that chunks start at 0, 1, 4, 5, 8."""
    assert [time_through(equal(n, 4), [1] * 4, chunks=1) for n in (2, 3, 4, 5)] == [5.0, 8.0, 9.0, 12.0]
    assert time_through(equal(3, 4), [1] * 4, chunks=3) == time_through(equal(3, 4), [1] * 4)


@given(
    st.lists(st.lists(st.floats(0.1, 10.0), min_size=3, max_size=3), min_size=1, max_size=6),
    st.lists(st.integers(1, 3000), min_size=3, max_size=3),
    st.integers(1, 4000),
    st.integers(0, 5),
)
def test_between_a_pipeline_and_one_after_another(
    seconds: list[list[float]], kernels: list[int], depth: int, chunks: int
) -> None:
    least, most = time_through(seconds, kernels), sum(map(sum, seconds))
    found = time_through(seconds, kernels, depth, chunks)
    assert least - 1e-9 <= found <= most + 1e-9
    assert time_through(seconds, kernels, 2 * depth, chunks) <= found + 1e-9

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.engine.clock import Clock
from simulator.engine.streams import DeadlockError, run_streams, run_streams_with_interference

STREAMS = ("compute", "scale_up", "scale_out")


@st.composite
def dags(draw):
    n = draw(st.integers(1, 25))
    duration = draw(st.lists(st.integers(0, 8).map(float), min_size=n, max_size=n))
    stream = draw(st.lists(st.sampled_from(STREAMS), min_size=n, max_size=n))
    after = [tuple(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else () for i in range(n)]
    return duration, stream, after


def simulated(duration, stream, after):
    """The same by processes on the clock: one per stream, waiting for events."""
    clock = Clock()
    ended = [clock.event() for _ in duration]
    start, end = [0.0] * len(duration), [0.0] * len(duration)

    def worker(name):
        for i in (i for i, s in enumerate(stream) if s == name):
            yield clock.all_of([ended[j] for j in after[i]])
            start[i] = clock.now
            yield clock.timeout(duration[i])
            end[i] = clock.now
            ended[i].succeed()

    for name in set(stream):
        clock.process(worker(name))
    clock.run()
    return start, end


@given(dags())
def test_equals_processes_on_the_clock(dag) -> None:
    schedule = run_streams(*dag)
    start, end = simulated(*dag)
    assert schedule.start.tolist() == start
    assert schedule.end.tolist() == end
    assert sum(schedule.critical_time.values()) == schedule.makespan == max(end)
    path = schedule.critical_path
    assert all(schedule.start[b] == schedule.end[a] for a, b in pairwise(path))


@given(dags())
def test_exposed_is_what_a_count_over_unit_slots_gives(dag) -> None:
    schedule = run_streams(*dag)
    slots = {s: set() for s in STREAMS}
    for name, begin, end in zip(dag[1], schedule.start, schedule.end, strict=True):
        slots[name] |= set(range(int(begin), int(end)))
    for name in STREAMS[1:]:
        assert schedule.exposed(name) == len(slots[name] - slots["compute"])
        assert schedule.busy.get(name, 0.0) == len(slots[name])


@given(dags(), st.randoms(use_true_random=False))
def test_numbering_across_streams_does_not_matter(dag, random) -> None:
    duration, stream, after = dag
    order = []
    queues = {s: [i for i, x in enumerate(stream) if x == s] for s in set(stream)}
    while queues:
        name = random.choice(sorted(queues))
        order.append(queues[name].pop(0))
        if not queues[name]:
            del queues[name]
    new = {old: i for i, old in enumerate(order)}
    moved = run_streams(
        [duration[i] for i in order], [stream[i] for i in order], [tuple(new[j] for j in after[i]) for i in order]
    )
    assert moved.end[[new[i] for i in range(len(order))]].tolist() == run_streams(*dag).end.tolist()


@given(dags())
def test_without_interference_both_executors_agree_exactly(dag) -> None:
    assert run_streams_with_interference(*dag, {}).end.tolist() == run_streams(*dag).end.tolist()


@given(dags(), st.sampled_from([1.25, 2.0]))
def test_interference_does_work_at_the_rates_it_says(dag, factor) -> None:
    schedule = run_streams_with_interference(*dag, {("compute", "scale_up"): factor})
    assert schedule.makespan >= run_streams(*dag).makespan - 1e-9
    moments = np.unique(np.concatenate([schedule.start, schedule.end]))
    for i, name in enumerate(dag[1]):
        done = 0.0
        for a, b in pairwise(moments):
            if schedule.start[i] <= a and b <= schedule.end[i]:
                rival = any(
                    s == "scale_up" and schedule.start[j] <= a and b <= schedule.end[j] for j, s in enumerate(dag[1])
                )
                done += (b - a) / (factor if name == "compute" and rival else 1.0)
        assert done == pytest.approx(dag[0][i], abs=1e-9)


def test_interference_by_hand() -> None:
    """Compute of 10 s beside a transfer of 4 s that halves its speed: 2 s of work in those 4 s, 8 s after."""
    schedule = run_streams_with_interference(
        [10.0, 4.0], ["compute", "scale_up"], [(), ()], {("compute", "scale_up"): 2.0}
    )
    assert schedule.end.tolist() == [12.0, 4.0]


@pytest.mark.parametrize("run", [run_streams, lambda *a, **k: run_streams_with_interference(*a, {}, **k)])
def test_deadlocks_name_the_operations(run) -> None:
    with pytest.raises(DeadlockError, match=r"'send0' waits for 'recv1' waits for .*'send0'") as caught:
        run([1.0] * 3, ["x", "a", "b"], [(), (2,), (1,)], names=["free", "send0", "recv1"])
    assert set(caught.value.cycle) == {1, 2}


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="wrong at \\[1\\]"):
        run_streams([1.0, -1.0], ["a", "a"], [(), ()])
    with pytest.raises(ValueError, match="does not exist"):
        run_streams([1.0], ["a"], [(3,)])
    with pytest.raises(ValueError, match="must be equal"):
        run_streams([1.0], ["a", "b"], [()])
    with pytest.raises(ValueError, match="at least 1"):
        run_streams_with_interference([1.0], ["a"], [()], {("a", "b"): 0.5})
    assert run_streams([], [], []).makespan == 0.0

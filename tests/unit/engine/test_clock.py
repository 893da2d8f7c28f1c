import pytest

from simulator.engine.clock import Clock


def test_ties_run_in_order_of_scheduling_and_late_ones_last() -> None:
    clock, seen = Clock(), []
    clock.at(1.0, lambda: seen.append("late"), late=True)
    clock.at(1.0, lambda: seen.append("a"))
    clock.at(1.0, lambda: (seen.append("b"), clock.after(0.0, lambda: seen.append("c"))))
    clock.run()
    assert seen == ["a", "b", "c", "late"]


def test_absolute_times_are_exact() -> None:
    clock, seen = Clock(), []
    clock.at(0.1, lambda: clock.at(0.3, lambda: seen.append(clock.now)))
    clock.run()
    assert seen == [0.3]  # 0.1 + (0.3 - 0.1) is 0.30000000000000004


def test_cancelled_callbacks_neither_run_nor_count_nor_move_time() -> None:
    clock, seen = Clock(), []
    handles = [clock.at(10.0 + i, lambda: seen.append("never")) for i in range(1000)]
    kept = clock.at(2.0, lambda: seen.append("kept"))
    assert all(clock.cancel(h) for h in handles)
    assert not clock.cancel(handles[0])
    clock.run()
    assert (seen, clock.now, clock.events) == (["kept"], 2.0, 1)
    assert not clock.cancel(kept)


def test_processes_events_and_run_until() -> None:
    clock = Clock(5.0)
    door = clock.event()

    def waiter():
        value = yield door
        yield clock.timeout(1.0)
        return value, clock.now

    clock.at(7.0, lambda: door.succeed("open"))
    assert clock.run(clock.process(waiter())) == ("open", 8.0)
    clock.at(9.0, lambda: None)
    clock.run(9.0)
    assert clock.now == 9.0
    assert clock.next_time == 9.0  # the event at exactly `until` is still to come


@pytest.mark.parametrize("time", [0.5, float("nan")])
def test_the_past_is_refused(time: float) -> None:
    clock = Clock(1.0)
    with pytest.raises(ValueError, match=r"already 1\.0 s"):
        clock.at(time, lambda: None)
    with pytest.raises(ValueError, match=r"already 1\.0 s"):
        clock.run(time)
    with pytest.raises(ValueError, match="at least 0"):
        clock.timeout(-1.0)

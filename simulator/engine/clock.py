"""The one clock: a thin layer over a single ``simpy.Environment``.

Every package that needs simulated time is handed a :class:`Clock`; nobody makes an environment of their own.
Ties are broken first by priority (ordinary before late), then by the order of scheduling, so a run is
reproducible event by event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import simpy
    from simpy.events import ProcessGenerator

    from simulator.engine._environment import Environment, Scheduled

__all__ = ["Clock"]


class Clock:
    """Simulated time in seconds.

    Parameters
    ----------
    start
        Time at the beginning [s].
    """

    def __init__(self, start: float = 0.0) -> None:
        from simulator.engine._environment import Environment

        self._env: Environment = Environment(float(start))

    @property
    def env(self) -> simpy.Environment:
        """The environment, for SimPy's own resources (``simpy.Resource(clock.env)``)."""
        return self._env

    @property
    def now(self) -> float:
        """Current time [s]."""
        return self._env.now

    @property
    def events(self) -> int:
        """Events processed so far; withdrawn callbacks are not counted."""
        return self._env.events

    @property
    def next_time(self) -> float:
        """Time of the next event [s], infinity when nothing is scheduled."""
        return self._env.peek()

    def process(self, generator: Generator[simpy.Event, Any, Any]) -> simpy.Process:
        """Start a process; the returned event fires with its return value when it ends."""
        process: ProcessGenerator = generator
        return self._env.process(process)

    def timeout(self, delay: float, value: object = None) -> simpy.Event:
        """An event that fires ``delay`` seconds from now.

        Raises
        ------
        ValueError
            If ``delay`` is negative or not a number.
        """
        if not delay >= 0:
            raise ValueError(f"a delay must be at least 0 s, not {delay!r}")
        return self._env.timeout(delay, value)

    def event(self) -> simpy.Event:
        """An event that somebody else will trigger."""
        return self._env.event()

    def all_of(self, events: Iterable[simpy.Event]) -> simpy.Event:
        """An event that fires when all of ``events`` have."""
        return self._env.all_of(events)

    def any_of(self, events: Iterable[simpy.Event]) -> simpy.Event:
        """An event that fires when the first of ``events`` does."""
        return self._env.any_of(events)

    def at(self, time: float, callback: Callable[[], object], *, late: bool = False) -> Scheduled:
        """Call ``callback`` at the absolute ``time``.

        Parameters
        ----------
        time
            [s], not before now. Infinity is allowed and never comes.
        late
            After every ordinary event of that instant, including those they cause at the same instant:
            for work that answers many simultaneous events at once.

        Returns
        -------
        Scheduled
            A handle for :meth:`cancel`.

        Raises
        ------
        ValueError
            If ``time`` lies in the past or is not a number.
        """
        from simulator.engine._environment import LATE, NORMAL, Scheduled

        if not time >= self._env.now:
            raise ValueError(f"cannot schedule at {time!r} s: it is already {self._env.now!r} s")
        handle = Scheduled(self._env, callback)
        if math.isfinite(time):
            self._env.schedule_at(handle, time, LATE if late else NORMAL)
        return handle

    def after(self, delay: float, callback: Callable[[], object], *, late: bool = False) -> Scheduled:
        """Call ``callback`` in ``delay`` seconds; see :meth:`at`."""
        return self.at(self._env.now + delay, callback, late=late)

    def cancel(self, handle: Scheduled) -> bool:
        """Take a scheduled callback back; ``False`` when it has already run or been taken back.

        A withdrawn callback neither counts as an event nor keeps the clock running until its time.
        """
        return self._env.withdraw(handle)

    def run(self, until: float | simpy.Event | None = None) -> Any:
        """Process events until a time, until an event, or until nothing is left.

        Events at exactly the time ``until`` stay for the next call. Returns the value of the event when
        ``until`` is one.

        Raises
        ------
        ValueError
            If ``until`` is a time that lies in the past.
        """
        if isinstance(until, int | float):
            if not until >= self._env.now:
                raise ValueError(f"cannot run until {until!r} s: it is already {self._env.now!r} s")
            if until == self._env.now:
                return None
            if math.isinf(until):
                until = None
        return self._env.run(until)

    def run_until(self, event: simpy.Event) -> bool:
        """Process events until ``event``, or until nothing can happen any more; whether it has happened.

        For work that may stand still for good, e.g. behind a link that is never repaired.
        """
        try:
            self._env.run(event)
        except RuntimeError as error:
            if "No scheduled events left" not in str(error):  # SimPy's words for an event that can no longer happen
                raise
            return False
        return True

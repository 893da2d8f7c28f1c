"""Where the points of a sweep are computed: this process, a pool of processes, or Ray; one shape for all.

An executor is a :class:`concurrent.futures.Executor`. Whatever offers that shape (Dask's ``get_executor``, a pool of
one's own) can be handed to a sweep as well.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

from simulator.errors import ConfigError
from simulator.scenario.sweep_points import prepare_worker

__all__ = ["InProcess", "RayExecutor", "make_executor"]


class InProcess(Executor):
    """Computes at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future that is done already."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # as every executor: the caller of result() meets it
            future.set_exception(error)
        return future


class RayExecutor(Executor):
    """Tasks on a Ray cluster: the one of ``RAY_ADDRESS``, or one that is started on this machine.

    A task whose worker or node dies is started again elsewhere (Ray retries it), so nothing is lost.
    """

    def __init__(self, jobs: int | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError("'--executor ray' needs ray: pip install 'fmsim[distributed]'") from None
        self._ray: Any = ray
        self._started = not ray.is_initialized()
        if self._started:
            address = os.environ.get("RAY_ADDRESS")
            local = {} if address else {"num_cpus": jobs, "include_dashboard": False}
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
        self._remote: dict[Callable[..., Any], Any] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future of the remote task."""
        if fn not in self._remote:
            self._remote[fn] = self._ray.remote(max_retries=5)(fn)
        future: Future[Any] = self._remote[fn].remote(*args, **kwargs).future()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster if it was joined here."""
        if self._started and self._ray.is_initialized():
            self._ray.shutdown()


def make_executor(kind: str, jobs: int) -> Executor:
    """``local`` (processes; this one alone for a single job) or ``ray``.

    Raises
    ------
    ConfigError
        If ray is asked for and not installed.
    """
    if kind == "ray":
        return RayExecutor(jobs)
    if jobs == 1:
        return InProcess()
    # Forked workers share what is loaded already (profiles, models, modules) without reading it again.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=prepare_worker, initargs=(os.getpid(),))

"""The compiler of the kernels. A module that imports this one needs numba (extra ``fast``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulator.serving.compiled.store import cache_folder

__all__ = ["entry", "inner"]


def inner(function: Callable[..., Any]) -> Any:
    """Compile ``function`` as a part of the kernels that call it."""
    from numba import njit

    return njit(function, forceinline=True)


def entry(function: Callable[..., Any]) -> Any:
    """Compile ``function``, which Python calls; what is compiled is kept on disk where that can be written."""
    from numba import config, njit

    before = config.CACHE_DIR
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        config.CACHE_DIR = str(folder)
        return njit(function, cache=True)
    except OSError:
        return njit(function)
    finally:
        config.CACHE_DIR = before

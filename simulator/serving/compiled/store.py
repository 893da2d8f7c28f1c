"""Where compiled kernels are kept: the user's cache folder. Imports no numba.

Compiling takes half a minute, loading what was compiled a few tenths of a second; so it is kept on disk, under a name
that changes with the kernels' source, Python and numba.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

__all__ = ["cache_folder", "is_compiled"]

_SOURCES = ("jit", "pointers", "layout", "decodes", "residency", "plans", "costs", "flight", "loop", "front_end")


def cache_folder() -> Path:
    """Where compiled kernels of this very source are kept."""
    from importlib.metadata import version

    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((here / f"{name}.py").read_bytes())
    digest.update(f"{version('numba')} {sys.version}".encode())
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "fmsim" / f"kernels-{digest.hexdigest()[:16]}"


def is_compiled() -> bool:
    """Whether an earlier process has left the loop compiled."""
    try:
        return any(cache_folder().rglob("loop.*.nbc"))
    except OSError:
        return False

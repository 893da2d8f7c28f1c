"""PyTorch, which only calibration needs: found when it is asked for, with a cure when it is not there."""

from __future__ import annotations

import importlib
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.errors import ConfigError

__all__ = ["DeviceInfo", "device_info", "dtype_of", "keep_pages", "require_torch", "synchronize"]

KEPT = float(1 << 30)
"""Bytes of heap that are touched before anything is timed: more than the activations of any verified model."""

INSTALL = "PyTorch is not installed: pip install 'fmsim[calibrate]' (or a build of your choice from pytorch.org)"


def require_torch() -> Any:
    """The ``torch`` module.

    Raises
    ------
    ConfigError
        If PyTorch is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise ConfigError(INSTALL) from None


@dataclass(frozen=True)
class DeviceInfo:
    """What was measured, and with what: the provenance of a profile."""

    kind: str
    name: str
    vendor: str
    threads: int
    memory: float
    driver: str
    torch: str

    @property
    def slug(self) -> str:
        """A file name for it, e.g. ``cpu-intel-xeon-2t``."""
        words = re.sub(r"\((r|tm)\)|processor|cpu|@.*|nvidia", " ", self.name.lower())
        core = "-".join(re.findall(r"[a-z0-9.]+", words)) or "unknown"
        return f"{self.kind}-{core}-{self.threads}t" if self.kind == "cpu" else core

    def describe(self) -> str:
        """One line for a source."""
        threads = f", {self.threads} threads" if self.kind == "cpu" else ""
        return f"{self.name}{threads}, {self.driver}, PyTorch {self.torch}"


def device_info(device: str) -> DeviceInfo:
    """The device called ``device`` by PyTorch (``cpu``, ``cuda``, ``cuda:1``).

    Raises
    ------
    ConfigError
        If PyTorch is not installed or has no such device.
    """
    torch = require_torch()
    kind = device.partition(":")[0]
    version = str(torch.__version__)
    if kind == "cpu":
        name, vendor = _processor()
        memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        driver = f"{platform.system()} {platform.release()}, {platform.machine()}"
        return DeviceInfo("cpu", name, vendor, int(torch.get_num_threads()), memory, driver, version)
    if kind != "cuda":
        raise ConfigError(f"'{device}' cannot be calibrated; known here: cpu, cuda, cuda:N")
    if not torch.cuda.is_available():
        raise ConfigError(f"this PyTorch ({version}) sees no CUDA device: use --device cpu, or install a CUDA build")
    found = torch.cuda.get_device_properties(device)
    vendor = "amd" if torch.version.hip else "nvidia"
    driver = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    return DeviceInfo("cuda", str(found.name), vendor, 0, float(found.total_memory), driver, version)


def _processor() -> tuple[str, str]:
    """Model name and vendor of the host processor."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = " ".join(value.split())
                break
    lower = name.lower()
    vendor = next((v for v in ("intel", "amd", "apple", "arm") if v in lower), platform.machine())
    return name, vendor


def dtype_of(name: str) -> Any:
    """The torch type of a dtype name of this package."""
    torch = require_torch()
    names = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}
    return getattr(torch, names[name])


def keep_pages(reserve: float = KEPT) -> bool:
    """Let the C library keep freed memory, as CPU recipes do (jemalloc, tcmalloc), and touch ``reserve`` bytes of it.

    Otherwise a step returns its activations to the system and pays for every page again, by 3 to 15 % of its time, and
    the first steps pay for the pages of a heap that still grows. False where it cannot be set.
    """
    import ctypes

    try:
        library = ctypes.CDLL(None)
        mallopt, malloc, free = library.mallopt, library.malloc, library.free
    except (OSError, AttributeError):
        return False
    trim_threshold, mmap_max = -1, -4
    if not (mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_max, 0)):
        return False
    malloc.restype, malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    free.argtypes = (ctypes.c_void_p,)
    block = malloc(int(reserve))
    if block:
        ctypes.memset(block, 0, int(reserve))
        free(block)
    return True


def synchronize(device: str) -> None:
    """Wait until the device has done everything asked of it; nothing to do on a CPU."""
    if device.startswith("cuda"):
        require_torch().cuda.synchronize(device)

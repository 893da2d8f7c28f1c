"""What lies around the kernels: host copies, disk, power, and the time Python needs for one layer."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.calibration.timing import measure
from simulator.calibration.torch_setup import require_torch, synchronize

__all__ = ["HostFigures", "host_figures", "read_power"]

DISK_BYTES = 64 << 20


@dataclass(frozen=True)
class HostFigures:
    """Rates [B/s] and powers [W]; NaN where something could not be measured, with the reason in ``left_out``."""

    host_bandwidth: float
    disk_write: float
    disk_read: float
    copies: dict[str, float]
    idle_power: float
    peak_power: float
    left_out: tuple[str, ...]


def host_figures(device: str, folder: Path | None = None, seconds: float = 5.0) -> HostFigures:
    """Measure copies, disk and power in about ``seconds``."""
    torch = require_torch()
    left_out: list[str] = []
    source = torch.empty(1 << 26, dtype=torch.uint8)
    target = torch.empty_like(source)
    copied = measure(lambda: target.copy_(source), budget=seconds / 10)
    write, read = _disk(folder, left_out)
    copies = _copies(device, torch, seconds / 5, left_out)
    idle, peak = _power(device, torch, left_out, seconds / 5)
    return HostFigures(2 * source.numel() / copied.seconds, write, read, copies, idle, peak, tuple(left_out))


def _disk(folder: Path | None, left_out: list[str]) -> tuple[float, float]:
    """Sequential write with fsync, and read with the page cache dropped for the file where the system can."""
    data = os.urandom(1 << 20)
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            start = time.perf_counter()
            for _ in range(DISK_BYTES >> 20):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            write = DISK_BYTES / (time.perf_counter() - start)
            if not hasattr(os, "posix_fadvise"):
                left_out.append("disk read: this system cannot drop its page cache")
                return write, float("nan")
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            start = time.perf_counter()
            while file.read(1 << 20):
                pass
            return write, DISK_BYTES / (time.perf_counter() - start)
    except OSError as error:
        left_out.append(f"disk: {error.strerror}")
        return float("nan"), float("nan")


def _copies(device: str, torch: Any, seconds: float, left_out: list[str]) -> dict[str, float]:
    """Host to device and back, from pageable and from pinned memory [B/s]."""
    if device == "cpu":
        left_out.append("host-device copies: the device is the host")
        return {}
    size = 1 << 28
    there = torch.empty(size, dtype=torch.uint8, device=device)
    found = {}
    for pinned in (False, True):
        here = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        name = "pinned" if pinned else "pageable"
        for way, call in (
            ("h2d", _copy(there, here)),
            ("d2h", _copy(here, there)),
        ):
            timing = measure(call, lambda: synchronize(device), budget=seconds / 4)
            found[f"{way}.{name}"] = size / timing.seconds
    return found


def _copy(target: Any, source: Any) -> Callable[[], object]:
    return lambda: target.copy_(source, non_blocking=True)


# -- power -----------------------------------------------------------------------------------------------------------


def read_power(device: str) -> Callable[[], float] | None:
    """A function that gives the energy used so far [J] or the power now, or None where neither can be read."""
    if device.startswith("cuda") and shutil.which("nvidia-smi"):
        return _nvidia_power
    counters = sorted(Path("/sys/class/powercap").glob("intel-rapl:*/energy_uj"))
    if device == "cpu" and counters:
        try:
            counters[0].read_text(encoding="ascii")
        except OSError:
            return None
        return lambda: _rapl_power(counters)
    return None


def _nvidia_power() -> float:
    ask = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "-i", "0"]
    out = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10)
    return float(out.stdout.split()[0])


def _rapl_power(counters: list[Path], window: float = 0.2) -> float:
    def joules() -> float:
        return sum(float(c.read_text(encoding="ascii")) for c in counters) * 1e-6

    before, start = joules(), time.perf_counter()
    time.sleep(window)
    return (joules() - before) / (time.perf_counter() - start)


def _power(device: str, torch: Any, left_out: list[str], seconds: float) -> tuple[float, float]:
    """Power at rest and under dense GEMMs [W]."""
    read = read_power(device)
    if read is None:
        left_out.append("power: neither nvidia-smi nor readable RAPL counters")
        return float("nan"), float("nan")
    try:
        idle = statistics.median(read() for _ in range(3))
        return idle, max(_loaded(device, torch, read, seconds))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        left_out.append(f"power: {error}")
        return float("nan"), float("nan")


def _loaded(device: str, torch: Any, read: Callable[[], float], seconds: float) -> Iterator[float]:
    import threading

    stop = threading.Event()
    x = torch.randn(2048, 2048, device=device)

    def work() -> None:
        while not stop.is_set():
            x @ x
            synchronize(device)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            yield read()
    finally:
        stop.set()
        thread.join()

"""``fmsim import``: a measured profile from somebody's timings, and its errors on the points that were not used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from simulator.calibration import aiconfigurator
from simulator.calibration.holdout import (
    by_key,
    enough_points,
    held_out,
    learning_curve,
    leave_one_device_out,
    sample,
    share_lines,
)
from simulator.calibration.holdout_collectives import collective_lines, held_out_collectives
from simulator.calibration.host import HostFigures
from simulator.calibration.nccl_tests import operation_of, read_nccl_tests
from simulator.calibration.profile import Provenance, today, write_accelerator, write_gloo
from simulator.calibration.reference_tables import read_table
from simulator.calibration.torch_setup import DeviceInfo
from simulator.calibration.traces import read_kineto
from simulator.cost.kernel_table import Row
from simulator.errors import ConfigError
from simulator.hardware.types import Accelerator

__all__ = ["import_measurements"]

Table = list[dict[str, Any]]
NOTHING = HostFigures(*(float("nan"),) * 3, {}, float("nan"), float("nan"), ())


def import_measurements(
    source: str,
    paths: Sequence[Path],
    device: str = "",
    engine: str = "",
    base: str = "",
    share: float = 0.1,
    out: Path | None = None,
    name: str = "",
    report: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, all_, what: None,
) -> tuple[list[str], Table]:
    """Notes and a table of errors; with ``out`` a profile is written there.

    Parameters
    ----------
    source
        ``aiconfigurator``, ``tables``, ``nccl-tests`` or ``kineto``.
    paths
        Files, or folders of files; none for aiconfigurator.
    device, engine
        As the source names them; ``all`` reports on every device of aiconfigurator.
    base
        Shipped accelerator with the datasheet; known for aiconfigurator's devices.
    share
        Share of the points that go into the profile.
    report
        Also a learning curve, and the error with nothing but the datasheet.
    progress
        Told (devices done, all devices, the device that is read) where there are several.

    Raises
    ------
    ConfigError
        If something is missing, with its cure.
    """
    if not 0 < share <= 1:
        raise ConfigError("--share must be above 0 and at most 1")
    if source == "nccl-tests":
        return _collectives(_files(paths), out, name, base)
    if source == "aiconfigurator" and device == "all":
        return _every_device(engine, share, report, progress)
    rows, notes = _rows(source, paths, device, engine)
    base = base or (aiconfigurator.ACCELERATORS.get(device, "") if source == "aiconfigurator" else "")
    if not base:
        raise ConfigError("name the shipped accelerator that was measured with --base, e.g. --base a100-sxm-80gb")
    from simulator.cost.resolve import fitted_accelerators
    from simulator.hardware.profiles import load_accelerator

    accelerator = load_accelerator(base)
    groups = by_key(rows)
    table: Table = [h.row() for h in held_out(groups, accelerator, share)] if share < 1 else []
    if report:
        curve = learning_curve(groups, accelerator)
        notes += [
            f"{key}: {'no share of the points gets' if count is None else f'{count} points get'} a median error of 6 %"
            for key, count in enough_points(curve).items()
        ]
        alone = leave_one_device_out(groups, accelerator, fitted_accelerators())
        notes += [
            f"{r['key']}: without any measurement of it, borrowed from relatives: {r['borrowed']:.1%} median error"
            for r in alone
        ]
        table = [*({"share": share, **row} for row in table), *curve]
    if out is not None:
        notes += _write(rows, share, out, name or f"{base}-measured", accelerator, source, device, engine)
    return notes, table


def _rows(source: str, paths: Sequence[Path], device: str, engine: str) -> tuple[list[Row], list[str]]:
    if source == "aiconfigurator":
        if not device:
            raise ConfigError(f"say which --device: {', '.join(aiconfigurator.devices())}, or all")
        return aiconfigurator.read_kernels(device, engine)
    read: Callable[[Path], Sequence[Row]] = read_table if source == "tables" else lambda p: read_kineto(p).gemms
    rows: list[Row] = []
    notes = []
    for path in _files(paths):
        mine = read(path)
        rows += mine
        notes.append(f"{path.name}: {len(mine):,} kernels")
        if source == "kineto":
            seen = read_kineto(path)
            kinds = ", ".join(f"{kind} {s * 1e3:.2f} ms" for kind, s in sorted(seen.seconds.items()))
            notes.append(f"{path.name}: {kinds}; no kernel runs in {seen.host_gap:.0%} of {seen.span * 1e3:.1f} ms")
    if not rows:
        raise ConfigError("the files hold no kernels with their shapes")
    return rows, notes


def _files(paths: Sequence[Path]) -> list[Path]:
    if not paths:
        raise ConfigError("name the files to import")
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ConfigError(f"there is no file '{path}'")
        found += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return found


def _every_device(
    engine: str, share: float, report: bool, progress: Callable[[int, int, str], None]
) -> tuple[list[str], Table]:
    """Held-out and leave-one-device-out errors of every device of the package, and how many borrowed prices hold."""
    from simulator.calibration.coverage import borrowed
    from simulator.cost.resolve import fitted_accelerators
    from simulator.hardware.profiles import load_accelerator

    notes: list[str] = []
    table: Table = []
    curve: Table = []
    collectives: Table = []
    devices = aiconfigurator.devices()
    for number, device in enumerate(devices):
        progress(number, len(devices), device)
        rows, coverage = aiconfigurator.read_kernels(device, engine)
        notes += [f"{device}: {line}" for line in coverage]
        accelerator, groups = load_accelerator(aiconfigurator.ACCELERATORS[device]), by_key(rows)
        alone = {r["key"]: r["borrowed"] for r in leave_one_device_out(groups, accelerator, fitted_accelerators())}
        holds = {one.key: one.inside for one in borrowed(groups, accelerator, fitted_accelerators())}
        mine = [h.row() for h in held_out(groups, accelerator, share)]
        table += [r | {"borrowed": alone.get(r["key"]), "in interval": holds.get(r["key"])} for r in mine]
        collectives += held_out_collectives(aiconfigurator.read_collectives(device), accelerator)
        if report:
            curve += learning_curve(groups, accelerator)
    return [*notes, *share_lines(curve), *collective_lines(collectives)], [*table, *collectives]


def _write(
    rows: Sequence[Row],
    share: float,
    out: Path,
    name: str,
    accelerator: Accelerator,
    source: str,
    device: str,
    engine: str,
) -> list[str]:
    used, _ = sample(rows, share) if share < 1 else (list(rows), [])
    info = DeviceInfo("import", accelerator.name, accelerator.vendor, 0, accelerator.memory_usable, "", "")
    what = " ".join(part for part in (source, device, engine) if part)
    provenance = Provenance("fmsim import", f"{what}, {len(used):,} of {len(rows):,} timings", today())
    fits = write_accelerator(out, name, used, info, provenance, NOTHING, accelerator)
    path = out / "accelerators" / f"{name}.yaml"
    return [f"wrote {path}: {len(used):,} kernels, {len(fits)} curves"]


def _collectives(files: Sequence[Path], out: Path | None, name: str, base: str) -> tuple[list[str], Table]:
    """nccl-tests: one text per operation."""
    notes, table = list[str](), list[dict[str, Any]]()
    curves: dict[str, tuple[tuple[float, float], ...]] = {}
    ranks = 0
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace")
        test = read_nccl_tests(text, operation_of(path.stem) if "_perf" not in text else "")
        curves[test.operation], ranks = test.points, max(ranks, test.ranks)
        notes.append(f"{path.name}: {test.operation} over {test.ranks} ranks, {len(test.points)} sizes")
        table += [{"operation": test.operation, "bytes": size, "us": 1e6 * s} for size, s in test.points]
    if out is not None:
        if not base or ranks < 2:
            raise ConfigError("a profile of collectives needs --base, and texts that list their ranks")
        write_gloo(
            out, name or f"nccl-{base}-own", base, curves, ranks, Provenance("fmsim import", "nccl-tests", today())
        )
        notes.append(f"wrote {out / 'networks' / ((name or f'nccl-{base}-own') + '.yaml')}")
    return notes, table

"""Times of kernels measured on one device: interpolated where they were measured, marked where they were not.

A table corrects the fitted curve of its device. With r the logarithm of measured over fitted time at the measured
points, a kernel of other sizes takes fitted · exp(r̂), r̂ being r kriged over the logarithms of the sizes (exponential
covariance, its length chosen by leaving each point out). So the curve carries the physics between points, the points
carry what the curve does not know, and far from every point the curve with the mean residual remains. Inside the box
of the measured sizes the answer counts as measured; outside it is the curve's, with a wider sigma.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.cost.attention import DECODE_TOKENS
from simulator.cost.experts import is_block
from simulator.cost.sensitivity import Z80
from simulator.workload.ops import OpKind, Work

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["COLUMNS", "Correction", "KernelTable", "Row", "coordinates", "load_rows", "read_rows", "write_rows"]

_NUMBERS = (
    "m",
    "n",
    "k",
    "groups",
    "batch",
    "q_len",
    "kv_len",
    "heads",
    "kv_heads",
    "head_dim",
    "flops",
    "bytes",
    "near",
    "rows",
)
_FLAGS = ("causal", "backward")
COLUMNS = ("kind", "operator", "dtype", *_NUMBERS, *_FLAGS, "seconds", "spread")
"""Columns of a kernel table: the sizes of :class:`~simulator.workload.ops.Work`, then what was measured."""

BEYOND_SIGMA = 0.25
"""Added outside the measured sizes. 34 kinds of kernel on nine devices, measured at their smaller half of FLOPs alone,
need 0 to 0.6 there (median 0.11); 0.25 is enough for three quarters of them: benchmarks/fits/intervals.py beyond."""

LEAST_SIGMA = 0.02
LEAST_NUGGET = 0.02
MARGIN = math.log(1.25)
"""Sizes up to 25 % outside the measured ones count as measured."""

HEAD_WEIGHT = 3.0
"""Distance of head sizes relative to that of other sizes, chosen among six variants on held-out attention kernels of an
H200: that device's held-out attention errors are therefore not clean evidence, those of the others are."""

WIDEST_TILE = 128
"""Sizes that are no multiple of a power of two up to this run other, slower expert kernels: up to five times at 4."""

LENGTHS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Candidate lengths of the covariance, in units of ln(size)."""

MOST_POINTS = 1200
"""Points per key that are kriged together; of more, those with the nearest sizes are."""
NEIGHBOURS = 32
OUTLYING = 4.5
"""Errors of so many medians (three sigmas of normal ones) are outliers."""
FEW = 8
AT_ONCE = 64
"""Places asked for together: their distances to some thousand points stay in the caches."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured kernel: what ran, the median time [s] and its relative spread (half the interquartile range)."""

    work: Work
    seconds: float
    spread: float = 0.0


def coordinates(work: Work) -> tuple[str, tuple[float, ...]]:
    """Key of the kernels that ``work`` may be interpolated among, and the logarithms of its sizes."""
    dtype = work.dtype
    if work.kind is OpKind.GEMM:
        return f"gemm.{dtype}.{_direction(work)}", _logs(work.m, work.n, work.k)
    if work.kind is OpKind.GROUPED_GEMM:
        groups = max(1, work.groups)
        sizes = _logs(work.m / groups, groups, work.n, work.k)
        return f"grouped_gemm.{dtype}.{_direction(work)}", (*sizes, math.log(WIDEST_TILE / _aligned(work.n, work.k)))
    if work.kind is OpKind.ATTENTION:
        # Head sizes choose other kernels; how many query heads share a key head matters little.
        kind, shared = HEAD_WEIGHT * math.log(max(1, work.head_dim)), math.log(work.heads / max(1, work.kv_heads))
        if is_decode(work):
            sizes = _logs(work.batch, work.kv_len, work.kv_heads)
            return f"attention_decode.{dtype}", (*sizes, 0.5 * shared, kind)
        phase = "backward" if work.backward else "forward"
        sizes = _logs(work.batch * work.heads, work.q_len, work.kv_len / max(1, work.q_len))
        return f"attention_prefill.{dtype}.{phase}", (*sizes, 0.3 * shared, kind)
    return f"{work.operator or work.kind}.{dtype}", _logs(work.bytes)


def is_decode(work: Work) -> bool:
    """Whether attention runs few query tokens against a cache."""
    return 0 < work.q_len <= DECODE_TOKENS and work.q_len < work.kv_len and not work.backward


def _aligned(*sizes: int) -> int:
    """The largest power of two up to the widest tile that divides every size."""
    return min(WIDEST_TILE, *(size & -size for size in sizes if size > 0), WIDEST_TILE)


def _direction(work: Work) -> str:
    return "forward" if is_block(work) else work.operator or "forward"


def _logs(*sizes: float) -> tuple[float, ...]:
    return tuple(math.log(max(size, 1e-9)) for size in sizes)


@dataclass(frozen=True, slots=True)
class Correction:
    """Factor on the fitted curve, its relative sigma, whether the sizes were measured, and the key it is from."""

    factor: float
    sigma: float
    inside: bool
    key: str


@dataclass
class _Field:
    """The kriged residual of one key."""

    points: NDArray[np.float64]
    residual: NDArray[np.float64]
    nugget: float
    length: float = 1.0
    sigma: float = LEAST_SIGMA
    mean: float = 0.0
    weights: NDArray[np.float64] | None = None
    doubt: NDArray[np.float64] = field(init=False)
    low: NDArray[np.float64] = field(init=False)
    high: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        import numpy as np

        self.low, self.high = self.points.min(axis=0) - MARGIN, self.points.max(axis=0) + MARGIN
        self.doubt = np.full(len(self.points), self.nugget)
        self._choose()

    def _choose(self) -> None:
        """Length with the least mean error when each point is predicted from the others."""
        import numpy as np

        keep = (
            slice(None)
            if len(self.points) <= MOST_POINTS // 2
            else slice(0, None, 2 * len(self.points) // MOST_POINTS + 1)
        )
        points, residual = self.points[keep], self.residual[keep]
        self.mean = float(np.median(residual))
        if len(points) < 3:
            self.sigma = max(LEAST_SIGMA, self.nugget, float(np.ptp(residual)) / 2)
        else:
            apart = _distances(points, points)
            nugget = np.full(len(points), self.nugget)
            scored = [(*_typical(_left_out(apart, residual - self.mean, length, nugget)), length) for length in LENGTHS]
            _, self.sigma, self.length = min(scored)
            self.sigma = max(LEAST_SIGMA, self.sigma)
        if len(self.points) <= MOST_POINTS:
            apart, centred = _distances(self.points, self.points), self.residual - self.mean
            if len(self.points) >= FEW:
                self._distrust(_left_out(apart, centred, self.length, self.doubt))
            self.weights = _inverse(apart, self.length, self.doubt) @ centred
        else:
            parts = np.array_split(np.arange(len(self.points)), len(self.points) // AT_ONCE + 1)
            found = [self._nearest(self.points[part], own=1) - self.residual[part] for part in parts]
            self._distrust(np.abs(np.concatenate(found)))

    def _distrust(self, errors: NDArray[np.float64]) -> None:
        """Points that their neighbours contradict by far count for little: a timing of a device whose clock dropped
        says nothing of the sizes beside it."""
        import numpy as np

        far = errors > OUTLYING * float(np.median(errors))
        self.doubt = np.where(far, np.maximum(self.doubt, errors), self.doubt)

    def at(self, places: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Residual at each of the ``places`` [place, size], and whether it lies inside the measured sizes."""
        import numpy as np

        inside: NDArray[np.bool_] = np.all((places >= self.low) & (places <= self.high), axis=1)
        if self.weights is not None:
            found = self.mean + np.exp(-_distances(places, self.points) / self.length) @ self.weights
            return found, inside
        parts = [self._nearest(places[i : i + AT_ONCE]) for i in range(0, len(places), AT_ONCE)]
        return np.concatenate(parts), inside

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree(self.points)

    def _nearest(self, places: NDArray[np.float64], own: int = 0) -> NDArray[np.float64]:
        """Kriged from the nearest points alone, each place by a system of its own; without the ``own`` nearest, which
        are the places themselves when a point is asked for."""
        import numpy as np

        near = self._tree.query(places, NEIGHBOURS + own, p=1)[1][:, own:]
        points, residual = self.points[near], self.residual[near]
        among = np.sqrt(((points[:, :, None, :] - points[:, None, :, :]) ** 2).sum(axis=3))
        system = np.exp(-among / self.length) + self.doubt[near][:, :, None] ** 2 * np.eye(NEIGHBOURS)
        local = np.median(residual, axis=1)
        weights = np.linalg.solve(system, (residual - local[:, None])[..., None])[..., 0]
        to = np.sqrt(((places[:, None, :] - points) ** 2).sum(axis=2))
        found: NDArray[np.float64] = local + (np.exp(-to / self.length) * weights).sum(axis=1)
        return found


def _distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    distances: NDArray[np.float64] = np.sqrt(((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2))
    return distances


def _inverse(apart: NDArray[np.float64], length: float, nugget: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of the covariance of points that are so far ``apart``; positive definite, so by Cholesky's factor."""
    import numpy as np
    from scipy.linalg.lapack import dpotrf, dpotri

    factor, _ = dpotrf(np.exp(-apart / length) + np.diag(nugget**2), lower=1)
    upper, _ = dpotri(factor, lower=1)
    low = np.tril(upper)
    found: NDArray[np.float64] = low + np.tril(low, -1).T
    return found


def _left_out(
    apart: NDArray[np.float64], residual: NDArray[np.float64], length: float, nugget: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Absolute errors of predicting every point from the others (closed form)."""
    import numpy as np

    inverse = _inverse(apart, length, nugget)
    errors: NDArray[np.float64] = np.abs((inverse @ residual) / np.diag(inverse))
    return errors


def _typical(errors: NDArray[np.float64]) -> tuple[float, float]:
    """Mean error, and the sigma that 80 % are within: errors have longer tails than a normal distribution's, so a sigma
    from their median would hold 64-86 %."""
    import numpy as np

    return float(errors.mean()), float(np.quantile(errors, 0.8)) / Z80


class KernelTable:
    """Measured kernels of one device.

    Parameters
    ----------
    rows
        What was measured.
    curve
        Seconds of any work by the device's fitted curve alone, with the constants at their values.
    """

    def __init__(self, rows: Iterable[Row], curve: Callable[[Work], float]) -> None:
        self._rows: dict[str, list[Row]] = {}
        for row in rows:
            self._rows.setdefault(coordinates(row.work)[0], []).append(row)
        self._curve = curve
        self._fields: dict[str, _Field] = {}

    @property
    def keys(self) -> Mapping[str, Sequence[Row]]:
        """The measured rows by key."""
        return self._rows

    def base(self, work: Work) -> float:
        """Seconds by the fitted curve at unmoved constants."""
        return self._curve(work)

    def correction(self, work: Work) -> Correction | None:
        """What the measurements say about ``work``; None if no kernel of its kind was measured."""
        return self.corrections((work,))[0]

    def corrections(self, works: Sequence[Work]) -> list[Correction | None]:
        """What the measurements say about each of the ``works``."""
        import numpy as np

        found: list[Correction | None] = [None] * len(works)
        asked: dict[str, list[tuple[int, tuple[float, ...]]]] = {}
        for index, work in enumerate(works):
            key, place = coordinates(work)
            if key in self._rows or (key := _nearest_key(key)) in self._rows:
                asked.setdefault(key, []).append((index, place))
        for key, mine in asked.items():
            known = self._fields.get(key)
            if known is None:
                known = self._fields[key] = self._field(self._rows[key])
            residuals, inside = known.at(np.array([place for _, place in mine]))
            for (index, _), residual, within in zip(mine, residuals, inside, strict=True):
                found[index] = Correction(math.exp(residual), known.sigma, bool(within), key)
        return found

    def _field(self, rows: Sequence[Row]) -> _Field:
        import numpy as np

        points = np.array([coordinates(row.work)[1] for row in rows])
        residual = np.log([row.seconds / self._curve(row.work) for row in rows])
        nugget = max(LEAST_NUGGET, float(np.median([row.spread for row in rows])))
        return _Field(points, residual, nugget)


def _nearest_key(key: str) -> str:
    """A GEMM whose direction was not measured is taken as a forward one."""
    family, _, rest = key.partition(".")
    return f"{family}.{rest.partition('.')[0]}.forward" if family in ("gemm", "grouped_gemm") else key


# -- files ---------------------------------------------------------------------------------------------------------

_read: dict[str, tuple[int, tuple[Row, ...]]] = {}


def load_rows(path: str | Path) -> tuple[Row, ...]:
    """Rows of a table file, kept until it changes on disk."""
    stamp = Path(path).stat().st_mtime_ns
    known = _read.get(str(path))
    if known is None or known[0] != stamp:
        known = _read[str(path)] = (stamp, tuple(read_rows(path)))
    return known[1]


def read_rows(path: str | Path) -> list[Row]:
    """Rows of a CSV file, gzip-compressed if its name ends in ``.gz``; missing columns are 0."""
    raw = Path(path).read_bytes()
    text = (gzip.decompress(raw) if str(path).endswith(".gz") else raw).decode("utf-8")
    rows = []
    for line in csv.DictReader(io.StringIO(text)):
        values: dict[str, Any] = {name: float(line.get(name) or 0) for name in _NUMBERS}
        values |= {
            name: int(value) for name, value in values.items() if name not in ("kv_len", "flops", "bytes", "near")
        }
        values |= {name: line.get(name) == "1" for name in _FLAGS}
        work = Work(OpKind(line["kind"]), line["dtype"], operator=line["operator"], **values)
        rows.append(Row(work, float(line["seconds"]), float(line.get("spread") or 0.0)))
    return rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a table (see :func:`read_rows`); the bytes depend on the rows alone."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        work = row.work
        sizes = [f"{getattr(work, name):.15g}" if getattr(work, name) else "" for name in _NUMBERS]
        flags = ["1" if getattr(work, name) else "" for name in _FLAGS]
        writer.writerow(
            [work.kind.value, work.operator, work.dtype, *sizes, *flags, f"{row.seconds:.5g}", f"{row.spread:.3g}"]
        )
    data = out.getvalue().encode("utf-8")
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)

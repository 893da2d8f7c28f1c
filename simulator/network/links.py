"""Links and vertices of a network in flat arrays, made block by block and named only when asked.

A block is a grid of equal things (all uplinks of all leaves). Its names are one template, so a cluster of
16,384 accelerators holds four arrays and a dozen templates instead of 10⁵ Python objects.
"""

from __future__ import annotations

import fnmatch
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.errors import ConfigError, IssueCollector, unknown_name

__all__ = ["KINDS", "Ids", "Links", "Names", "NetworkBuilder", "class_of"]

Ids = NDArray[np.int64]

KINDS: Final = ("scale_up", "host", "nic", "leaf_spine", "spine_core", "wan", "storage")
"""Classes of links: inside a scale-up domain, accelerator to host, network port, leaf to spine (or between the
routers of a group or torus), spine to core (or between groups), between sites, and into a storage tier."""


def class_of(name: str) -> str:
    """A name without its numbers: ``pod3/spine1`` → ``pod/spine``."""
    return re.sub(r"[0-9]+(\.[0-9]+)*", "", name).replace("@", "")


@dataclass
class Names:
    """Names of consecutive numbers: blocks of a template, a shape and optional labels of the first axis."""

    starts: list[int] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    offsets: list[tuple[int, ...]] = field(default_factory=list)
    size: int = 0

    def add(self, template: str, shape: tuple[int, ...], offset: tuple[int, ...] = ()) -> Ids:
        """Number a grid of things; returns the numbers in the shape of the grid."""
        count = int(np.prod(shape, dtype=np.int64))
        if count:
            self.starts.append(self.size)
            self.templates.append(template)
            self.shapes.append(shape)
            self.offsets.append(offset or (0,) * len(shape))
        ids = np.arange(self.size, self.size + count, dtype=np.int64).reshape(shape)
        self.size += count
        return ids

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < self.size:
            raise IndexError(f"there is no number {number} among {self.size}")
        block = bisect_right(self.starts, number) - 1
        index = np.unravel_index(number - self.starts[block], self.shapes[block])
        return self.templates[block].format(*(int(i) + o for i, o in zip(index, self.offsets[block], strict=True)))

    def __len__(self) -> int:
        return self.size


@dataclass(frozen=True, eq=False)
class Links:
    """All directed links of a network.

    Attributes
    ----------
    capacity, latency
        [links], [B/s] and [s].
    kind
        [links], index into :data:`KINDS`.
    source, target
        [links], vertices.
    bundle
        [links], the first link of the parallel equal links this one belongs to (itself when it is alone): a flow that
        loads all of them alike needs only one of them to be looked at.
    names, vertex_names
        Number → name.
    """

    capacity: NDArray[np.float64]
    latency: NDArray[np.float64]
    kind: NDArray[np.int8]
    source: Ids
    target: Ids
    bundle: Ids
    names: Names
    vertex_names: Names

    def __len__(self) -> int:
        return len(self.capacity)

    def name(self, link: int) -> str:
        """Name of a link, e.g. ``leaf3>spine1``."""
        return self.names[int(link)]

    def kind_of(self, link: int) -> str:
        """Class of a link, one of :data:`KINDS`."""
        return KINDS[int(self.kind[link])]

    def parallel(self, link: int) -> int:
        """Number of links that are bundled with this one, itself included."""
        return int((self.bundle == self.bundle[link]).sum())

    def matching(self, pattern: str) -> Ids:
        """Links whose name fits a pattern (``*``, ``?``, ``[…]``), or that begin or end at a vertex whose name does.

        Raises
        ------
        ConfigError
            If there is none; the message names near ones.
        """
        fits = re.compile(fnmatch.translate(pattern)).match
        names = [self.names[i] for i in range(len(self))]
        vertices = [self.vertex_names[i] for i in range(len(self.vertex_names))]
        hit = np.array([fits(name) is not None for name in names], bool)
        at = np.array([fits(name) is not None for name in vertices], bool)
        found = np.flatnonzero(hit | at[self.source] | at[self.target])
        if not len(found):
            raise ConfigError(unknown_name("link or switch", pattern, [*vertices, *names]))
        return found

    def number(self, name: str) -> int:
        """The link called ``name``.

        Raises
        ------
        ConfigError
            If there is none; the message names near ones.
        """
        every = {self.names[i]: i for i in range(len(self))}
        if name not in every:
            raise ConfigError(unknown_name("link", name, every))
        return every[name]


class NetworkBuilder:
    """Collects vertices and links, then checks them and freezes them into :class:`Links`."""

    def __init__(self) -> None:
        self.issues = IssueCollector()
        self.prefix = ""
        """Put before every name that is made; a template of its own may not stand in it."""
        self._vertices = Names()
        self._names = Names()
        self._bundles: list[Ids] = []
        self._columns: list[tuple[NDArray[np.float64], NDArray[np.float64], int, Ids, Ids]] = []

    def vertices(self, template: str, *shape: int, offset: tuple[int, ...] = ()) -> Ids:
        """A grid of vertices; ``template`` is formatted with the index of each (plus ``offset``)."""
        return self._vertices.add(self.prefix + template, shape, offset)

    def links(
        self,
        template: str,
        kind: str,
        source: ArrayLike,
        target: ArrayLike,
        capacity: ArrayLike,
        latency: ArrayLike = 0.0,
        offset: tuple[int, ...] = (),
    ) -> Ids:
        """A grid of directed links from ``source`` to ``target``, broadcast against each other.

        ``capacity`` [B/s] and ``latency`` [s] broadcast too. Returns the link numbers in the shape of the grid.
        """
        ends = np.broadcast_arrays(np.asarray(source, np.int64), np.asarray(target, np.int64))
        shape = ends[0].shape
        ids = self._names.add(self.prefix + template, shape, offset)
        flat_capacity = np.broadcast_to(np.asarray(capacity, np.float64), shape).ravel()
        flat_latency = np.broadcast_to(np.asarray(latency, np.float64), shape).ravel()
        self._columns.append((flat_capacity, flat_latency, KINDS.index(kind), ends[0].ravel(), ends[1].ravel()))
        if ids.size:
            self._check(ids, flat_capacity, flat_latency)
        return ids

    def bundle(self, rows: Ids) -> None:
        """Declare the links of each row [rows, links] parallel: equal capacity, equal use when traffic is sprayed."""
        if rows.size:
            self._bundles.append(rows.reshape(len(rows), -1))

    def _check(self, ids: Ids, capacity: NDArray[np.float64], latency: NDArray[np.float64]) -> None:
        """One issue per block: a wrong profile makes thousands of links wrong in the same way."""
        for values, wrong, what, cure in (
            (capacity, ~(capacity > 0), "bandwidth", "give it a positive bandwidth or leave the link out"),
            (latency, ~((latency >= 0) & np.isfinite(latency)), "latency", "give a latency of at least 0 s"),
        ):
            if wrong.any():
                first = int(np.flatnonzero(wrong)[0])
                more = f" (and {wrong.sum() - 1} like it)" if wrong.sum() > 1 else ""
                name = self._names[int(ids.ravel()[first])]
                self.issues.add(f"link '{name}'{more} has {what} {values[first]:g}: {cure}", "cluster.fabric")

    def build(self) -> Links:
        """Freeze.

        Raises
        ------
        ConfigError
            With every issue found so far: links without bandwidth, and whatever the topology added.
        """
        self.issues.raise_if_any()

        def joined(column: int, dtype: type) -> NDArray[np.generic]:
            parts: Iterable[NDArray[np.generic]] = [c[column] for c in self._columns]  # type: ignore[misc]
            return np.concatenate([np.asarray(p, dtype) for p in parts]) if self._columns else np.zeros(0, dtype)

        bundle = np.arange(len(self._names), dtype=np.int64)
        for rows in self._bundles:
            bundle[rows] = rows[:, :1]
        kind = [np.full(len(c[0]), c[2], np.int8) for c in self._columns]
        return Links(
            capacity=joined(0, np.float64),  # type: ignore[arg-type]
            latency=joined(1, np.float64),  # type: ignore[arg-type]
            kind=np.concatenate(kind) if kind else np.zeros(0, np.int8),
            source=joined(3, np.int64),  # type: ignore[arg-type]
            target=joined(4, np.int64),  # type: ignore[arg-type]
            bundle=bundle,
            names=self._names,
            vertex_names=self._vertices,
        )

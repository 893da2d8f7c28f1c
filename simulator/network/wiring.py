"""The seam between network ports: a wiring joins them by switches and knows the ways between any two.

One file per wiring in :mod:`simulator.network.topologies`, one class with :func:`register_topology`.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError, unknown_name
from simulator.hardware.types import Fabric
from simulator.network.links import Ids, NetworkBuilder
from simulator.units import UnitError, parse_quantity

__all__ = ["HOP_LATENCY", "Options", "Ports", "Wiring", "register_topology", "topology_class", "topology_names"]

HOP_LATENCY = 0.45e-6
"""[s] added by each cable between switches: half of what crossing leaves adds to a 64 B InfiniBand message,
(3.7 − 2.8) µs / 2 (Zhao et al., arXiv 2505.09343, table of end-to-end latencies). An Ethernet fabric takes
(5.6 − 3.6) µs / 2: set the option ``hop_latency: 1 us``."""

PATH = "cluster.fabric"


@dataclass(frozen=True, eq=False)
class Ports:
    """What a wiring joins: the network ports of nodes first, then those of storage and gateways.

    Attributes
    ----------
    vertex
        [ports], where a port's traffic starts and ends.
    capacity
        [ports], [B/s].
    node, rail
        [ports], node number and place among the ports of the node; −1 for storage and gateways.
    count
        Number of node ports.
    """

    vertex: Ids
    capacity: NDArray[np.float64]
    node: Ids
    rail: Ids
    count: int

    @property
    def per_node(self) -> int:
        """Largest number of ports of one node."""
        return int(self.rail[: self.count].max()) + 1 if self.count else 1


class Options:
    """Reads the options of a fabric; wrong ones become issues, unknown ones too."""

    def __init__(self, values: Mapping[str, object], known: Mapping[str, str], builder: NetworkBuilder) -> None:
        self._values = dict(values)
        self._issues = builder.issues
        for name in values:
            if name not in known:
                builder.issues.add(unknown_name("fabric option", name, known), f"{PATH}.{name}")

    def get(self, name: str, default: Any = None) -> Any:
        """The raw value."""
        return self._values.get(name, default)

    def integer(self, name: str, default: int, least: int = 1) -> int:
        """A whole number of at least ``least``."""
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self._issues.add(f"must be a whole number of at least {least}, not {value!r}", f"{PATH}.{name}")
            return default
        return value

    def quantity(self, name: str, default: float, dimension: str, least: float = 0.0) -> float:
        """A quantity in SI units: text with its unit, or a float that was read before."""
        return self.parse(self._values.get(name, default), name, default, dimension, least)

    def parse(self, value: object, name: str, default: float, dimension: str, least: float = 0.0) -> float:
        """``value`` as a quantity; an issue at ``name`` and ``default`` when it is none."""
        try:
            number = float(value) if isinstance(value, float) else parse_quantity(value, dimension)
        except UnitError as error:
            self._issues.add(str(error), f"{PATH}.{name}")
            return default
        if not number >= least:
            self._issues.add(f"must be at least {least:g}, not {number:g}", f"{PATH}.{name}")
            return default
        return number

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A list of whole numbers such as ``[4, 4, 4]``, or ``None``."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not all(isinstance(n, int) and n >= 1 for n in value) or not value:
            self._issues.add(f"must be a list of whole numbers like [4, 4, 4], not {value!r}", f"{PATH}.{name}")
            return None
        return tuple(value)


class Wiring(ABC):
    """Switches and cables between ports.

    Ports are numbered as in :class:`Ports`. Links of the ports themselves are not part of the wiring: every path
    here begins and ends at the switches the ports are plugged into.

    Attributes
    ----------
    switch
        [ports], the vertex a port is plugged into.
    rail_aligned
        Whether ports of one rail are nearer to each other than to the other ports of their own node.
    joins_domains
        Whether accelerators of different scale-up domains can reach each other through it.
    """

    name: ClassVar[str]
    known_options: ClassVar[Mapping[str, str]] = {}
    rail_aligned: ClassVar[bool] = False
    joins_domains: ClassVar[bool] = True

    def __init__(self, builder: NetworkBuilder, ports: Ports, fabric: Fabric, options: Options) -> None:
        self.ports = ports
        self.hop_latency = options.quantity("hop_latency", HOP_LATENCY, "time")
        self.switch: Ids = np.zeros(len(ports.vertex), np.int64)

    @classmethod
    def never_blocks(cls, fabric: Fabric) -> bool:
        """Whether what passes the ports surely passes the switches too, when it is spread evenly over equal ways."""
        return False

    def width(self, a: int, b: int) -> int:
        """Number of equal-cost ways from port ``a`` to port ``b``."""
        return 1

    def path(self, a: int, b: int, choice: int) -> tuple[int, ...]:
        """Links from the switch of port ``a`` to that of ``b``; ``choice`` in [0, width)."""
        return ()

    def spread(self, a: int, b: int) -> dict[int, float]:
        """Link → share of the traffic from ``a`` to ``b`` when it is spread evenly over all ways."""
        width = self.width(a, b)
        shares: dict[int, float] = {}
        for choice in range(width):
            for link in self.path(a, b, choice):
                shares[link] = shares.get(link, 0.0) + 1.0 / width
        return shares

    def add_loads(self, loads: NDArray[np.float64], a: Ids, b: Ids, volume: NDArray[np.float64]) -> None:
        """Add to ``loads`` [links] the bytes of many messages ``a[i]`` → ``b[i]``, each spread evenly."""
        pairs, which = np.unique(np.stack([a, b]), axis=1, return_inverse=True)
        totals = np.bincount(which.ravel(), volume, minlength=pairs.shape[1])
        for source, target, total in zip(*pairs.tolist(), totals.tolist(), strict=True):
            for link, share in self.spread(source, target).items():
                loads[link] += share * total

    def add_hashed(
        self, loads: NDArray[np.float64], a: Ids, b: Ids, volume: NDArray[np.float64], number: NDArray[np.uint64]
    ) -> None:
        """As :meth:`add_loads`, but each message takes the one way that its hash ``number`` picks."""
        for source, target, size, picked in zip(a.tolist(), b.tolist(), volume.tolist(), number.tolist(), strict=True):
            for link in self.path(source, target, picked % self.width(source, target)):
                loads[link] += size


W = TypeVar("W", bound=type[Wiring])
_TOPOLOGIES: dict[str, type[Wiring]] = {}


def register_topology(name: str, options: Mapping[str, str] | None = None) -> Callable[[W], W]:
    """Class decorator: enter a wiring under ``name`` with its options (name → what it means)."""

    def enter(cls: W) -> W:
        if name in _TOPOLOGIES:
            raise ValueError(f"topology '{name}' is registered twice")
        cls.name = name
        common = {
            "hop_latency": "latency that each cable between switches adds [s]",
            "scale_up_shape": "shape of a scale-up torus, e.g. [4, 4, 4]",
        }
        cls.known_options = {**common, **(options or {})}
        _TOPOLOGIES[name] = cls
        return cls

    return enter


@cache
def _load_all() -> None:
    package = importlib.import_module("simulator.network.topologies")
    for module in pkgutil.iter_modules(package.__path__, "simulator.network.topologies."):
        importlib.import_module(module.name)


def topology_names() -> list[str]:
    """Names of all topologies."""
    _load_all()
    return sorted(_TOPOLOGIES)


def topology_class(name: str) -> type[Wiring]:
    """The wiring registered as ``name``.

    Raises
    ------
    ConfigError
        If there is none; the message names the near ones.
    """
    _load_all()
    if name not in _TOPOLOGIES:
        raise ConfigError(unknown_name("topology", name, _TOPOLOGIES))
    return _TOPOLOGIES[name]

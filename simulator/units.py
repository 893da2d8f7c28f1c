"""Physical quantities: text with a unit in, SI base floats out, and back.

Inside the simulator every number is a float in s, B, FLOP, W, J or USD; bandwidths are per direction.
YAML carries the unit, so that a reader never has to guess. A bare number where a unit is needed, or a
unit of the wrong dimension, is an error that shows the right spelling.

A parser of our own because general unit libraries read ``Gb`` as gilbert and do not know ``FLOP`` or
``USD``; the grammar needed here is ``NUMBER [PREFIX]UNIT[/UNIT[-UNIT]]``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

__all__ = ["DIMENSIONS", "Dimension", "UnitError", "format_quantity", "parse_quantity"]


class UnitError(ValueError):
    """A text that is not a quantity of the wanted dimension; the message says how to write one."""


@dataclass(frozen=True)
class Dimension:
    """A kind of quantity: its SI unit, the spellings it accepts, and an example for error messages."""

    name: str
    base: str
    units: dict[str, float]
    example: str


_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Z": 1e21}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}

_TIME = {
    "s": 1.0,
    "sec": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "week": 604800.0,
    "month": 2629800.0,
    "year": 31557600.0,
}
_DATA = {f"{p}B": f for p, f in {**_DECIMAL, **_BINARY}.items()} | {
    f"{p}{b}": f / 8 for p, f in {**_DECIMAL, **_BINARY}.items() for b in ("b", "bit")
}
_FLOP = {f"{p}FLOP": f for p, f in _DECIMAL.items()}
_WATT = {f"{p}W": f for p, f in _DECIMAL.items()} | {"mW": 1e-3}
_JOULE = {f"{p}J": f for p, f in _DECIMAL.items()} | {f"{p}Wh": f * 3600 for p, f in _DECIMAL.items()}
_MONEY = {f"{p}USD": f for p, f in _DECIMAL.items()}
_GRAM = {"mg": 1e-3, "g": 1.0, "kg": 1e3, "t": 1e6}
_TOKENS = {"token": 1.0, "tokens": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_PER_TIME = {unit: factor for unit, factor in _TIME.items() if unit != "sec"}


def _over(numerator: dict[str, float], denominator: dict[str, float]) -> dict[str, float]:
    return {f"{n}/{d}": fn / fd for n, fn in numerator.items() for d, fd in denominator.items()}


_BANDWIDTH = _over(_DATA, {"s": 1.0}) | {f"{p}{b}ps": f / 8 for p, f in _DECIMAL.items() for b in ("b", "bit")}
_HOSTING = {
    f"{money}/{watt}/{time}": amount / power / seconds
    for money, amount in _MONEY.items()
    for watt, power in _WATT.items()
    for time, seconds in _PER_TIME.items()
}
_FLOPS = _over(_FLOP, {"s": 1.0}) | {f"{p}FLOPS": f for p, f in _DECIMAL.items()}

DIMENSIONS: dict[str, Dimension] = {
    d.name: d
    for d in (
        Dimension("time", "s", _TIME, "300 ms"),
        Dimension("data", "B", _DATA, "80 GiB"),
        Dimension("bandwidth", "B/s", _BANDWIDTH, "400 Gb/s"),
        Dimension("compute", "FLOP", _FLOP, "1e24 FLOP"),
        Dimension("compute_rate", "FLOP/s", _FLOPS, "989 TFLOP/s"),
        Dimension("power", "W", _WATT, "700 W"),
        Dimension("energy", "J", _JOULE, "10 kWh"),
        Dimension("money", "USD", _MONEY, "30 kUSD"),
        Dimension("money_rate", "USD/s", _over(_MONEY, _PER_TIME), "2.5 USD/h"),
        Dimension("hosting_price", "USD/(W·s)", _HOSTING, "150 USD/kW/month"),
        Dimension("energy_price", "USD/J", _over(_MONEY, _JOULE), "0.08 USD/kWh"),
        Dimension("carbon_intensity", "g/J", _over(_GRAM, _JOULE), "300 g/kWh"),
        Dimension("data_price", "USD/B", _over(_MONEY, _DATA), "0.02 USD/GB"),
        Dimension("rate", "1/s", {f"/{t}": 1 / f for t, f in _PER_TIME.items()}, "20 /s"),
        Dimension("frequency", "Hz", {f"{p}Hz": f for p, f in _DECIMAL.items()}, "1830 MHz"),
        Dimension("length", "m", {"mm": 1e-3, "cm": 1e-2, "m": 1.0, "km": 1e3}, "30 m"),
        Dimension("ratio", "", {"": 1.0, "%": 0.01}, "90 %"),
        Dimension("tokens", "token", _TOKENS, "300 B (billion) or 15 T"),
    )
}

_QUANTITY = re.compile(r"^\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*$")


def parse_quantity(text: object, dimension: str) -> float:
    """Read ``text`` as a quantity of ``dimension`` and return it in SI base units.

    Parameters
    ----------
    text
        ``"400 Gb/s"``, ``"80 GiB"``, ``"5 us"``. A bare number is accepted for ``ratio`` only, and ``0``
        for every dimension.
    dimension
        A key of :data:`DIMENSIONS`.

    Raises
    ------
    UnitError
        If the unit is missing, unknown or of another dimension, or the number is not finite.
    """
    dim = DIMENSIONS[dimension]
    kind = dim.name.replace("_", " ")
    want = f"write {'an' if kind[0] in 'aeiou' else 'a'} {kind} like '{dim.example}'"
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise UnitError(f"{text!r} is not a quantity: {want}")
    if isinstance(text, int | float):
        if not math.isfinite(text):
            raise UnitError(f"{text!r} is not finite: {want}")
        if dimension == "ratio" or text == 0:
            return float(text)
        raise UnitError(f"{text!r} has no unit: {want}")
    match = _QUANTITY.match(text)
    if match is None:
        raise UnitError(f"'{text}' is not a quantity: {want}")
    number, unit = float(match[1].replace("_", "")), match[2].replace(" ", "")
    if unit in dim.units:
        return number * dim.units[unit]
    if not unit:
        if number == 0:
            return 0.0
        raise UnitError(f"'{text}' has no unit: {want}")
    other = next((d for d in DIMENSIONS.values() if unit in d.units), None)
    if other is not None:
        raise UnitError(f"'{text}' is of kind {other.name.replace('_', ' ')}, not {kind}: {want}")
    lowered = {u.lower(): u for u in reversed(dim.units)}
    if (near := lowered.get(unit.lower())) is not None:
        raise UnitError(f"'{unit}' is not a unit, did you mean '{near}'? {want}")
    raise UnitError(f"'{unit}' is not a unit of {kind}: {want}")


_STEPS: dict[str, list[tuple[float, str]]] = {
    "time": [(86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")],
    "data": [(2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")],
    "energy": [(3.6e9, "MWh"), (3.6e6, "kWh"), (3.6e3, "Wh"), (1.0, "J"), (1e-3, "mJ")],
    "energy_price": [(1 / 3.6e6, "USD/kWh")],
    "carbon_intensity": [(1 / 3.6e6, "g/kWh")],
    "money_rate": [(1 / 3600, "USD/h")],
    "rate": [(1.0, "/s")],
    "ratio": [(0.01, "%")],
    "money": [(1e9, "GUSD"), (1e6, "MUSD"), (1.0, "USD")],
    "tokens": [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, "token")],
}


def format_quantity(value: float | None, dimension: str, digits: int = 3) -> str:
    """Write an SI value with the prefix people expect; ``None`` and NaN become ``-``.

    The text reads back through :func:`parse_quantity` to the same value within the printed digits.
    """
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    dim = DIMENSIONS[dimension]
    steps = _STEPS.get(dimension) or [
        (f, f"{p}{dim.base}") for p, f in reversed(_DECIMAL.items()) if f"{p}{dim.base}" in dim.units
    ]
    size = abs(value)
    factor, unit = next(((f, u) for f, u in steps if size >= f * (1 - 1e-12)), steps[-1])
    number = value / factor
    text = f"{number:.{digits}g}"
    if "e" in text:
        text = f"{number:.0f}" if abs(number) >= 1 else f"{number:.{digits}g}"
    return f"{text} {unit}".strip()

"""Cells of records as files have them, and what is said of a record that cannot be read.

One record must not stop the others: whatever is wrong with it is listed with the reason, in the words of the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from simulator.errors import ConfigError
from simulator.validation.cases import Case, Reading, Skipped
from simulator.validation.hardware import UnknownHardwareError

__all__ = ["IncompleteError", "amount", "read_each", "sections", "stated", "tidy", "whole"]

Record = TypeVar("Record")


class IncompleteError(ValueError):
    """A record does not say enough to be simulated; the message says what is missing."""


EMPTY = frozenset({"", "nan", "none", "null", "n/a", "na", "-", "--", "?", "unknown"})
"""What a cell holds where there is nothing, in small letters."""


def stated(value: object) -> bool:
    """Whether a cell or a key holds something."""
    if isinstance(value, float):
        return not math.isnan(value)
    return value is not None and str(value).strip().lower() not in EMPTY


def tidy(row: Mapping[Any, Any]) -> dict[str, str]:
    """Cells of a table without blanks around them; empty where they hold nothing. Cells beyond the header are left."""
    return {
        str(name).strip(): str(value).strip() if stated(value) else ""
        for name, value in row.items()
        if name is not None and not isinstance(value, list)
    }


def whole(record: Mapping[str, Any], *names: str, least: int = 1, default: int | None = None) -> tuple[int, ...]:
    """Cells as whole numbers.

    Raises
    ------
    IncompleteError
        With everything that is missing (where there is no default), no whole number or too small.
    """
    missing = [n for n in names if not stated(record.get(n))]
    wrong = [f"{', '.join(missing)} not stated"] * bool(missing and default is None)
    found = []
    for name in names:
        if name in missing:
            found.append(default or 0)
            continue
        value = _number(record[name])
        if value is None or not value.is_integer():
            wrong.append(f"{name} is '{record[name]}', not a whole number")
        elif value < least:
            wrong.append(f"{name} is {value:g}, less than {least}")
        else:
            found.append(int(value))
    if wrong:
        raise IncompleteError("; ".join(wrong))
    return tuple(found)


def amount(record: Mapping[str, Any], name: str) -> float:
    """A cell as a positive number.

    Raises
    ------
    IncompleteError
        If it is missing, no number, not finite or not positive.
    """
    if not stated(record.get(name)):
        raise IncompleteError(f"{name} not stated")
    value = _number(record[name])
    if value is None:
        raise IncompleteError(f"{name} is '{record[name]}', not a number")
    if value <= 0.0:
        raise IncompleteError(f"{name} is {value:g}, not positive")
    return value


def _number(value: object) -> float | None:
    """A finite number, ``None`` where it is none; ``true`` and ``false`` are none."""
    try:
        found = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def sections(record: object, needed: Iterable[str], others: Iterable[str] = ()) -> None:
    """Checks that a record is a mapping of keys to values, and so are its sections.

    Raises
    ------
    IncompleteError
        With those that are missing or something else.
    """
    if not isinstance(record, Mapping):
        raise IncompleteError("no mapping of keys to values")
    wrong = [f"{name} not stated" for name in needed if record.get(name) is None]
    wrong += [
        f"{name} is '{record[name]}', not a mapping of keys to values"
        for name in (*needed, *others)
        if record.get(name) is not None and not isinstance(record[name], Mapping)
    ]
    if wrong:
        raise IncompleteError("; ".join(wrong))


def read_each(
    reading: Reading,
    records: Iterable[Record],
    make: Callable[[Record], Case],
    skipped: Callable[[Record, str], Skipped],
) -> None:
    """Every record into a case, or into the list of those that cannot be simulated."""
    for record in records:
        try:
            reading.cases.append(make(record))
            continue
        except (IncompleteError, UnknownHardwareError) as error:
            reason = str(error)
        except KeyError as error:
            reason = f"{error.args[0] if error.args else error} not stated"
        except (ConfigError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
            reason = f"cannot be read: {error}"
        reading.skipped.append(skipped(record, reason))

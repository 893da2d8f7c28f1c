"""Append-only tables in flat typed arrays: eight bytes a number, no objects, no frame until one is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

from simulator.errors import did_you_mean

__all__ = ["Recorder"]

_TYPECODES = {"f8": "d", "i8": "q", "str": "l"}


class Recorder:
    """A table that grows by rows.

    Parameters
    ----------
    columns
        Name → type: ``f8`` (float), ``i8`` (integer) or ``str`` (stored once, rows hold its number).

    Raises
    ------
    ValueError
        If a type is unknown or there is no column.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        bad = {name: kind for name, kind in columns.items() if kind not in _TYPECODES}
        if bad or not columns:
            raise ValueError(f"a recorder needs columns of type {', '.join(_TYPECODES)}, not {bad or 'none'}")
        self.schema = dict(columns)
        self._arrays: tuple[array[Any], ...] = tuple(array(_TYPECODES[kind]) for kind in columns.values())
        self._texts: dict[str, dict[str, int]] = {name: {} for name, kind in columns.items() if kind == "str"}
        self._coders = tuple(self._texts.get(name) for name in columns)

    def __len__(self) -> int:
        return len(self._arrays[0])

    def row(self, values: Sequence[Any]) -> None:
        """Append one row, values in the order of the columns.

        Raises
        ------
        ValueError, TypeError
            If the number or a type of the values is wrong; the table is then unchanged.
        """
        length = len(self._arrays[0])
        try:
            for column, codes, value in zip(self._arrays, self._coders, values, strict=True):
                column.append(value if codes is None else _code(codes, value))
        except (TypeError, ValueError, OverflowError):
            for column in self._arrays:
                del column[length:]
            raise

    def append(self, **values: Any) -> None:
        """Append one row by column name.

        Raises
        ------
        KeyError
            If a column is missing or unknown.
        """
        if values.keys() != self.schema.keys():
            missing = [name for name in self.schema if name not in values]
            unknown = [
                f"{name} {did_you_mean(name, self.schema)}".strip() for name in values if name not in self.schema
            ]
            raise KeyError(f"row does not fit the table: missing {missing}, unknown {unknown}")
        self.row([values[name] for name in self.schema])

    def columns(self) -> dict[str, NDArray[Any]]:
        """Column name → array [rows] (float64, int64 or object); copies, safe to keep while recording goes on."""
        import numpy as np

        found: dict[str, NDArray[Any]] = {}
        for name, column in zip(self.schema, self._arrays, strict=True):
            numbers: NDArray[Any] = np.array(column)
            found[name] = numbers if name not in self._texts else self._labels(name)[numbers]
        return found

    def to_frame(self) -> pd.DataFrame:
        """The table as a frame; ``str`` columns become categories."""
        import numpy as np
        import pandas as pd

        data: dict[str, Any] = {}
        for name, column in zip(self.schema, self._arrays, strict=True):
            numbers = np.array(column)
            if name in self._texts:
                data[name] = pd.Categorical.from_codes(
                    numbers.astype(np.int32), categories=pd.Index(list(self._texts[name]))
                )
            else:
                data[name] = numbers
        return pd.DataFrame(data)

    def _labels(self, name: str) -> NDArray[np.object_]:
        import numpy as np

        return np.array(list(self._texts[name]), dtype=object)


def _code(codes: dict[str, int], value: Any) -> int:
    if not isinstance(value, str):
        raise TypeError(f"a str column takes text, not {value!r}")
    return codes.setdefault(value, len(codes))

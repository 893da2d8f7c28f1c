"""The arrays of a state as a kernel sees them: one address, behind which lie theirs.

Arrays that Python hands over are counted whenever they are looked at, and thirty of them are two hundred numbers in
every call between kernels. Built from an address when it is asked for, an attribute costs a load or two; calling a
kernel costs a microsecond instead of fifty, its work a thirtieth, and compiling it a third.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import intrinsic, make_attribute_wrapper, models, overload_attribute, register_model

from simulator.serving.compiled.layout import DTYPES, Ints, State

__all__ = ["addresses", "view"]


def addresses(s: State) -> Ints:
    """Address and sizes of every array, [arrays, 4]; good while ``s`` lives."""
    table = np.ones((len(s), 4), dtype=np.int64)
    arrays: tuple[np.ndarray[Any, Any], ...] = s
    for row, values in zip(table, arrays, strict=True):
        row[0] = values.ctypes.data
        row[1 : 1 + values.ndim] = values.shape
    return table


class StateType(types.Type):
    """What :class:`~simulator.serving.compiled.layout.State` is to numba."""

    def __init__(self) -> None:
        super().__init__(name="fmsim.State")


@register_model(StateType)
class StateModel(models.StructModel):
    """The address of the table of :func:`addresses`."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, [("table", types.intp)])


make_attribute_wrapper(StateType, "table", "table")


@intrinsic
def view(context: Any, address: Any) -> Any:
    """The state whose table lies at an address."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from numba.core import cgutils

        made = cgutils.create_struct_proxy(StateType())(context, builder)
        made.table = arguments[0]
        return made._getvalue()

    return StateType()(types.intp), code


@intrinsic
def pointer(context: Any, address: Any) -> Any:
    """An address as a pointer."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.intp), code


def _attribute(place: int, name: str, dimensions: int, kind: Any) -> None:
    """Let kernels read array ``place`` of the state as ``s.name``."""
    size = (len(State._fields), 4)

    def one(s: Any) -> Any:
        table = carray(pointer(s.table), size, np.int64)
        return carray(pointer(table[place, 0]), (table[place, 1],), kind)

    def two(s: Any) -> Any:
        table = carray(pointer(s.table), size, np.int64)
        return carray(pointer(table[place, 0]), (table[place, 1], table[place, 2]), kind)

    def three(s: Any) -> Any:
        table = carray(pointer(s.table), size, np.int64)
        return carray(pointer(table[place, 0]), (table[place, 1], table[place, 2], table[place, 3]), kind)

    chosen: Callable[[Any], Any] = (one, two, three)[dimensions - 1]

    @overload_attribute(StateType, name)
    def attribute(s: Any) -> Any:
        return chosen


for _place, (_name, (_dimensions, _kind)) in enumerate(zip(State._fields, DTYPES, strict=True)):
    _attribute(_place, _name, _dimensions, _kind)

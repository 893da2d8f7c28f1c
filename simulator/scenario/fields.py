"""Types of the scenario's fields: quantities with a unit, names of strategies, names of shipped data."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from simulator import data, registry
from simulator.errors import ConfigError, unknown_name
from simulator.units import DIMENSIONS, parse_quantity

__all__ = [
    "Bandwidth", "Count", "Data", "DataPrice", "Duration", "HostingRange", "HourlyCarbon", "HourlyPrice", "Interval",
    "Money", "MoneyRange", "Named", "OneOrMany", "Power", "Rate", "Ratio", "RatioRange", "RentRange", "StrategyName",
    "TextOrMapping", "TokenLaw", "TopologyName", "is_path",
]  # fmt: skip


def _schema_of(dimension: str) -> dict[str, Any]:
    """JSON Schema of a quantity: a pattern of its units and an example, so that an editor can help."""
    dim = DIMENSIONS[dimension]
    # The pattern is loose on purpose (any prefix), the exact list would be hundreds of spellings.
    text = {
        "type": "string",
        "pattern": r"^\s*[+-]?[0-9._]+([eE][+-]?[0-9]+)?\s*\S*"
        if dimension == "ratio"
        else r"^\s*[+-]?[0-9._]+([eE][+-]?[0-9]+)?\s*\S.*$",
        "examples": [dim.example],
    }
    number: dict[str, Any] = {"type": "number"} if dimension == "ratio" else {"const": 0}
    what = f"{dim.name.replace('_', ' ')} with its unit, e.g. {dim.example}" + (f" [{dim.base}]" if dim.base else "")
    return {"anyOf": [text, number], "description": what}


@dataclass(frozen=True)
class Quantity:
    """Marks a float as a quantity: read from a text with a unit of ``dimension``, held in SI."""

    dimension: str

    def read(self, value: object) -> float:
        """The value in SI; a :class:`~simulator.units.UnitError` says how to write it."""
        return parse_quantity(value, self.dimension)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A float that is parsed first."""
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A text with a unit."""
        return _schema_of(self.dimension)


Duration: TypeAlias = Annotated[float, Quantity("time")]
Data: TypeAlias = Annotated[float, Quantity("data")]
Bandwidth: TypeAlias = Annotated[float, Quantity("bandwidth")]
Rate: TypeAlias = Annotated[float, Quantity("rate")]
Ratio: TypeAlias = Annotated[float, Quantity("ratio")]
Power: TypeAlias = Annotated[float, Quantity("power")]
DataPrice: TypeAlias = Annotated[float, Quantity("data_price")]
Money: TypeAlias = Annotated[float, Quantity("money")]


@dataclass(frozen=True)
class IntervalOrOptimal(Quantity):
    """Marks a time between two events: above 0, or ``optimal`` (held as ``None``)."""

    dimension: str = "time"

    def read_or_none(self, value: object) -> float | None:
        """Seconds, or ``None`` for ``optimal``."""
        if value is None or value == "optimal":
            return None
        seconds = self.read(value)
        if seconds <= 0:
            raise ValueError(f"needs a time above 0 s or 'optimal', have {value!r}")
        return seconds

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Seconds or ``None``."""
        return core_schema.no_info_plain_validator_function(self.read_or_none)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A time with its unit, or the word."""
        quantity = _schema_of(self.dimension)
        return {**quantity, "anyOf": [{"const": "optimal"}, *quantity["anyOf"]]}


Interval: TypeAlias = Annotated[Any, IntervalOrOptimal()]


@dataclass(frozen=True)
class QuantityRange(Quantity):
    """Marks a range ``[low, high]`` of quantities, or one figure for both ends; ``None`` when left out."""

    def read_range(self, value: object) -> tuple[float, float] | None:
        """Both ends in SI."""
        if value is None:
            return None
        ends = [self.read(v) for v in (value if isinstance(value, list | tuple) else [value, value])]
        if len(ends) != 2 or not 0 <= ends[0] <= ends[1]:
            raise ValueError(f"needs a range [low, high] or one figure, from 0 on, have {value!r}")
        return ends[0], ends[1]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Two floats or ``None``."""
        return core_schema.no_info_plain_validator_function(self.read_range)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A quantity, or a list of two."""
        one = _schema_of(self.dimension)
        return {**one, "anyOf": [*one["anyOf"], {"type": "array", "items": one, "minItems": 2, "maxItems": 2}]}


MoneyRange: TypeAlias = Annotated[Any, QuantityRange("money")]
RentRange: TypeAlias = Annotated[Any, QuantityRange("money_rate")]
RatioRange: TypeAlias = Annotated[Any, QuantityRange("ratio")]
HostingRange: TypeAlias = Annotated[Any, QuantityRange("hosting_price")]


@dataclass(frozen=True)
class Hourly(Quantity):
    """Marks a quantity that may be a list: one value per hour, repeated after the last."""

    def read_hours(self, value: object) -> tuple[float, ...]:
        """The values in SI; one for a quantity that stays the same."""
        hours = tuple(self.read(v) for v in value) if isinstance(value, list | tuple) else (self.read(value),)
        if not hours or min(hours) < 0:
            raise ValueError(f"needs figures from 0 on, one or one per hour, have {value!r}")
        return hours

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A tuple of floats."""
        return core_schema.no_info_plain_validator_function(self.read_hours)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A quantity, or a list of them."""
        one = _schema_of(self.dimension)
        return {**one, "anyOf": [*one["anyOf"], {"type": "array", "items": one, "minItems": 1}]}


HourlyPrice: TypeAlias = Annotated[Any, Hourly("energy_price")]
HourlyCarbon: TypeAlias = Annotated[Any, Hourly("carbon_intensity")]


@dataclass(frozen=True)
class TokenQuantity(Quantity):
    """Marks a number of tokens: a whole number as it is, or a text such as ``15 T``; ``words`` are kept as they are."""

    dimension: str = "tokens"
    words: tuple[str, ...] = ()

    def read_or_word(self, value: object) -> float | str:
        """Tokens, or one of the words."""
        if isinstance(value, str) and value in self.words:
            return value
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        tokens = float(value) if plain else self.read(value)  # type: ignore[arg-type]
        if not 0 < tokens < float("inf"):
            raise ValueError(f"needs a number of tokens above 0, have {value!r}")
        return tokens

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Tokens or a word."""
        return core_schema.no_info_plain_validator_function(self.read_or_word)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A number, a text with a unit, or a word."""
        quantity = _schema_of(self.dimension)
        return {**quantity, "anyOf": [{"const": w} for w in self.words] + quantity["anyOf"] + [{"type": "number"}]}


def _whole(value: object) -> object:
    """Whole numbers only: YAML's ``true`` and ``8.0`` are not counts."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f"{value!r} is not a whole number")
    return int(value) if isinstance(value, float) else value


Count: TypeAlias = Annotated[int, BeforeValidator(_whole)]


@dataclass(frozen=True)
class Shapes:
    """Marks a value of one of a few shapes; a plain union would report one error per shape."""

    accept: tuple[type, ...]
    words: str

    def read(self, value: object) -> object:
        """The value as it is, if its shape is accepted."""
        if isinstance(value, bool) or not isinstance(value, self.accept):
            raise ValueError(f"needs {self.words}, have {value!r}")
        if isinstance(value, int) and value < 1:
            raise ValueError(f"needs at least 1, have {value}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Anything that :meth:`read` accepts."""
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The shapes."""
        names: dict[type, dict[str, Any]] = {
            int: {"type": "integer", "minimum": 1}, str: {"type": "string"}, dict: {"type": "object"}
        }  # fmt: skip
        return {"anyOf": [names[kind] for kind in self.accept], "description": self.words}


class OneOrMany:
    """Marks a list that may be written as its single item."""

    def read(self, value: object) -> object:
        """A list, also of one."""
        return [value] if isinstance(value, dict | str) else value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A list that a mapping is wrapped into first."""
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The item, or a list of items."""
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


TextOrMapping: TypeAlias = Annotated[Any, Shapes((str, dict), "a name or a mapping")]
TokenLaw: TypeAlias = Annotated[
    Any, Shapes((int, dict), "a number of tokens or a law of length: {law: lognormal, median: 800, sigma: 1}")
]


_KINDS = {
    "pipeline": "pipeline schedule", "recompute": "recomputation", "offload": "offload strategy",
    "batching": "batching policy",
}  # fmt: skip
"""How messages call a member of a family, where the family's name does not say it."""


@dataclass(frozen=True)
class StrategyName:
    """Marks a text as the name of a registered strategy; completion lists those of the families (of one ``kind``)."""

    families: tuple[str, ...]
    extra: tuple[str, ...] = ()
    kind: str = ""

    def known(self) -> list[str]:
        """Names that may be written."""
        found = (r for family in self.families for r in registry.strategies(family=family))
        return sorted({r.name for r in found if self.kind in ("", r.kind)} | set(self.extra))

    def check(self, value: str) -> str:
        """The name as it is, if it is registered."""
        if value not in self.extra and not self.has(value):
            raise ValueError(unknown_name(_KINDS.get(self.families[0], self.families[0]), value, self.known()))
        return value

    def has(self, value: str) -> bool:
        """Whether it is one of the registered names, without a look at all others."""
        found = (registry.registered(family, value) for family in self.families)
        return any(r is not None and self.kind in ("", r.kind) for r in found)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A text that is checked against the register."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The enumeration of the registered names."""
        return _with_names(handler(schema), self.known(), closed=True)


@dataclass(frozen=True)
class TopologyName(StrategyName):
    """Marks a text as the name of a registered network topology."""

    families: tuple[str, ...] = ("topology",)

    def known(self) -> list[str]:
        """Names that may be written."""
        from simulator.network.wiring import topology_names

        return topology_names()

    def has(self, value: str) -> bool:
        """Whether it is one of them."""
        return value in self.known()


@dataclass(frozen=True)
class Named:
    """Marks a text as the name of a shipped YAML file of ``folder``, or a path to one of the user's own.

    The file is loaded when the key is checked (``loader`` is ``module:function``, and loaders remember what they
    loaded), so that errors inside it are reported together with those of the scenario.
    """

    folder: str
    kind: str
    loader: str

    def known(self) -> list[str]:
        """Shipped names."""
        return data.names(self.folder)

    def check(self, value: str, info: ValidationInfo) -> str:
        """The shipped name, or the path of the user's file: relative to the scenario, else to where we are."""
        base: Path | None = (info.context or {}).get("base")
        if base is not None and is_path(value) and (base / value).exists():
            value = str(base / value)
        module, _, function = self.loader.partition(":")
        try:
            getattr(importlib.import_module(module), function)(value)
        except ConfigError as error:
            raise PydanticCustomError("config_error", "", {"issues": error.issues}) from None
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A text that names a file that exists."""
        return core_schema.with_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The shipped names offered for completion; any path is allowed as well."""
        return _with_names(handler(schema), self.known(), closed=False)


def is_path(value: str) -> bool:
    """Whether a name is meant as a path: it has a folder or the ending of a file."""
    path = Path(value)
    return path.parent != Path() or path.suffix in {".yaml", ".yml", ".json", ".csv", ".jsonl", ".gz"}


def _with_names(schema: JsonSchemaValue, names: list[str], closed: bool) -> JsonSchemaValue:
    if not names:
        return schema
    kept = {k: v for k, v in schema.items() if k in {"title", "description", "default"}}
    if closed:
        return {**kept, "type": "string", "enum": names}
    return {**kept, "anyOf": [{"enum": names}, {"type": "string"}]}

"""Options of a strategy as written in a scenario: a name, or a mapping with ``method`` and further keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from simulator.errors import ConfigError, did_you_mean

__all__ = ["Settings", "settings_of"]


class Settings:
    """Keys and values of one strategy; every accessor checks what it reads.

    Parameters
    ----------
    where
        Key of the scenario, for messages.
    values
        What was written.
    """

    def __init__(self, where: str, values: Mapping[str, object]) -> None:
        self.where, self.values = where, dict(values)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    @property
    def method(self) -> str:
        """The strategy's name."""
        method = self.values.get("method")
        if not isinstance(method, str):
            raise ConfigError(f"{self.where}: needs 'method: NAME'")
        return method

    def only(self, known: Collection[str]) -> None:
        """Refuse keys that the strategy does not know."""
        for key in self.values:
            if key != "method" and key not in known:
                hint = did_you_mean(key, known) or f"known: {', '.join(sorted(known)) or 'none'}"
                raise ConfigError(f"{self.where}: unknown key '{key}', {hint}")

    def number(self, key: str, default: float | None = None, *, low: float = 0.0, high: float = float("inf")) -> float:
        """A number within limits; without ``default`` it has to be there."""
        value = self.values.get(key, default)
        if value is None:
            raise ConfigError(f"{self.where}: needs '{key}'")
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            limit = f"from {low:g} to {high:g}" if high < float("inf") else f"of at least {low:g}"
            raise ConfigError(f"{self.where}.{key}: {value!r} is not a number {limit}")
        return float(value)

    def count(self, key: str, default: int | None = None, *, low: int = 0) -> int:
        """A whole number of at least ``low``."""
        value = self.number(key, default, low=low)
        if value != int(value):
            raise ConfigError(f"{self.where}.{key}: {value!r} is not a whole number")
        return int(value)

    def counts(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A list of whole numbers of at least one."""
        value = self.values.get(key, default)
        if not isinstance(value, list | tuple) or not value or any(not isinstance(v, int) or v < 1 for v in value):
            raise ConfigError(f"{self.where}.{key}: {value!r} is not a list of whole numbers of at least 1")
        return tuple(value)

    def text(self, key: str, default: str | None = None, *, options: Collection[str] = ()) -> str:
        """A text, one of ``options`` where there are any."""
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise ConfigError(f"{self.where}: needs '{key}'")
        if options and value not in options:
            hint = did_you_mean(value, options) or f"known: {', '.join(options)}"
            raise ConfigError(f"{self.where}.{key}: '{value}' is not known, {hint}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.where}.{key}: {value!r} is neither true nor false")
        return value


def settings_of(where: str, value: object) -> Settings:
    """Settings from a name, a mapping, or the pairs a mapping was frozen into."""
    if isinstance(value, str):
        return Settings(where, {"method": value})
    if isinstance(value, Mapping):
        return Settings(where, value)
    if isinstance(value, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        return Settings(where, {str(key): item for key, item in value})
    raise ConfigError(f"{where}: {value!r} is neither a name nor 'method: NAME' with further keys")

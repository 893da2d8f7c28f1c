"""Reading one Hugging Face ``config.json``: typed access that collects every issue, and the table of families.

Model builders ask for keys with the default of the ``transformers`` library (4.57). A builder never raises: what is
wrong is collected, a harmless stand-in is handed back, and :func:`simulator.workload.hf_config.from_hf_config`
reports everything at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence

from simulator.errors import Issue, IssueCollector
from simulator.workload.model import LayerSpec, ModelSpec

__all__ = ["FAMILIES", "ConfigReader", "family", "layer_runs"]

Builder = Callable[["ConfigReader"], ModelSpec]

FAMILIES: dict[str, Builder] = {}
"""Builder of each ``model_type``; a new family is one function with the :func:`family` decorator."""

_TYPO_RATIO = 0.9


def family(*model_types: str) -> Callable[[Builder], Builder]:
    """Decorator: enter a builder under its ``model_type`` names."""

    def enter(builder: Builder) -> Builder:
        for model_type in model_types:
            FAMILIES[model_type] = builder
        return builder

    return enter


def layer_runs(layers: Iterable[LayerSpec]) -> tuple[tuple[LayerSpec, int], ...]:
    """Run-length form of blocks in order, as :attr:`ModelSpec.layers` wants it."""
    runs: list[tuple[LayerSpec, int]] = []
    for layer in layers:
        if runs and runs[-1][0] == layer:
            runs[-1] = (layer, runs[-1][1] + 1)
        else:
            runs.append((layer, 1))
    return tuple(runs)


class ConfigReader:
    """Typed reads of a ``config.json`` that collect issues instead of raising.

    Parameters
    ----------
    config
        The parsed file, or one of its nested configs.
    name
        Name of the model.
    issues
        Where issues go.
    path
        Dotted path of this config in the document.
    """

    def __init__(self, config: Mapping[str, object], name: str, issues: IssueCollector, path: str = "") -> None:
        self.config = config
        self.name = name
        self.issues = issues
        self.path = path
        self.defaults: dict[str, object] = {}
        self._asked: set[str] = set()

    def add(self, message: str, key: str = "") -> None:
        """Record an issue with ``key``."""
        self.issues.add(message, ".".join(filter(None, (self.path, key))))

    def _raw(self, keys: tuple[str, ...], default: object) -> tuple[str, object]:
        self._asked.update(keys)
        for key in keys:
            if self.config.get(key) is not None:
                return key, self.config[key]
        if not any(key in self.config for key in keys):
            self.defaults[keys[0]] = default
        return keys[0], default

    def integer(self, *keys: str, default: int, minimum: int = 1) -> int:
        """The whole number under the first of ``keys`` that is present (synonyms), else ``default``."""
        key, value = self._raw(keys, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.add(f"{value!r} is not a whole number", key)
            return max(default, minimum)
        if value < minimum:
            self.add(f"{value} must be at least {minimum}", key)
            return max(default, minimum)
        return value

    def flag(self, *keys: str, default: bool) -> bool:
        """The boolean under the first of ``keys`` that is present, else ``default``."""
        key, value = self._raw(keys, default)
        if not isinstance(value, bool):
            self.add(f"{value!r} is neither true nor false", key)
            return default
        return value

    def number(self, *keys: str, default: float) -> float:
        """The number under the first of ``keys`` that is present, else ``default``."""
        key, value = self._raw(keys, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.add(f"{value!r} is not a number", key)
            return default
        return float(value)

    def text(self, *keys: str, default: str) -> str:
        """The string under the first of ``keys`` that is present, else ``default``."""
        key, value = self._raw(keys, default)
        if not isinstance(value, str):
            self.add(f"{value!r} is not text", key)
            return default
        return value

    def items(self, key: str, length: int = 0) -> Sequence[object] | None:
        """The list under ``key``, ``None`` when absent; ``length`` is the number of entries it must have."""
        _, value = self._raw((key,), None)
        if value is None:
            return None
        if not isinstance(value, Sequence) or isinstance(value, str):
            self.add(f"{value!r} is not a list", key)
            return None
        if length and len(value) != length:
            self.add(f"has {len(value)} entries for {length} layers; give one per layer", key)
            return None
        return value

    def layer_types(self, known: Sequence[str], layers: int, default: Sequence[str]) -> Sequence[str]:
        """``layer_types``: one of ``known`` per layer, else ``default``."""
        given = self.items("layer_types", layers)
        if given is None:
            return default
        wrong = sorted({str(t) for t in given} - set(known))
        if wrong:
            self.add(f"unknown layer type {', '.join(wrong)}; known: {', '.join(known)}", "layer_types")
            return default
        return [str(t) for t in given]

    def window(self, default: int = 0) -> int:
        """``sliding_window`` [tokens]; 0 when it is null."""
        if "sliding_window" in self.config and self.config["sliding_window"] is None:
            self._asked.add("sliding_window")
            return 0
        return self.integer("sliding_window", default=default, minimum=0)

    def head_dim(self, hidden_size: int, heads: int, default: int = 0) -> int:
        """``head_dim``; when absent ``default``, or hidden size over heads, which must divide."""
        self._asked.add("head_dim")
        if default or self.config.get("head_dim") is not None:
            return self.integer("head_dim", default=default or 1)
        if hidden_size % heads:
            self.add(f"hidden size {hidden_size} does not divide by {heads} heads; set head_dim", "head_dim")
        return max(hidden_size // heads, 1)

    def key_value_heads(self, heads: int, *keys: str, default: int | None) -> int:
        """Key/value heads (``default`` ``None``: as many as ``heads``); must divide ``heads``."""
        names = keys or ("num_key_value_heads",)
        kv_heads = self.integer(*names, default=heads if default is None else default)
        if heads % kv_heads:
            self.add(f"{kv_heads} key/value heads do not divide {heads} attention heads", names[0])
        return kv_heads

    def sub(self, key: str, defaults: Mapping[str, object]) -> ConfigReader:
        """The nested config ``key``, with the ``defaults`` its parent gives it."""
        _, value = self._raw((key,), {})
        if not isinstance(value, Mapping):
            self.add("is not a mapping", key)
            value = {}
        path = ".".join(filter(None, (self.path, key)))
        return ConfigReader({**defaults, **value}, f"{self.name}/{key}", self.issues, path)

    def typos(self) -> list[Issue]:
        """Keys nobody asked for that look like an absent key somebody did ask for."""
        absent = [key for key in self._asked if key not in self.config]
        found = []
        for key in self.config:
            if key in self._asked or key.startswith("_"):  # underscores mark the library's own bookkeeping
                continue
            near = difflib.get_close_matches(key, absent, n=1, cutoff=_TYPO_RATIO)
            if near:
                path = ".".join(filter(None, (self.path, key)))
                found.append(Issue(self.issues.file, 0, 0, path, f"unknown key '{key}', did you mean '{near[0]}'?"))
        return found

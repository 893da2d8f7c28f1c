"""Names of public models as files and engines spell them, and the shipped model that each means.

``meta-llama/Llama-3.1-70B-Instruct-FP8``, ``Meta-Llama-3.1-70B`` and ``llama3.1-70b`` are one model: case, separators,
the owner of a repository and the words for tuning, number format and date of a checkpoint change no dimension.
"""

from __future__ import annotations

import re
from functools import cache

from simulator.workload.model_files import model_aliases, model_names

__all__ = ["shipped_name"]

TUNING = frozenset(
    ("instruct", "inst", "it", "chat", "base", "hf", "thinking", "reasoning", "preview", "text", "latest", "original",
     "turbo", "dev", "meta", "sft", "dpo", "rlhf")
)  # fmt: skip
"""Words for how a checkpoint was tuned and who tuned it."""

FORMATS = frozenset(
    ("fp8", "fp4", "nvfp4", "mxfp4", "mxfp8", "fp16", "bf16", "f16", "int4", "int8", "w8a8", "w4a16", "w4a8", "w8a16",
     "w4afp8", "4bit", "8bit", "awq", "gptq", "gguf", "dynamic", "static", "kv", "quantized", "quant", "e4m3", "block",
     "blockwise", "ptpc", "marlin", "exl2", "autoround", "bnb")
)  # fmt: skip
"""Words for its number format."""

DATED = re.compile(r"v0(\.\d+)?|\d{4}|\d{6}|\d{8}")
"""``v0.3``, ``2507``, ``0528``, ``20250115``: releases of the same dimensions."""

REMADE = re.compile(r"\bi?q\d_\w+|(?<=fp[48])-v\d\b")
"""``Q4_K_M`` and the second try of a quantisation (``FP4-v2``)."""


def shipped_name(words: str) -> str:
    """The shipped model that is meant, ``""`` where none is.

    A name in full wins over one whose words for tuning, format and date are left out, so that ``t5-base`` stays.
    """
    last = words.strip().rstrip("/").split("/")[-1]
    words_of = re.split(r"[\s_:()-]+|\.(?=[a-z])", REMADE.sub("", last.lower()))
    kept = [w for w in words_of if w and not _said_besides(w)]
    for candidate in (words, last, "-".join(kept)):
        if found := _known().get(_key(candidate)):
            return found
    return ""


def _said_besides(word: str) -> bool:
    return word in TUNING or word in FORMATS or DATED.fullmatch(word) is not None


@cache
def _known() -> dict[str, str]:
    return {_key(a): n for a, n in model_aliases().items()} | {_key(n): n for n in model_names()}


def _key(words: str) -> str:
    """A name without case and separators; a point between digits may be written ``_`` or ``p``.

    ``qwen2_5-7b`` and ``opt-1p3b``, but not ``llama3_70b``, where a size follows.
    """
    pointed = re.sub(r"(?<=\d)(_(?=\d(?![\d.]*b))|p(?=\d))", ".", words.strip().lower())
    return re.sub(r"[^a-z0-9.]", "", pointed)

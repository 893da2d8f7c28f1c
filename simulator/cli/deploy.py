"""Verbs between a plan and what starts it: export."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from simulator.cli.errors import OK
from simulator.cli.options import AsJson, Override, complete_scenario, print_json

__all__ = ["EngineName", "export"]


class EngineName(StrEnum):
    """Whose arguments are written."""

    megatron = "megatron"
    deepspeed = "deepspeed"
    vllm = "vllm"
    sglang = "sglang"
    tensorrt_llm = "tensorrt-llm"


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A scenario, the folder of a run, a row of a sweep (DIR#3), or a saved answer of 'recommend --json'.",
            autocompletion=complete_scenario,
        ),
    ],
    set_: Override = None,
    engine: Annotated[
        EngineName | None, typer.Option("--engine", help="Default: that of the workload's framework.")
    ] = None,
    workload: Annotated[str | None, typer.Option("--workload", "-w", help="Which workload.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Write the files there; default: print them.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Write the chosen plan as arguments of Megatron-LM, DeepSpeed, vLLM, SGLang or TensorRT-LLM."""
    from simulator.errors import ConfigError
    from simulator.scenario.deploy import export_plan

    found = export_plan(source, set_ or (), engine=None if engine is None else engine.value, workload=workload)
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
            for name, text in found.files.items():
                (output / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"'{output}' cannot be written: {error.strerror or error}") from None
    if as_json:
        print_json(found.to_json())
        return OK
    if output is None:
        for name, text in found.files.items():
            if len(found.files) > 1:
                print(f"# --- {name}")
            print(text, end="")
    else:
        print("wrote " + ", ".join(str(output / name) for name in found.files))
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    return OK

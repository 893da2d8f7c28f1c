"""The engines there are, and which of them a framework or a command means."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.errors import ConfigError, unknown_name
from simulator.scenario.deploy import deepspeed, megatron, sglang, tensorrt_llm, vllm
from simulator.scenario.deploy.types import Engine
from simulator.workload.framework import Framework

__all__ = ["ENGINES", "command_of", "engine_named", "engine_of"]

ENGINES: dict[str, Engine] = {
    module.ENGINE.name: module.ENGINE for module in (megatron, deepspeed, vllm, sglang, tensorrt_llm)
}

_MODULES = {
    "torch.distributed.run": "megatron", "torch.distributed.launch": "megatron", "deepspeed": "deepspeed",
    "deepspeed.launcher.runner": "deepspeed", "sglang.launch_server": "sglang",
    "vllm.entrypoints.openai.api_server": "vllm", "vllm.entrypoints.api_server": "vllm",
}  # fmt: skip
_PROGRAMS = {"torchrun": "megatron", "deepspeed": "deepspeed", "trtllm-serve": "tensorrt-llm"}


def engine_named(name: str, area: str) -> Engine:
    """The engine of a name, for workloads of an area.

    Raises
    ------
    ConfigError
        If there is none, or it is for the other area.
    """
    fitting = [n for n, engine in ENGINES.items() if engine.area == area]
    if name not in ENGINES:
        raise ConfigError(unknown_name("engine", name, fitting))
    if ENGINES[name].area != area:
        raise ConfigError(f"{name} is for {ENGINES[name].area}, this workload is {area}: use {' or '.join(fitting)}")
    return ENGINES[name]


def engine_of(framework: Framework) -> Engine:
    """The engine that a framework file describes; Megatron-LM or vLLM where that is not one of these."""
    for name, engine in ENGINES.items():
        if framework.name.startswith(name.split("-")[0]) and engine.area == framework.area:
            return engine
    return ENGINES["megatron" if framework.area == "training" else "vllm"]


def command_of(statement: Sequence[str]) -> tuple[Engine, list[str]] | None:
    """Engine and words after its program of a command; None where it starts none of them."""
    for i, word in enumerate(statement):
        program = word.rpartition("/")[2]
        following = statement[i + 1 :]
        if program in _PROGRAMS:
            return ENGINES[_PROGRAMS[program]], list(following)
        if program in ("vllm", "sglang") and following[:1] == ["serve"]:
            return ENGINES[program], list(following[1:])
        if word == "-m" and following and following[0] in _MODULES:
            return ENGINES[_MODULES[following[0]]], list(following[1:])
    return None

"""Exported arguments are read by the engines' own parsers, and the flags we know are flags that they have.

Skipped where an engine is not installed: its package alone is enough (``pip install --no-deps vllm==0.10.1``,
``sglang==0.4.10``, ``deepspeed==0.17.0`` and what they import), no accelerator is needed.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings

from simulator.scenario.deploy import ENGINES, export_plan
from simulator.scenario.deploy.shell import statements
from simulator.scenario.deploy.writing import LAUNCH
from tests.exported_plans import deployments, training_plans


def parser_of(engine: str) -> argparse.ArgumentParser:
    """The parser of the installed engine."""
    if engine == "vllm":
        platforms = pytest.importorskip("vllm.platforms")
        from vllm.platforms.cpu import CpuPlatform

        platforms._current_platform = CpuPlatform()  # it would look for a device, and parsing needs none
        from vllm.entrypoints.openai.cli_args import make_arg_parser
        from vllm.utils import FlexibleArgumentParser

        parser: argparse.ArgumentParser = make_arg_parser(FlexibleArgumentParser())
        return parser
    server_args = pytest.importorskip("sglang.srt.server_args")
    parser = argparse.ArgumentParser()
    server_args.ServerArgs.add_cli_args(parser)
    return parser


def words(document: Any, engine: str) -> list[str]:
    """The arguments after the command's name."""
    (command,) = statements(export_plan(document, engine=engine).files[LAUNCH])
    return command[2:] if engine == "vllm" else command[3:]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@settings(max_examples=40, deadline=None)
@given(document=deployments())
def test_the_engine_reads_what_is_exported(engine: str, document: dict[str, Any]) -> None:
    parsed = vars(parser_of(engine).parse_args(words(document, engine)))
    wanted = document["workloads"][0]["deployment"]
    names = {
        "vllm": {"tensor_parallel_size": "tp", "max_num_batched_tokens": "budget", "max_num_seqs": "seqs",
                 "max_model_len": "length", "block_size": "block", "gpu_memory_utilization": "memory"},
        "sglang": {"tp_size": "tp", "chunked_prefill_size": "budget", "max_running_requests": "seqs",
                   "context_length": "length", "page_size": "block", "mem_fraction_static": "memory"},
    }[engine]  # fmt: skip
    ours = {
        "tp": wanted["plan"]["tensor_parallel"], "budget": wanted["max_batched_tokens"], "seqs": wanted["max_num_seqs"],
        "length": wanted["max_model_len"], "block": wanted["block_size"], "memory": wanted["memory_utilization"],
    }  # fmt: skip
    names = {("tensor_parallel_size" if n == "tp_size" and "tp_size" not in parsed else n): k for n, k in names.items()}
    assert {key: parsed[name] for name, key in names.items()} == ours


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_flags_we_know_are_those_of_the_engine(engine: str) -> None:
    parser = parser_of(engine)
    theirs = {option for action in parser._actions for option in action.option_strings}
    known = ENGINES[engine]
    ours = {name for flag in known.flags for name in (flag.name, *flag.aliases)} | {*known.known, *known.unmodelled}
    # Parsers take the beginning of a name as well, where it begins no other (SGLang's --tp).
    strange = [name for name in sorted(ours - theirs) if sum(their.startswith(name) for their in theirs) != 1]
    assert not strange, f"{engine} {version(engine)} has no {strange}"


@settings(max_examples=40, deadline=None)
@given(document=training_plans())
def test_deepspeed_reads_its_configuration_and_launcher_arguments(document: dict[str, Any]) -> None:
    config = pytest.importorskip("deepspeed.runtime.config")
    from deepspeed import comm
    from deepspeed.launcher.runner import parse_args

    files = export_plan(document, engine="deepspeed").files
    written = json.loads(files["ds_config.json"])
    job = document["workloads"][0]
    comm.get_rank, ranks = lambda: 0, job["plan"]["data_parallel"]
    read = config.DeepSpeedConfig(written, mpu=SimpleNamespace(get_data_parallel_world_size=lambda: ranks))
    assert read.train_batch_size == job["batch"]["global_batch_size"]
    assert read.train_micro_batch_size_per_gpu == job["batch"]["micro_batch_size"]
    assert read.zero_config.stage == job["plan"]["zero_stage"]
    assert (read.zero_config.offload_optimizer is not None) == (job["plan"]["offload"] == "zero-offload")
    precision = job["plan"]["precision"]
    assert (bool(read.bfloat16_enabled), bool(read.fp16_enabled)) == (precision == "bf16", precision == "fp16")
    (command,) = statements(files[LAUNCH])
    launched = parse_args(command[1:])
    assert launched.num_nodes * launched.num_gpus == 64
    assert launched.user_script == "pretrain_gpt.py"

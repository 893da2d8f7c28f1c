"""Tables of measured training steps, each recognised by its header.

========================  =====================================================================================
header                    what is filled in
========================  =====================================================================================
vTrain                    Megatron-DeepSpeed on A100: full recomputation, 1F1B (its README); vocabulary of GPT-2
nanotron                  H100, bf16, sequence parallel, no recomputation, flash attention, gradients in fp32
SimuMax                   Megatron-Core on B200 without overlap of communication; models by name
Rapid-LLM                 Llama-2-7B on 4 A100, 128 sequences of 4096 tokens; the way of sharding by ``variant``
========================  =====================================================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from simulator.validation.cases import Case, Labels, Measurement, Reading, Skipped, Subject
from simulator.validation.hardware import cluster_of
from simulator.validation.labels import scale_label, strategy_label
from simulator.validation.model_names import shipped_name
from simulator.validation.models import IncompleteError, gpt_model, llama_model
from simulator.validation.plans import framework_of
from simulator.validation.records import amount, read_each, whole
from simulator.validation.training_launches import with_launch_options
from simulator.workload.counting import parameters
from simulator.workload.framework import Framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model import ModelSpec
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan

__all__ = ["TABLES", "read_table"]

Row = Mapping[str, str]

GIB, MILLISECOND = 2.0**30, 1e-3

FFN = {2048: 8192, 3072: 8192, 4096: 14336, 8192: 28672, 16384: 53248}
"""Feed-forward widths of Llama-shaped models by hidden size, where a table leaves them out."""


def _case(
    name: str,
    row: Row,
    file: str,
    source: str,
    gpu: str,
    job_parts: tuple[ModelSpec, Batch, Plan, Framework],
    measured: tuple[Measurement, ...],
    sweep: str,
    assumed: list[str],
    network: str = "",
    grade: str = "A",
    node: str = "",
) -> Case:
    model, batch, plan, framework = job_parts
    cluster, about = cluster_of(node or gpu, plan.accelerators, 0, network)
    labels = Labels(
        source, gpu, model.name, model.family, framework.name, plan.precision, scale_label(plan.accelerators, 8),
        strategy_label(plan), row.get("quality") or grade, sweep,
    )  # fmt: skip
    job = TrainingJob(name, model, framework, batch, plan)
    return Case(
        name, file, row.get("split") or "dev", labels, Subject("training", cluster, job), measured, (*assumed, *about)
    )


COMPOSED = "not timed as a step: composed of profiled layers and of the all-reduces of the repository's table"
"""What vTrain's steps on one node are. They are affine in layers and micro-batches to 1e-6, and two of them that differ
in the data-parallel degree alone differ by exactly the repository's own table of all-reduces
(benchmarks/fits/composed_steps.py)."""


def _vtrain(row: Row, file: str, index: int) -> Case:
    hidden, heads, layers, sequence = whole(row, "hidden", "heads", "layers", "seq_len")
    tp, dp, pp = whole(row, "tp", "dp", "pp")
    gpus, total, micro = whole(row, "gpus", "global_batch", "micro_batch")
    seconds = amount(row, "step_ms") * MILLISECOND
    if tp * dp * pp != gpus:
        raise IncompleteError(f"tp × dp × pp = {tp * dp * pp} but {gpus} GPUs")
    framework, assumed = framework_of("vTrain", {"flash_attention": False})
    plan = Plan(tensor_parallel=tp, data_parallel=dp, pipeline_parallel=pp, recompute="full", precision="fp16")
    model = gpt_model(f"GPT h{hidden} L{layers}", layers, hidden, heads, sequence, 51200)
    batch = Batch(total, micro, sequence)
    assumed += ["vocabulary 51200", "fp16", "800 Gb/s per node between nodes (the repository's configuration)"]
    composed = gpus <= 8
    assumed += [COMPOSED] * composed
    source = f"vTrain {'one node' if composed else 'multi-node'}"
    sweep = f"{source}|{hidden}|{layers}|{heads}|{gpus}|{total}"
    measured = (Measurement("training_step_time", seconds, "step"), Measurement("fits", 1.0))
    gpu = row.get("gpu") or "A100-80GB"
    return _case(f"vtrain_{gpus}gpu_{index}", row, file, source, gpu, (model, batch, plan, framework), measured, sweep,
                 assumed, "4x 200 Gb/s HDR InfiniBand per node", "C" if composed else "A")  # fmt: skip


CHECKED_BELOW = 440.0
"""Bus bandwidth of all-reduces inside a node, timed in the job [GB/s]. Runs of nanotron's sweep have 449 to 462 or 401
to 432. In the second state every collective takes 0.3 ms longer per rank, as under ``TORCH_DISTRIBUTED_DEBUG=DETAIL``,
which one version of the repository's ``run_multinode.sh`` sets (docs/decisions/0022-host-time-is-counted.md)."""


BROKEN_BELOW = 100.0
"""The same bandwidth [GB/s] of twelve pipelined runs without NVLink between the GPUs of a node (45). Flagged before or
after the pipeline fix, they take the same 0.5 s longer per micro-batch with two stages and 0.9 s with more."""


def _nanotron(row: Row, file: str, index: int) -> Case:
    hidden, layers, heads = whole(row, "hidden", "layers", "heads")
    tp, dp, pp, gpus = whole(row, "tp", "dp", "pp", "gpus")
    if hidden not in FFN:
        raise IncompleteError(f"feed-forward width not stated for hidden size {hidden}")
    vocab, micro, steps = whole(row, "vocab", "micro_batch", "grad_accum")
    [groups], [stage] = whole(row, "kv_heads", default=heads), whole(row, "zero_stage", least=0)
    if tp * dp * pp != gpus:
        raise IncompleteError(f"tp × dp × pp = {tp * dp * pp} but {gpus} GPUs")
    shape = (layers, hidden, heads, groups, FFN[hidden], vocab, 4096)
    models = [llama_model(f"Llama {row['params_b']}B", *shape, tied=tied) for tied in (True, False)]
    stated = row.get("tied_embeddings")
    size = amount(row, "params_b") * 1e9
    model = models[stated != "True"] if stated else min(models, key=lambda m: abs(parameters(m) - size))
    fixed = row.get("after_pp_fix", "True") == "True"
    inside = amount(row, "allreduce_intra_gbps") if row.get("allreduce_intra_gbps") else math.inf
    framework, assumed = framework_of(
        "nanotron" if fixed and inside >= BROKEN_BELOW else "nanotron-2024", {"flash_attention": True}
    )
    if inside < BROKEN_BELOW:
        assumed.append(f"{inside:.0f} GB/s between GPUs of a node: pipeline messages wait as before the fix")
    if inside < CHECKED_BELOW:
        framework = replace(framework, checked_collectives=True)
        assumed.append("collectives checked on the host (TORCH_DISTRIBUTED_DEBUG): those timed inside the job are slow")
    plan = Plan(tensor_parallel=tp, data_parallel=dp, pipeline_parallel=pp, sequence_parallel=tp > 1,
                zero_stage=stage, precision="bf16")  # fmt: skip
    batch = Batch(dp * micro * steps, micro, 4096)
    ran = row["status"].lower() == "success"
    measured: list[Measurement] = [Measurement("fits", float(ran))]
    if ran:
        seconds = batch.tokens / (amount(row, "tokens_per_s_per_gpu") * gpus)
        measured.append(Measurement("training_step_time", seconds, "step"))
        # nanotron logs rank 0, which is on the first stage, in GiB (src/nanotron/helpers.py); mem_alloc is the peak
        # after the backward, without activations.
        if row.get("mem_reserved_gb"):
            measured.append(Measurement("training_memory", amount(row, "mem_reserved_gb") * GIB, "reserved_first"))
    fixed = fixed or pp == 1
    source = "nanotron sweep" if fixed else "nanotron sweep, pipeline rows before the fix"
    assumed += ["feed-forward width by hidden size (Llama)", "sequence 4096"]
    assumed += ["as many key-value heads as heads, tied embeddings by the parameter count"] * (not row.get("kv_heads"))
    sweep = f"{source}|{row['params_b']}|{gpus}|{batch.global_batch_size}"
    return _case(
        f"nanotron_{index}",
        row,
        file,
        source,
        "H100-80GB",
        (model, batch, plan, framework),
        tuple(measured),
        sweep,
        [*assumed, "AWS p5 nodes with EFA (the cluster of the Ultra-Scale Playbook)"],
        grade="A" if fixed else "C",
        node="aws-p5",
    )


def named_model(name: str, layers: int) -> ModelSpec:
    """A shipped model by the name a table uses, cut to ``layers`` layers (each kind keeps its order).

    Raises
    ------
    IncompleteError
        If there is no such model.
    """
    shipped = shipped_name(name)
    if not shipped:
        raise IncompleteError(f"no public configuration of '{name}' is shipped")
    model = load_model(shipped)
    if layers > model.num_hidden_layers:
        raise IncompleteError(f"{layers} layers, but {shipped} has {model.num_hidden_layers}")
    kept = model.layer_list()[:layers]
    runs = tuple((layer, kept.count(layer)) for layer in dict.fromkeys(kept))
    # Benchmarks of cut models train the next token alone unless they say otherwise.
    return replace(model, name=f"{name} {layers} layers", layers=runs, num_nextn_predict_layers=0)


def _simumax(row: Row, file: str, index: int) -> Case:
    degrees = ("tp", "pp", "cp", "ep", "dp")
    sizes = dict(zip(degrees, whole(row, *degrees), strict=True))
    layers, micro, steps, sequence = whole(row, "layers", "micro_batch", "micro_batches", "seq_len")
    fused = ", fused cross-entropy" * row["case"].endswith("_cef")
    record = {"flash_attention": True, "notes": f"no communication overlap{fused}"}
    framework, assumed = framework_of("SimuMax", record)
    model = named_model(row["model"], layers)
    recompute = "full" if re.search(r"full_?recompute|_fr\b", row["case"]) else "none"
    chunks = int(match[1]) if (match := re.search(r"_vp(\d+)", row["case"])) else 1
    plan = Plan(
        tensor_parallel=sizes["tp"], pipeline_parallel=sizes["pp"], context_parallel=sizes["cp"],
        expert_parallel=sizes["ep"], data_parallel=sizes["dp"],
        sequence_parallel=sizes["tp"] > 1, zero_stage=1, precision="bf16", recompute=recompute, virtual_stages=chunks,
        schedule="interleaved-1f1b" if chunks > 1 else "1f1b",
    )  # fmt: skip
    batch = Batch(micro * steps * plan.data_parallel, micro, sequence)
    measured = (
        Measurement("training_step_time", amount(row, "step_ms") * MILLISECOND, "step"), Measurement("fits", 1.0),
        Measurement("training_memory", amount(row, "peak_alloc_gib") * GIB, "allocated"),
        Measurement("training_memory", amount(row, "peak_reserved_gib") * GIB, "reserved"),
    )  # fmt: skip
    plan, launched = with_launch_options(plan, "SimuMax")
    assumed += ["sequence parallel, distributed optimizer, no overlap (SimuMax's notes)", *launched]
    return _case(
        f"simumax_{row['case']}",
        row,
        file,
        "SimuMax B200",
        "B200-180GB",
        (model, batch, plan, framework),
        measured,
        f"simumax|{row['model']}|{row['layers']}|{batch.tokens}",
        assumed,
    )


def _rapid(row: Row, file: str, index: int) -> Case:
    tp, pp, cp, dp = whole(row, "tp", "pp", "cp", "dp")
    framework, assumed = framework_of("imec", {"flash_attention": True})
    sharded = "FSDP" in row["variant"]
    plan = Plan(
        tensor_parallel=tp, pipeline_parallel=pp, context_parallel=cp, data_parallel=dp, sequence_parallel=tp > 1,
        zero_stage=3 if sharded else 0, precision="bf16" if sharded else "bf16-pure",
        options=(("sharding", "fsdp"),) if sharded else (),
    )  # fmt: skip
    batch = Batch(128, 1, 4096)
    # The repository's own model of these runs (validation_scripts/uci_train_lime.py @173a765): a ring of four cards
    # with two NVLink and two PCIe links, micro-batch 1, 128 sequences per step. Which program ran is not said.
    assumed += ["A100 PCIe with a bridge on each pair: two NVLink and two PCIe links (uci_train_lime.py)"]
    assumed += ["sequence parallel with tensor parallel", "mixed bf16 (FSDP)" if sharded else
                "parameters, gradients and moments in bf16 (DDP): a replica of 7 B ran in 80 GB"]  # fmt: skip
    measured = (Measurement("training_step_time", amount(row, "step_s"), "step"), Measurement("fits", 1.0))
    return _case(
        f"rapid_llm_{index}",
        row,
        file,
        "Rapid-LLM",
        "A100-80GB PCIe",
        (load_model("llama-2-7b"), batch, plan, framework),
        measured,
        "rapid-llm",
        assumed,
        grade="C",
        node="a100-pcie-bridged-4x",
    )


TABLES: tuple[tuple[frozenset[str], Callable[[Row, str, int], Case]], ...] = (
    (frozenset({"params_b", "tokens_per_s_per_gpu", "grad_accum", "zero_stage", "status"}), _nanotron),
    (frozenset({"case", "peak_alloc_gib", "peak_reserved_gib", "step_ms"}), _simumax),
    (frozenset({"variant", "tp", "pp", "cp", "dp", "step_s"}), _rapid),
    (frozenset({"gpus", "global_batch", "micro_batch", "hidden", "heads", "layers", "seq_len", "step_ms"}), _vtrain),
)
"""Columns that a table must have → how its rows are read; the first match counts."""


def read_table(rows: Sequence[Row], make: Callable[[Row, str, int], Case], file: str) -> Reading:
    """Every row of a table."""
    reading = Reading()

    def skipped(numbered: tuple[int, Row], reason: str) -> Skipped:
        index, row = numbered
        name = row.get("case") or f"{file}:{index + 2}"
        return Skipped(name, file, row.get("split") or "dev", file, "table", reason)

    read_each(reading, enumerate(rows), lambda numbered: make(numbered[1], file, numbered[0]), skipped)
    return reading
